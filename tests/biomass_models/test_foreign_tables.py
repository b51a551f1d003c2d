"""Tables of a data directory that are almost right: read with a warning, or refused in one sentence with the remedy.

Three inputs of each kind at least, all made here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from directories import IMAGES, change, one, problems_of_train, train_rows, write_directory, write_rows

from biomass_models.data.check import check_directory
from biomass_models.data.problems import DataError, Problem, errors_of, grouped
from biomass_models.data.table import TRAIN_COLUMNS, read_test, read_test_rows, read_train
from biomass_models.targets import TARGETS

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "data")


# -- wide instead of long ---------------------------------------------------------------------------------------------


def wide_train(root: Path) -> pd.DataFrame:
    wide = read_train(root)
    return wide.assign(Sampling_Date=wide["Sampling_Date"].dt.strftime("%Y/%m/%d"))


@pytest.mark.parametrize("how", ["with ids", "columns in another order", "ids from the paths", "lower case"])
def test_a_wide_train_table_is_read_as_the_long_one(root: Path, how: str) -> None:
    expected, wide = read_train(root), wide_train(root)
    if how == "columns in another order":
        wide = wide[sorted(wide.columns)]
    elif how == "ids from the paths":
        wide = wide.drop(columns="image_id")
    elif how == "lower case":
        wide.columns = wide.columns.str.lower()
    wide.to_csv(root / "train.csv", index=False)
    pd.testing.assert_frame_equal(read_train(root), expected)
    problems = problems_of_train(root)
    assert not errors_of(problems) and any("one row an image" in problem.got for problem in problems)


def test_a_wide_test_table_is_read(root: Path) -> None:
    expected = read_test(root)
    expected.to_csv(root / "test.csv", index=False)
    pd.testing.assert_frame_equal(read_test(root), expected)
    assert list(read_test_rows(root)["sample_id"][:2]) == ["ID92__Dry_Green_g", "ID92__Dry_Dead_g"]
    expected[["image_path"]].to_csv(root / "test.csv", index=False)
    pd.testing.assert_frame_equal(read_test(root), expected)


def test_what_a_wide_table_lacks_or_repeats_is_named(root: Path) -> None:
    wide = wide_train(root)
    wide.drop(columns="GDM_g").to_csv(root / "train.csv", index=False)
    assert "column GDM_g is required" in [problem.rule for problem in errors_of(problems_of_train(root))]
    pd.concat([wide, wide.iloc[:1]]).to_csv(root / "train.csv", index=False)
    problem = one(errors_of(problems_of_train(root)))
    assert (problem.row, problem.got) == (5, "'ID11'") and "one row in a wide table" in problem.rule
    wide.assign(GDM_g="many").to_csv(root / "train.csv", index=False)
    assert [problem.row for problem in errors_of(problems_of_train(root))] == [2, 3, 4]


# -- files that are almost right --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark, name", [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_other_separators_are_one_error(root: Path, mark: str, name: str) -> None:
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_text(text.replace(".", ",").replace(",", mark))
    problem = one(problems_of_train(root))
    assert problem.row == 1 and name in problem.got and "commas" in problem.remedy


def test_a_semicolon_table_with_decimal_commas_is_one_error(root: Path) -> None:
    frame = pd.read_csv(root / "train.csv")
    frame.to_csv(root / "train.csv", sep=";", decimal=",", index=False)
    assert "semicolons" in one(problems_of_train(root)).got


@pytest.mark.parametrize("change_name", [str.upper, str.lower, str.swapcase], ids=["upper", "lower", "swapped"])
def test_the_case_of_a_header_is_a_warning(root: Path, change_name: Callable[[str], str]) -> None:
    expected = read_train(root)
    frame = pd.read_csv(root / "train.csv", dtype=str)
    frame.columns = frame.columns.map(change_name)
    frame.to_csv(root / "train.csv", index=False)
    pd.testing.assert_frame_equal(read_train(root), expected)
    problems = problems_of_train(root)
    assert problems and not errors_of(problems) and all(problem.row == 1 for problem in problems)


@pytest.mark.parametrize("mark", ["\ufeff", "", "\n\n"], ids=["byte order mark", "none", "blank lines"])
def test_marks_blank_lines_and_trailing_spaces_do_no_harm(root: Path, mark: str) -> None:
    expected = read_train(root)
    lines = (root / "train.csv").read_text().splitlines()
    padded = [" , ".join(line.split(",")) + "  " for line in lines]
    (root / "train.csv").write_bytes((mark + "\r\n".join(padded) + "\r\n").encode())
    pd.testing.assert_frame_equal(read_train(root), expected)


def test_many_missing_columns_are_one_problem(root: Path) -> None:
    frame = pd.read_csv(root / "train.csv", dtype=str)
    frame[["sample_id", "target"]].to_csv(root / "train.csv", index=False)
    problem = one(problems_of_train(root))
    assert "columns image_path, Sampling_Date, State" in problem.rule and problem.row == 1


@pytest.mark.parametrize("name", ["Train.csv", "train.CSV", "trian.csv"])
def test_a_file_of_nearly_the_name_is_named(root: Path, name: str) -> None:
    (root / "train.csv").rename(root / name)
    assert one(problems_of_train(root)).remedy == f"did you mean {name}?"


# -- casts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, remedy",
    [
        ("12,5", "write a decimal point"),
        ("True", "mend the cell"),
        ("12.5 g", "no unit"),
        ("nan", "mend the cell"),
        ("1.2.3", "mend the cell"),
    ],
)
def test_masses_that_are_no_numbers_are_grouped(root: Path, value: str, remedy: str) -> None:
    rows = [[*row[:-1], f'"{value}"'] for row in train_rows()]
    write_rows(root / "train.csv", TRAIN_COLUMNS, rows)
    problem = one(problems_of_train(root))
    assert problem.rule.startswith("15 rows: target is a finite number") and remedy in problem.remedy
    assert f"'{value}', first in line 2" in problem.got


# -- ids that are paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["train/{}.jpg", "/data/train/{}.png", "a/b/{}.JPEG"])
def test_ids_that_are_paths_are_one_error_with_the_remedy(root: Path, path: str) -> None:
    rows = [[path.format(row[0].split("__")[0]) + "__" + row[-2], *row[1:]] for row in train_rows()]
    write_rows(root / "train.csv", TRAIN_COLUMNS, rows)
    problem = one(errors_of(problems_of_train(root)))
    assert "15 rows: an image id is a name, not a path" in problem.rule and "train/ID1.jpg -> ID1" in problem.remedy


# -- other units and spaces -------------------------------------------------------------------------------------------


def scaled(root: Path, change_mass: Callable[[np.ndarray], np.ndarray]) -> Problem:
    frame = pd.read_csv(root / "train.csv")
    frame["target"] = change_mass(frame["target"].to_numpy()).round(4)
    frame.to_csv(root / "train.csv", index=False)
    return one(problems_of_train(root))


@pytest.mark.parametrize(
    "change_mass, looks_like",
    [
        (lambda mass: mass / 0.021, "kg/ha"),
        (lambda mass: mass * 1000, "milligrams"),
        (lambda mass: mass / 1000, "kilograms"),
        (np.log1p, "log1p"),
        (np.sqrt, "sqrt"),
    ],
    ids=["kg/ha", "mg", "kg", "log1p", "sqrt"],
)
def test_masses_that_are_no_grams_a_quadrat_are_one_warning(
    tmp_path: Path, change_mass: Callable[[np.ndarray], np.ndarray], looks_like: str
) -> None:
    mass_N3 = np.random.default_rng(0).gamma(2.0, 9.0, (12, 3))
    images = tuple((f"ID{row}", *IMAGES[0][1:-1], tuple(parts)) for row, parts in enumerate(mass_N3))
    write_rows(tmp_path / "train.csv", TRAIN_COLUMNS, train_rows(images))
    problem = scaled(tmp_path, change_mass)
    assert problem.level == "warning" and looks_like in problem.got and problem.remedy


# -- no test.csv ------------------------------------------------------------------------------------------------------


def test_a_directory_without_test_images_is_one_to_learn_from(root: Path) -> None:
    (root / "test.csv").unlink()
    assert check_directory(root) == [] and len(read_train(root)) == 3
    for read in (read_test, read_test_rows):
        with pytest.raises(DataError, match=r"test images are named in test.csv; got none in .*; add it \(sample_id,"):
            read(root)


@pytest.mark.parametrize("name", ["Test.csv", "test.CSV", "tset.csv"])
def test_a_file_that_may_be_meant_as_test_table_is_a_warning(root: Path, name: str) -> None:
    (root / "test.csv").rename(root / name)
    problem = one(check_directory(root))
    assert problem.level == "warning" and name in problem.got and "rename" in problem.remedy


def test_repeated_problems_are_grouped_and_single_ones_are_not(root: Path) -> None:
    for line in (2, 3):
        change(root, line, "Height_Ave_cm", "tall")
    assert [problem.row for problem in grouped(errors_of(problems_of_train(root)))] == [2, 3]
    for line in (4, 5, 6):
        change(root, line, "Height_Ave_cm", "tall")
    assert "5 rows: Height_Ave_cm is a finite number" in one(errors_of(problems_of_train(root))).rule
    assert len(TARGETS) == 5 == len(errors_of(problems_of_train(root)))
