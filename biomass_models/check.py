"""Everything that can be checked about a data directory before anything expensive starts (tables, paths, photographs)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from biomass_models import table
from biomass_models.images import ImageError, probe_image
from biomass_models.problems import ROW, Problem, raise_errors, shown

SMALLEST_SIDE = 64  # px; below that no grass blade is visible

_Finding = tuple[str, str, str]  # rule, got, remedy


def check_directory(data_dir: Path, *, on_progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Every problem of the directory, errors and warnings; an untouched copy of the competition's has no errors.

    on_progress: called with (photographs looked at, all of them) in the caller's thread.
    """
    root = Path(data_dir)
    train, problems = table.inspect_train(root)
    test, test_problems = table.inspect_test(root)
    problems = problems + test_problems
    photographs = pd.concat([_photographs(table.TRAIN_FILE, train), _photographs(table.TEST_FILE, test)])
    sizes: list[tuple[int, int]] = []
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
        found = pool.map(lambda path: _look_at(root, path), photographs["image_path"])
        for done, (row, result) in enumerate(zip(photographs.itertuples(), found, strict=True), start=1):
            size, finding = result
            if finding is not None:
                rule, got, remedy = finding
                problems.append(
                    Problem(level="error", file=str(row.file), row=int(str(row.row)), rule=rule, got=got, remedy=remedy)
                )
            elif size is not None:
                sizes.append(size)
            if on_progress is not None:
                on_progress(done, len(photographs))
    return problems + _warn_unlike_sizes(sizes)


def require_clean(data_dir: Path, on_progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Raise DataError with every error of the directory; returns its warnings."""
    problems = check_directory(data_dir, on_progress=on_progress)
    raise_errors(problems)
    return problems


def _photographs(file: str, long: pd.DataFrame) -> pd.DataFrame:
    """Each photograph once, with the file and row that name it first."""
    if "image_path" not in long:
        return pd.DataFrame(columns=["file", ROW, "image_path"])
    firsts = long.drop_duplicates("image_path")[[ROW, "image_path"]]
    return firsts.assign(file=file)


def _look_at(root: Path, image_path: str) -> tuple[tuple[int, int] | None, _Finding | None]:
    """Width and height of one photograph, or what is wrong with it."""
    path, shown_path = root / image_path, shown(image_path)
    if not path.resolve().is_relative_to(root.resolve()):
        rule = "image_path stays inside the data directory"
        return None, (rule, shown_path, "use paths such as train/<image id>.jpg, and no links that lead out")
    try:
        width, height = probe_image(path)
    except ImageError as reason:
        return None, ("every image_path is a whole photograph", f"{reason}", "copy the file again")
    if min(width, height) < SMALLEST_SIDE:
        rule = f"a photograph is at least {SMALLEST_SIDE} px on its shorter side"
        return None, (rule, f"{shown_path} of {width} x {height} px", "use the original photograph")
    return (width, height), None


def _warn_unlike_sizes(sizes: list[tuple[int, int]]) -> list[Problem]:
    if len(set(sizes)) <= 1:
        return []
    counts = Counter(sizes).most_common(4)
    got = ", ".join(f"{number} of {width} x {height} px" for (width, height), number in counts)
    rule = "photographs of one set have one size"
    remedy = "check that none is cropped or turned; they will be resized alike"
    return [Problem(level="warning", file="images", row=None, rule=rule, got=got, remedy=remedy)]
