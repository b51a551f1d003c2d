"""Tables: what is read, and that each rule names file, line and remedy."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from directories import IMAGES, change, problems_of_test, problems_of_train, train_rows, write_directory, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biomass_models.data.problems import DataError, errors_of
from biomass_models.data.table import (
    METADATA,
    TRAIN_COLUMNS,
    masses_to_long,
    read_masses,
    read_test,
    read_test_rows,
    read_train,
)
from biomass_models.targets import TARGETS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "data")


def test_reads_the_competitions_layout(root: Path) -> None:
    assert problems_of_train(root) == [] and problems_of_test(root) == []
    wide = read_train(root)
    assert list(wide.columns) == ["image_id", "image_path", *METADATA, *TARGETS]
    assert wide["image_id"].tolist() == ["ID11", "ID12", "ID13"]
    first = wide.iloc[0]
    assert first["Sampling_Date"] == pd.Timestamp(2015, 9, 4) and first["State"] == "Tas"
    assert first["image_path"] == "train/ID11.jpg" and first["Height_Ave_cm"] == 4.6667
    np.testing.assert_allclose(wide.loc[0, list(TARGETS)].astype(float), [16.2751, 31.9984, 0, 16.2751, 48.2735])
    assert all(wide[name].dtype == np.float64 for name in (*TARGETS, "Pre_GSHH_NDVI", "Height_Ave_cm"))
    assert read_test(root).to_dict("list") == {
        "image_id": ["ID92", "ID91"],
        "image_path": ["test/ID92.jpg", "test/ID91.jpg"],
    }
    rows = read_test_rows(root)
    assert rows["sample_id"].tolist()[:2] == ["ID92__Dry_Total_g", "ID92__GDM_g"]
    assert list(rows.columns) == ["sample_id", "image_id", "target_name"]


def test_order_of_rows_does_not_matter_but_for_the_order_of_images(root: Path) -> None:
    expected = read_train(root)
    rows = train_rows()
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    write_rows(root / "train.csv", TRAIN_COLUMNS, shuffled)
    got = read_train(root)
    assert got["image_id"].tolist() == list(dict.fromkeys(row[0].split("__")[0] for row in shuffled))
    pd.testing.assert_frame_equal(got.sort_values("image_id", ignore_index=True), expected)


def test_dialects_of_csv_read_alike(root: Path) -> None:
    expected = read_train(root)
    path = root / "train.csv"
    lines = path.read_text().splitlines()
    # byte order mark, Windows line ends, quotes, spaces, blank lines, a column more, ISO dates
    quoted = [",".join(f'"{cell}" '.strip() for cell in line.split(",")) + ', "x, y"' for line in lines]
    quoted = [line.replace(', "x', ',"x').replace("2015/9/4", "2015-09-04") for line in quoted]
    path.write_bytes(("\ufeff" + "\r\n\r\n".join(quoted) + "\r\n\r\n").encode())
    pd.testing.assert_frame_equal(read_train(root), expected)
    change_at = path.read_text(encoding="utf-8-sig").replace('"16.2751"', '"oops"')
    path.write_text(change_at)
    rows = [problem.row for problem in problems_of_train(root)]
    assert rows == [3, 9]  # blank lines are counted: lines are those that an editor shows


def test_lines_are_counted_over_cells_with_line_breaks(root: Path) -> None:
    path = root / "train.csv"
    lines = path.read_text().splitlines()
    noted = [lines[0] + ",note"] + [line + ',"seen\nfrom above"' for line in lines[1:]]
    path.write_text("\n".join(noted))
    assert problems_of_train(root) == []
    path.write_text("\n".join(noted).replace("16.2751", "-16.2751"))
    assert [problem.row for problem in errors_of(problems_of_train(root))] == [2, 8]  # each row takes two lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "column", "value", "rule"),
    [
        (4, "target", "", "target is a finite number"),
        (4, "target", "1;5", "target is a finite number"),
        (4, "target", "-0.1", "of at least 0"),
        (4, "target", "nan", "finite"),
        (4, "target", "inf", "finite"),
        (4, "target", "1e999", "finite"),
        (4, "Sampling_Date", "2015/2/30", "day of the calendar"),
        (4, "Sampling_Date", "4/9/2015", "year first"),
        (4, "Pre_GSHH_NDVI", "n/a", "Pre_GSHH_NDVI is a finite number"),
        (4, "Pre_GSHH_NDVI", "62", "in [-1, 1]"),
        (4, "Height_Ave_cm", "-1", "Height_Ave_cm is a finite number of at least 0"),
        (4, "State", "", "State must not be empty"),
        (4, "State", "Vic", "agree on State"),
        (4, "Species", "Lucerne", "agree on Species"),
        (4, "Sampling_Date", "2015/9/5", "agree on Sampling_Date"),
        (4, "Height_Ave_cm", "5", "agree on Height_Ave_cm"),
        (4, "image_path", "train/other.jpg", "agree on image_path"),
        (4, "image_path", "../ID11.jpg", "inside the data directory"),
        (4, "image_path", "train/../../ID11.jpg", "inside the data directory"),
        (4, "image_path", "/etc/passwd", "inside the data directory"),
        (4, "image_path", "C:\\ID11.jpg", "inside the data directory"),
        (4, "image_path", "", "names a file"),
        (4, "image_path", "train/ID12.jpg", "agree on image_path"),
        (4, "target_name", "Dry_Dead_g", "target_name repeats"),
        (4, "sample_id", "ID11_Dry_Clover_g", "sample_id is"),
        (4, "sample_id", "ID11__Dry_Purple_g", "a target is one of"),
        (4, "sample_id", "../ID11__Dry_Clover_g", "can be a file name"),
        (4, "sample_id", ".ID11__Dry_Clover_g", "can be a file name"),
        (4, "sample_id", "ID11__GDM_g", "target_name repeats"),
        (4, "sample_id", "ID11__Dry_Clover_g,7", "as many cells as the header"),
    ],
)
def test_a_bad_cell_is_reported_with_its_line(root: Path, line: int, column: str, value: str, rule: str) -> None:
    change(root, line, column, value)
    problems = errors_of(problems_of_train(root))
    hits = [problem for problem in problems if rule in problem.rule]
    assert [(problem.file, problem.row) for problem in hits] == [("train.csv", line)], problems
    assert hits[0].got and hits[0].remedy
    with pytest.raises(DataError) as caught:
        read_train(root)
    assert [p for p in caught.value.problems if rule in p.rule] == hits


def test_equal_numbers_written_differently_agree(root: Path) -> None:
    change(root, 4, "Pre_GSHH_NDVI", "0.620")
    change(root, 4, "Sampling_Date", "2015-09-04")
    assert problems_of_train(root) == []


def test_duplicate_and_missing_rows(root: Path) -> None:
    rows = train_rows()
    write_rows(
        root / "train.csv", TRAIN_COLUMNS, rows[:7] + rows[8:] + [rows[0]]
    )  # ID12 lacks clover, ID11 green twice
    problems = problems_of_train(root)
    assert [(problem.row, problem.rule) for problem in problems] == [
        (7, "an image has all 5 targets"),
        (16, "an (image, target) pair appears once"),
    ]
    assert "Dry_Clover_g" in problems[0].got and "line 2" in problems[1].got


def test_one_photograph_for_two_images(root: Path) -> None:
    for line in range(7, 12):
        change(root, line, "image_path", "train/ID11.jpg")
    (problem,) = problems_of_train(root)
    assert problem.row == 7 and "one image id" in problem.rule and problem.level == "error"


def test_warnings_do_not_stop_reading(root: Path) -> None:
    change(root, 6, "target", "48.6")  # Total off by 0.33 g
    for line in range(12, 17):
        change(root, line, "Species", "Purpleweed_Clover")
    problems = problems_of_train(root)
    assert [(problem.level, problem.row) for problem in problems] == [("warning", 2), ("warning", 12)]
    assert "0.3265 g" in problems[0].got and "Purpleweed" in problems[1].got and "Clover" not in problems[1].got
    assert len(read_train(root)) == 3
    change(root, 6, "target", "48.28")  # rounding is no reason to warn
    assert len(problems_of_train(root)) == 1


def test_everything_is_reported_at_once(root: Path) -> None:
    change(root, 3, "target", "x")
    change(root, 8, "Sampling_Date", "soon")
    change(root, 13, "image_path", "/a.jpg")
    lines = [problem.row for problem in errors_of(problems_of_train(root))]
    assert {3, 8, 13} <= set(lines)
    with pytest.raises(DataError) as caught:
        read_train(root)
    assert all(f"train.csv:{line}:" in str(caught.value) for line in (3, 8, 13))


def test_long_lists_are_grouped_and_cut_in_the_text_only(root: Path) -> None:
    images = tuple((f"ID{i}", *IMAGES[0][1:]) for i in range(20))
    rows = [[*row[:-1], "?"] for row in train_rows(images)]
    write_rows(root / "train.csv", TRAIN_COLUMNS, rows)
    with pytest.raises(DataError) as caught:
        read_train(root)
    assert len(caught.value.problems) == 100
    alike = "train.csv: error: 100 rows: target is a finite number of at least 0; got '?', first in line 2; mend"
    assert str(caught.value).startswith(alike) and "\n" not in str(caught.value)
    kinds = [replace(caught.value.problems[0], rule=f"rule {number}") for number in range(100)]
    assert str(DataError(kinds)).startswith("100 problems in the data:") and str(DataError(kinds)).endswith(
        "and 50 more"
    )
    again = copy.copy(caught.value)  # by __reduce__, as it travels between processes
    assert again.problems == caught.value.problems


def test_missing_columns_are_all_named_and_other_rules_still_apply(root: Path) -> None:
    path = root / "train.csv"
    frame = pd.read_csv(path, dtype=str)
    frame.loc[2, "target"] = "?"
    frame.drop(columns=["State", "Pre_GSHH_NDVI"]).to_csv(path, index=False)
    problems = problems_of_train(root)
    assert [(problem.row, problem.rule) for problem in problems] == [
        (1, "column State is required"),
        (1, "column Pre_GSHH_NDVI is required"),
        (4, "target is a finite number of at least 0"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n\n",
        b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(range(256)) * 20,
        "sample_id,target\n".encode("utf-16"),
        b"sample_id,target\n",
        b",,,\n,,,\n",
        b'"sample_id,image_path\n1,2\n3,4',
        b"sample_id;image_path;target_name;target\nID__GDM_g;a;GDM_g;3\n",
        b"\x00" * 5000,
        b"target,target,sample_id\n1,2,3\n",
        b"no header here\n1\n",
    ],
)
def test_rubbish_is_reported_not_raised(root: Path, content: bytes) -> None:
    for name in ("train.csv", "test.csv"):
        (root / name).write_bytes(content)
    assert errors_of(problems_of_train(root)) and errors_of(problems_of_test(root))
    for read in (read_train, read_test, read_test_rows):
        with pytest.raises(DataError):
            read(root)
    with pytest.raises(DataError):
        read_masses(root / "train.csv")


@pytest.mark.slow
@given(content=st.one_of(st.binary(max_size=300), st.text(alphabet='a_,"\n\r/.-0123456789 é', max_size=300)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_reported_not_raised(tmp_path: Path, content: bytes | str) -> None:
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / "train.csv").write_bytes(",".join(TRAIN_COLUMNS).encode() + b"\n" + raw)
    (tmp_path / "test.csv").write_bytes(raw)
    assert errors_of(problems_of_train(tmp_path)) and errors_of(problems_of_test(tmp_path))


def test_a_missing_file_or_directory(tmp_path: Path) -> None:
    (problem,) = problems_of_train(tmp_path / "nowhere")
    assert problem.file == "train.csv" and problem.row is None and "no such file" in problem.got


def test_a_test_table_may_name_quadrats(root: Path) -> None:
    table = pd.read_csv(root / "test.csv", dtype=str)
    table.assign(quadrat="q7").to_csv(root / "test.csv", index=False)
    assert read_test(root)["quadrat"].tolist() == ["q7", "q7"] and problems_of_test(root) == []
    table.assign(quadrat=["q7", "q8", *["q7"] * 8]).to_csv(root / "test.csv", index=False)
    (problem,) = problems_of_test(root)
    assert problem.row == 3 and "the rows of an image agree on quadrat" in str(problem)
    table.assign(quadrat=["", *["q7"] * 9]).to_csv(root / "test.csv", index=False)
    assert "quadrat must not be empty" in str(problems_of_test(root)[0])


def test_test_table_needs_three_columns_and_all_rows(root: Path) -> None:
    assert problems_of_test(root) == []
    path = root / "test.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[1]]))
    rules = [(problem.row, problem.rule) for problem in problems_of_test(root)]
    assert rules == [(7, "an image has all 5 targets"), (11, "an (image, target) pair appears once")]


def test_masses_make_the_round_trip(root: Path, tmp_path: Path) -> None:
    wide = read_train(root)
    path = tmp_path / "truth.csv"
    long = masses_to_long(wide)
    assert list(long.columns) == ["sample_id", "target"] and long["sample_id"][5] == "ID12__Dry_Green_g"
    long.sample(frac=1, random_state=0).to_csv(path, index=False)
    again = read_masses(path).loc[wide["image_id"]]
    assert list(again.columns) == list(TARGETS)
    np.testing.assert_array_equal(again.to_numpy(), wide[list(TARGETS)].to_numpy())
    pd.testing.assert_frame_equal(masses_to_long(again), long)
    with pytest.raises(ValueError, match="GDM_g missing"):
        masses_to_long(wide.drop(columns="GDM_g"))


def test_negative_masses_are_refused_unless_asked_for(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "prediction.csv"
    long = masses_to_long(read_train(root))
    long.loc[3, "target"] = -2.5
    long.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"prediction\.csv:5: error: target .* at least 0; got '-2\.5'"):
        read_masses(path)
    assert read_masses(path, allow_negative=True).loc["ID11", "GDM_g"] == -2.5
