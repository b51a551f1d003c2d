"""All that can be checked about a data directory before anything expensive starts: tables, paths, photographs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from biomass_models import table
from biomass_models.images import ImageError, probe_image
from biomass_models.problems import ROW, Problem, raise_errors, shown
from biomass_models.table_rules import leaves_directory

SMALLEST_SIDE = 64  # px; no network sees a sward in less


def check_directory(data_dir: Path, *, on_progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Every problem of the directory, errors and warnings; the competition's, as downloaded, has no errors.

    Each photograph is decoded. on_progress: called with (photographs looked at, all of them), in the caller's thread.
    """
    root = Path(data_dir)
    train, train_problems = table.inspect_train(root)
    test, test_problems = table.inspect_test(root)
    photographs = pd.concat(
        [_photographs(table.TRAIN_FILE, train), _photographs(table.TEST_FILE, test)], ignore_index=True
    )
    problems = train_problems + test_problems
    sizes: dict[int, tuple[int, int]] = {}  # width, height of the whole photographs, by position in the table
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter's lock
        for at, found in enumerate(pool.map(lambda path: _look_at(root, path), photographs["image_path"])):
            if isinstance(found, ImageError):
                problems.append(_problem(photographs, at, found))
            else:
                sizes[at] = found
            if on_progress is not None:
                on_progress(at + 1, len(photographs))
    return problems + _unlike_sizes(photographs, sizes) + _seen_twice(train, test)


def require_clean(data_dir: Path, on_progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """The directory's warnings; raises DataError with all errors when there is one."""
    problems = check_directory(data_dir, on_progress=on_progress)
    raise_errors(problems)
    return problems


def _photographs(file: str, long: pd.DataFrame) -> pd.DataFrame:
    """file, row (of its first appearance) and image_path of each photograph that lies inside the directory."""
    if "image_path" not in long:
        return pd.DataFrame({"file": [], ROW: [], "image_path": []}, dtype="str").astype({ROW: "int64"})
    inside = long[~leaves_directory(long["image_path"]) & ~long["image_path"].isin(["", "."])]
    firsts = inside.drop_duplicates("image_path")[[ROW, "image_path"]]
    return firsts.assign(file=file)


def _look_at(root: Path, image_path: str) -> tuple[int, int] | ImageError:
    """Width and height in px of a photograph, or what is wrong with it."""
    path = root / image_path
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            rule = "image_path stays inside the data directory, links included"
            return ImageError(rule, f"{shown(image_path)} -> {path.resolve()}", "copy the photographs into it")
        width, height = probe_image(path)
    except ImageError as reason:
        return reason
    except (OSError, RuntimeError, ValueError) as reason:  # links in a circle, a name that is too long
        return ImageError("image_path can be opened", f"{shown(image_path)} ({reason})", "mend image_path or the file")
    if min(width, height) < SMALLEST_SIDE:
        rule = f"a photograph's shorter side has at least {SMALLEST_SIDE} px"
        return ImageError(rule, f"{shown(image_path)} with {width} x {height}", "use the original photograph")
    return width, height


def _problem(photographs: pd.DataFrame, at: int, error: ImageError) -> Problem:
    rule, got, remedy = error.args
    row = photographs.iloc[at]
    return Problem(level="error", file=row["file"], row=int(row[ROW]), rule=rule, got=got, remedy=remedy)


def _unlike_sizes(photographs: pd.DataFrame, sizes: dict[int, tuple[int, int]]) -> list[Problem]:
    """One warning a table, at the first photograph that does not have the most common size."""
    if len(set(sizes.values())) < 2:
        return []
    usual = Counter(sizes.values()).most_common(1)[0][0]
    problems = []
    for file, rows in photographs.groupby("file", sort=False):
        odd = [at for at in rows.index if sizes.get(at, usual) != usual]
        if odd:
            width, height = sizes[odd[0]]
            first = photographs.loc[odd[0]]
            got = f"{len(odd)} others, the first {shown(first['image_path'])} with {width} x {height}"
            rule = f"photographs have one size (most: {usual[0]} x {usual[1]} px)"
            remedy = "check that none is cropped or turned; each is resized to the same views"
            problems.append(
                Problem(level="warning", file=str(file), row=int(first[ROW]), rule=rule, got=got, remedy=remedy)
            )
    return problems


def _seen_twice(train: pd.DataFrame, test: pd.DataFrame) -> list[Problem]:
    """Test images that are training images too: their score says nothing."""
    if "image_id" not in train or "image_id" not in test:
        return []
    both = test[test["image_id"].isin(train["image_id"].dropna())].drop_duplicates("image_id")
    rule, remedy = "a test image is not a training image", "leave it out when you score"
    return [
        Problem(level="warning", file=table.TEST_FILE, row=int(row), rule=rule, got=shown(image_id), remedy=remedy)
        for row, image_id in zip(both[ROW], both["image_id"], strict=True)
    ]
