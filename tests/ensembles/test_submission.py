"""Submissions: written in test.csv's order; every kind of mistake is found, all at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_libraries import truth_frame

from biomass_models.errors import UserError
from biomass_models.targets import TARGETS
from ensembles.submission import check_submission, require_valid, submission_bytes


@pytest.fixture
def valid(tmp_path):
    """A data directory whose test.csv has its rows in a wild order, masses for it, and a valid submission."""
    masses = truth_frame(8)[["image_id", *TARGETS]]
    rows = pd.DataFrame(
        [(f"{i}__{t}", f"test/{i}.jpg", t) for i in masses["image_id"] for t in TARGETS],
        columns=["sample_id", "image_path", "target_name"],
    ).sample(frac=1, random_state=0)
    rows.to_csv(tmp_path / "test.csv", index=False)
    path = tmp_path / "out" / "submission.csv"
    path.parent.mkdir()
    path.write_bytes(submission_bytes(rows, masses))
    return tmp_path, rows, masses, path


def test_rows_stand_in_test_csvs_order_with_their_masses(valid):
    data_dir, rows, masses, path = valid
    assert check_submission(path, data_dir) == []
    written = pd.read_csv(path)
    assert list(written.columns) == ["sample_id", "target"]
    assert list(written["sample_id"]) == list(rows["sample_id"])
    by_image = masses.set_index("image_id")
    for sample_id, target in written.itertuples(index=False):
        image_id, name = sample_id.split("__")
        assert target == pytest.approx(by_image.loc[image_id, name], abs=1e-6)
    assert path.read_bytes() == submission_bytes(rows, by_image)


def test_masses_that_cannot_be_submitted_are_refused(valid):
    _, rows, masses, _ = valid
    with pytest.raises(ValueError, match="5 have none"):
        submission_bytes(rows, masses.iloc[1:])
    for column, value in (("Dry_Dead_g", -1.0), ("Dry_Dead_g", np.nan), ("GDM_g", 1e6)):
        broken = masses.copy()
        broken.loc[2, column] = value
        with pytest.raises(ValueError, match="project_coherent"):
            submission_bytes(rows, broken)


def test_a_submission_is_refused_before_it_has_its_name(valid, monkeypatch, tmp_path):
    data_dir, _, _, path = valid
    content = path.read_bytes()
    require_valid(content, path.name, data_dir)
    torn = content.rsplit(b"\n", 2)[0] + b"\n"
    said = r"submission\.csv does not pass the validator, nothing was written: .*its mass"
    with pytest.raises(UserError, match=said):
        require_valid(torn, path.name, data_dir)
    assert path.read_bytes() == content


def swap(lines):
    return [lines[0], lines[2], lines[1], *lines[3:]]


@pytest.mark.parametrize(
    ("breaks", "rule", "row", "level"),
    [
        (lambda lines: lines[:-1], "each row of test.csv has its mass", None, "error"),
        (lambda lines: [*lines, lines[4]], "a sample_id appears once", 42, "error"),
        (lambda lines: [*lines, "other__GDM_g,1"], "a sample_id is one of test.csv's", 42, "error"),
        (lambda lines: [*lines[:3], lines[3].split(",")[0] + ",", *lines[4:]], "a mass is a finite number", 4, "error"),
        (
            lambda lines: [*lines[:3], lines[3].split(",")[0] + ",inf", *lines[4:]],
            "a mass is a finite number",
            4,
            "error",
        ),
        (
            lambda lines: [*lines[:3], lines[3].split(",")[0] + ",-3", *lines[4:]],
            "a mass is not negative",
            4,
            "warning",
        ),
        (
            lambda lines: [*lines[:3], lines[3].split(",")[0] + ",999", *lines[4:]],
            "GDM = Green + Clover",
            None,
            "warning",
        ),
        (swap, "rows stand in the order of test.csv", 2, "warning"),
        (lambda lines: [f"{line},x" for line in lines], "the columns are sample_id,target and no others", 1, "error"),
        (lambda lines: ["id,mass", *lines[1:]], "a column sample_id|column", None, "error"),
    ],
)
def test_each_mistake_is_found(valid, breaks, rule, row, level):
    data_dir, _, _, path = valid
    path.write_text("\n".join(breaks(path.read_text().splitlines())) + "\n")
    problems = check_submission(path, data_dir)
    matching = [problem for problem in problems if any(part in problem.rule for part in rule.split("|"))]
    assert matching, problems
    assert all(problem.level == level and problem.remedy for problem in matching)
    if row is not None:
        assert matching[0].row == row


def test_all_mistakes_are_told_at_once(valid):
    data_dir, _, _, path = valid
    lines = path.read_text().splitlines()
    lines[1] = lines[1].split(",")[0] + ",-1"
    lines[2] = lines[2].split(",")[0] + ",much"
    lines[3] = "stranger__GDM_g,4"
    lines.append(lines[6])
    path.write_text("\n".join(lines) + "\n")
    rules = [problem.rule for problem in check_submission(path, data_dir)]
    for part in ("not negative", "finite number", "one of test.csv's", "appears once", "has its mass"):
        assert any(part in rule for rule in rules), part
    assert [problem.rule for problem in check_submission(path.with_name("gone.csv"), data_dir)]


def wide(data_dir, path):
    rows = pd.read_csv(path)
    rows[["image_id", "name"]] = rows["sample_id"].str.split("__", expand=True)
    rows.pivot(index="image_id", columns="name", values="target").to_csv(path)


def renamed(data_dir, path):
    pd.read_csv(path).rename(columns={"target": "prediction"}).to_csv(path, index=False)


def with_index(data_dir, path):
    pd.read_csv(path).to_csv(path)


def semicolons(data_dir, path):
    pd.read_csv(path).to_csv(path, index=False, sep=";", decimal=",")


def header_in_capitals(data_dir, path):
    path.write_text(path.read_text().replace("sample_id,target", "SAMPLE_ID,TARGET"))


@pytest.mark.parametrize(
    ("breaks", "part"),
    [
        (wide, "a wide table: write a row for each"),
        (renamed, "rename prediction to target"),
        (with_index, "write just these"),
        (semicolons, "save it as CSV with commas"),
        (header_in_capitals, "write just these"),
    ],
)
def test_another_form_of_table_is_one_error(valid, breaks, part):
    data_dir, _, _, path = valid
    breaks(data_dir, path)
    (problem,) = check_submission(path, data_dir)
    assert problem.level == "error" and part in problem.remedy


def sorted_rows(frame, rng):
    return frame.sort_values("sample_id")


def turned_round(frame, rng):
    return frame[::-1]


def incoherent(frame, rng):
    return frame.assign(target=rng.uniform(0, 40, len(frame)))


def minus_nothing(frame, rng):
    return frame.assign(target=np.where(frame.index % 7 == 0, -1e-9, frame["target"]))


def far_below(frame, rng):
    return frame.assign(target=-5.0)


@pytest.mark.parametrize("change", [sorted_rows, turned_round, incoherent, minus_nothing, far_below])
def test_what_the_scorer_takes_is_a_warning_and_exponents_and_marks_are_nothing(valid, change):
    data_dir, _, _, path = valid
    frame = change(pd.read_csv(path), np.random.default_rng(0))
    frame.to_csv(path, index=False)
    problems = check_submission(path, data_dir)
    assert problems and {problem.level for problem in problems} == {"warning"}


@pytest.mark.parametrize("how", ["exponents", "byte order mark", "quoted"])
def test_forms_of_numbers_and_text_are_nothing(valid, how):
    data_dir, _, _, path = valid
    frame = pd.read_csv(path)
    if how == "exponents":
        frame.to_csv(path, index=False, float_format="%.9e")
    elif how == "byte order mark":
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    else:
        frame.to_csv(path, index=False, quoting=1)
    assert check_submission(path, data_dir) == []
