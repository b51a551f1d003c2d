"""The check of a whole directory: a clean one passes, every kind of damage is named with its line, all at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from directories import change, photograph, write_directory, write_rows
from PIL import Image, ImageFile

from biomass_models.data.check import check_directory, require_clean
from biomass_models.data.frames import Fit
from biomass_models.data.photographs import UNLIKE
from biomass_models.data.problems import DataError, Problem, errors_of
from biomass_models.targets import TARGETS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "data")


def _places(problems: list[Problem]) -> list[tuple[str, int | None]]:
    return [(problem.file, problem.row) for problem in problems]


def test_a_clean_directory_has_no_problem_and_shows_progress(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert check_directory(root, on_progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(done, 5) for done in range(1, 6)]
    assert require_clean(root) == []


@pytest.mark.slow
def test_a_generated_pasture_passes(tiny_pasture: Path) -> None:
    assert errors_of(check_directory(tiny_pasture)) == []


def test_missing_photographs(root: Path) -> None:
    (root / "train/ID12.jpg").unlink()
    shutil.rmtree(root / "test")
    problems = check_directory(root)
    assert _places(problems) == [("train.csv", 7), ("test.csv", 2), ("test.csv", 7)]
    assert all("ID" in problem.got and problem.remedy for problem in problems)


def test_truncated_photographs_and_other_files(root: Path) -> None:
    photograph(root / "train/ID11.jpg", (1200, 600))
    content = (root / "train/ID11.jpg").read_bytes()
    (root / "train/ID11.jpg").write_bytes(content[: len(content) * 2 // 3])
    (root / "train/ID12.jpg").write_text("<html>404</html>")
    (root / "train/ID13.jpg").write_bytes(b"")
    problems = check_directory(root)
    assert _places(problems) == [("train.csv", 2), ("train.csv", 7), ("train.csv", 12)]
    assert "whole" in problems[0].rule and "truncated" in problems[0].got
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_photographs_too_small_to_use(root: Path) -> None:
    for seed, name in enumerate(("train/ID11", "train/ID12", "train/ID13", "test/ID92", "test/ID91")):
        photograph(root / f"{name}.jpg", (128, 64), seed=seed)
    assert check_directory(root) == []
    photograph(root / "test/ID91.jpg", (200, 63))
    (problem,) = check_directory(root)
    assert _places([problem]) == [("test.csv", 7)] and "64 px" in problem.rule and "200 x 63" in problem.got


def test_unlike_sizes_are_a_warning_a_table(root: Path) -> None:
    photograph(root / "train/ID12.jpg", (300, 100), seed=1)
    photograph(root / "train/ID13.jpg", (100, 200), seed=2)
    (problem,) = require_clean(root)
    assert problem.level == "warning" and _places([problem]) == [("train.csv", 7)]
    assert "200 x 100" in problem.rule and "2 of 3" in problem.got and "300 x 100" in problem.got


@pytest.mark.parametrize(
    ("fit", "shapes", "sizes"),
    [("stretch", "3 of 4", "1 of 4"), ("crop", "2 of 4", "1 of 4"), ("pad", "2 of 4", "1 of 4")],
)
def test_shapes_are_compared_with_the_labelled_photographs(root: Path, fit: Fit, shapes: str, sizes: str) -> None:
    """Most photographs of the test table are squares; a portrait is another shape only where it is stretched."""
    for number, size in enumerate([(100, 100), (100, 100), (100, 200), (400, 200)]):
        photograph(root / f"test/{number}.jpg", size, seed=10 + number)
    rows = [[f"{number}__{name}", f"test/{number}.jpg", name] for number in range(4) for name in TARGETS]
    write_rows(root / "test.csv", ("sample_id", "image_path", "target_name"), rows)
    shape, size = check_directory(root, fit=fit)
    assert _places([shape, size]) == [("test.csv", 2), ("test.csv", 17)]
    assert "one shape (most: 200 x 100 px)" in shape.rule and shape.got.startswith(shapes)
    assert shape.remedy == UNLIKE[fit]
    assert "one size (most: 200 x 100 px)" in size.rule and size.got.startswith(sizes) and "400 x 200" in size.got


def test_paths_that_leave_the_directory(root: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "outside.jpg")
    for line in range(2, 7):
        change(root, line, "image_path", "../outside.jpg")
    (root / "train/ID12.jpg").unlink()
    (root / "train/ID12.jpg").symlink_to(tmp_path / "outside.jpg")
    for line in range(12, 17):
        change(root, line, "image_path", str(tmp_path / "outside.jpg"))
    problems = check_directory(root)
    assert {problem.row for problem in problems} == {2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 16}
    assert all("inside the data directory" in problem.rule for problem in problems)


def test_links_within_the_directory_and_to_it_are_fine(root: Path, tmp_path: Path) -> None:
    (root / "train/ID12.jpg").rename(root / "original.jpg")
    (root / "train/ID12.jpg").symlink_to(root / "original.jpg")
    (tmp_path / "alias").symlink_to(root, target_is_directory=True)
    assert check_directory(tmp_path / "alias") == []
    (root / "train/ID13.jpg").unlink()
    (root / "train/ID13.jpg").symlink_to(root / "train/ID13.jpg")  # in a circle
    assert _places(check_directory(root)) == [("train.csv", 12)]


def test_a_folder_linked_from_elsewhere_is_outside(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "test", tmp_path / "elsewhere")
    (root / "test").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert _places(check_directory(root)) == [("test.csv", 2), ("test.csv", 7)]


def test_all_kinds_of_problems_come_together(root: Path) -> None:
    change(root, 3, "target", "-1")
    change(root, 12, "Sampling_Date", "spring")
    change(root, 2, "target_name", "GDM_g", file="test.csv")
    (root / "train/ID12.jpg").unlink()
    (root / "test/ID91.jpg").write_text("x")
    with pytest.raises(DataError) as caught:
        require_clean(root)
    places = _places(caught.value.problems)
    wanted = {("train.csv", 3), ("train.csv", 12), ("test.csv", 2), ("train.csv", 7), ("test.csv", 7)}
    assert wanted <= set(places)
    for file, row in wanted:
        assert f"{file}:{row}: error:" in str(caught.value)


def test_nothing_there_at_all(tmp_path: Path) -> None:
    assert _places(check_directory(tmp_path / "nowhere")) == [("train.csv", None)]
    (tmp_path / "train.csv").write_bytes(b"\x00\xff" * 99)
    (tmp_path / "test.csv").write_text("a,b\n1,2\n")
    assert _places(errors_of(check_directory(tmp_path))) == [("train.csv", None), ("test.csv", 1)]


def test_odd_names_are_reported_not_raised(root: Path) -> None:
    for line in range(2, 7):
        change(root, line, "image_path", "x" * 3000 + ".jpg")
    for line in range(7, 12):
        change(root, line, "image_path", "train")
    assert _places(check_directory(root)) == [("train.csv", 2), ("train.csv", 7)]


def test_a_test_image_that_was_trained_on_is_a_warning(root: Path) -> None:
    text = (root / "test.csv").read_text().replace("ID91__", "ID11__")
    (root / "test.csv").write_text(text)
    (problem,) = require_clean(root)
    assert problem.level == "warning" and _places([problem]) == [("test.csv", 7)] and "ID11" in problem.got


def test_progressive_and_png_photographs_pass(root: Path) -> None:
    Image.open(root / "train/ID11.jpg").copy().save(root / "train/ID11.jpg", progressive=True)
    Image.open(root / "train/ID12.jpg").copy().save(root / "train/ID12.jpg", format="PNG")
    assert check_directory(root) == []
