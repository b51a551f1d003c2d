"""All that can be checked about a data directory before anything expensive starts: tables, paths, photographs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pandas as pd

from biomass_models.data import table
from biomass_models.data.dataset import QUADRATS_FILE
from biomass_models.data.frames import Fit
from biomass_models.data.images import ImageError, file_digest, header_size, require_frame
from biomass_models.data.photographs import UNLIKE, Seen, cut_off, is_unlike, look_at, same_pictures, usual_size
from biomass_models.data.problems import ROW, DataError, Level, Problem, near_files, raise_errors, shown
from biomass_models.data.rules import leaves_directory

SMALLEST_SIDE = 64  # px; no network sees a sward in less

OnProgress = Callable[[int, int], None]


def check_directory(data_dir: Path, *, fit: Fit | None = None, on_progress: OnProgress | None = None) -> list[Problem]:
    """Every problem of the directory, errors and warnings; the competition's, as downloaded, has no errors.

    Each photograph is decoded. A directory without test.csv is one to learn from, and no error.
    fit: what models will see of photographs, None as the data say; on_progress: called with (photographs looked at, all
    of them), in the caller's thread.
    """
    root = Path(data_dir)
    train, problems = table.inspect_train(root)
    photographs = [_photographs(table.train_file(root), train)]
    test = None
    if (root / table.TEST_FILE).exists():
        test, test_problems = table.inspect_test(root)
        problems = problems + test_problems
        photographs.append(_photographs(table.TEST_FILE, test))
    elif near := near_files(root / table.TEST_FILE):
        problems = problems + _misnamed(near)
    problems += _check_photographs(root, pd.concat(photographs), fit or _fit_of(root), on_progress)
    return problems + ([] if test is None else _seen_twice(train, test))


def check_test_directory(data_dir: Path, *, fit: Fit, on_progress: OnProgress | None = None) -> list[Problem]:
    """Every problem of test.csv and its photographs; what is to be predicted needs no train.csv."""
    test, problems = table.inspect_test(Path(data_dir))
    return problems + _check_photographs(Path(data_dir), _photographs(table.TEST_FILE, test), fit, on_progress)


def cut_off_notice(data_dir: Path) -> str | None:
    """A sentence on how much of the usual labelled photograph no model sees; None where all of it is seen."""
    root, sizes = Path(data_dir), []
    for path in _photographs(table.train_file(root), table.inspect_train(root)[0])["image_path"]:
        with contextlib.suppress(ImageError, OSError, RuntimeError, ValueError):  # which the check reports
            sizes.append(header_size(root / path))
    usual = usual_size(sizes)
    return None if usual is None else cut_off(usual, _fit_of(root))


def _fit_of(root: Path) -> Fit:
    """Whatever is wrong with dataset.toml has been reported already."""
    try:
        return table.fit_of(root)
    except DataError:
        return "stretch"


def _check_photographs(
    root: Path, photographs: pd.DataFrame, fit: Fit, on_progress: OnProgress | None
) -> list[Problem]:
    """Photographs that are missing, broken, odd, of unlike sizes, or there twice."""
    photographs = photographs.reset_index(drop=True)
    problems: list[Problem] = []
    seen: dict[int, Seen] = {}  # of the whole photographs, by position in the table
    hint = _Near(root)
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter's lock
        for at, found in enumerate(pool.map(lambda path: _look_at(root, path, hint, fit), photographs["image_path"])):
            if isinstance(found, ImageError):
                problems.append(_problem(photographs, at, found.args, "error"))
            else:
                seen[at] = found
                problems += [_problem(photographs, at, remark, "warning") for remark in found.remarks]
            if on_progress is not None:
                on_progress(at + 1, len(photographs))
    sizes = {at: (each.width, each.height) for at, each in seen.items()}
    return problems + _unlike_sizes(photographs, sizes, fit) + _same_photographs(root, photographs, seen)


def require_clean(data_dir: Path, *, fit: Fit | None = None, on_progress: OnProgress | None = None) -> list[Problem]:
    """The directory's warnings; raises DataError with all errors when there is one. Arguments as check_directory."""
    problems = check_directory(data_dir, fit=fit, on_progress=on_progress)
    raise_errors(problems)
    return problems


def _photographs(file: str, long: pd.DataFrame) -> pd.DataFrame:
    """file, row (of its first appearance), image_path, image_id of each photograph that lies inside the directory."""
    if "image_path" not in long:
        return pd.DataFrame({"file": [], ROW: [], "image_path": [], "image_id": []}, dtype="str").astype({ROW: "int64"})
    inside = long[~leaves_directory(long["image_path"]) & ~long["image_path"].isin(["", "."])]
    firsts = inside.drop_duplicates("image_path").reindex(columns=[ROW, "image_path", "image_id"])
    return firsts.assign(file=file)


class _Near:
    """Files that a missing photograph may be: each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = cache(self._names_in)

    def error(self, image_path: str) -> ImageError | None:
        """What to say about a missing photograph, where a file of nearly its name is there."""
        wanted = Path(image_path)
        names = self._names(str(wanted.parent))
        for name in names.get(wanted.stem.lower(), ()):
            if name.lower() == wanted.name.lower():
                rule, remedy = "image_path is written as the file, upper and lower case alike", "rename the files"
            else:
                rule, remedy = "image_path has the file's suffix", "mend the suffix in image_path"
            return ImageError(rule, f"{shown(image_path)}, the folder has {shown(name)}", remedy)
        if not names and not (self._root / wanted.parent).is_dir():
            for folder in (".", *sorted(child.name for child in self._root.iterdir() if child.is_dir())):
                if wanted.name in self._names(folder).get(wanted.stem.lower(), ()):
                    where = (Path(folder) / wanted.name).as_posix()
                    got = f"{shown(image_path)}, the file is {shown(where)}"
                    return ImageError("image_path begins with the file's folder", got, "mend image_path")
            got = f"no folder {shown(wanted.parent.as_posix())} for {shown(image_path)}"
            return ImageError("the photographs lie in the data directory", got, "copy or unpack them")
        for folder in sorted(child.name for child in self._root.iterdir() if child.is_dir()):
            if wanted.name in self._names((wanted.parent / folder).as_posix()).get(wanted.stem.lower(), ()):
                where = (wanted.parent / folder / wanted.name).as_posix()
                got = f"{shown(image_path)}, the file is {shown(where)}"
                return ImageError("image_path begins with the file's folder", got, "mend image_path")
        return None

    def _names_in(self, folder: str) -> dict[str, list[str]]:
        """Names of a folder's files by lower-case stem."""
        found: dict[str, list[str]] = {}
        try:
            for child in sorted((self._root / folder).iterdir()):
                found.setdefault(child.stem.lower(), []).append(child.name)
        except OSError:
            return {}
        return found


def _look_at(root: Path, image_path: str, hint: _Near, fit: Fit) -> Seen | ImageError:
    """A decoded photograph, or what is wrong with it."""
    path = root / image_path
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            rule = "image_path stays inside the data directory, links included"
            return ImageError(rule, f"{shown(image_path)} -> {path.resolve()}", "copy the photographs into it")
        if not path.exists() and not path.is_symlink() and (near := hint.error(image_path)):
            return near
        seen = look_at(path)
        require_frame((seen.width, seen.height), fit, path)
    except ImageError as reason:
        return reason
    except (OSError, RuntimeError, ValueError) as reason:  # links in a circle, a name that is too long
        return ImageError("image_path can be opened", f"{shown(image_path)} ({reason})", "mend image_path or the file")
    if min(seen.width, seen.height) < SMALLEST_SIDE:
        rule = f"a photograph's shorter side has at least {SMALLEST_SIDE} px"
        return ImageError(rule, f"{shown(image_path)} with {seen.width} x {seen.height}", "use the original photograph")
    return seen


def _problem(photographs: pd.DataFrame, at: int, said: tuple[str, str, str], level: Level) -> Problem:
    rule, got, remedy = said
    row = photographs.iloc[at]
    return Problem(level=level, file=row["file"], row=int(row[ROW]), rule=rule, got=got, remedy=remedy)


def _unlike_sizes(photographs: pd.DataFrame, sizes: dict[int, tuple[int, int]], fit: Fit) -> list[Problem]:
    """At most two warnings a table: photographs of another shape than most of the first table's, or of another size."""
    usual = usual_size([size for at, size in sizes.items() if photographs["file"][at] == photographs["file"][0]])
    usual = usual or usual_size(list(sizes.values()))
    if usual is None:
        return []
    problems = []
    for file, rows in photographs.groupby("file", sort=False):
        known = {at: sizes[at] for at in rows.index if at in sizes}
        shapes = [at for at, size in known.items() if is_unlike(size, usual, fit)]
        others = [at for at, size in known.items() if at not in set(shapes) and sorted(size) != sorted(usual)]
        for odd, same, remedy in (
            (shapes, "shape", UNLIKE[fit]),
            (others, "size", "check that none is cropped; each is resized to the same views"),
        ):
            if odd:
                width, height = sizes[odd[0]]
                first = photographs.loc[odd[0]]
                path = shown(first["image_path"])
                got = f"{len(odd)} of {len(known)} photographs, the first {path} with {width} x {height}"
                rule = f"photographs have one {same} (most: {usual[0]} x {usual[1]} px)"
                row = int(first[ROW])
                problems.append(Problem(level="warning", file=str(file), row=row, rule=rule, got=got, remedy=remedy))
    return problems


def _same_photographs(root: Path, photographs: pd.DataFrame, seen: dict[int, Seen]) -> list[Problem]:
    """Photographs with the content of another one, or that show the same: a score that has both sides of it lies."""
    places = list(seen)
    pairs = [(places[at], places[other], how) for at, other, how in same_pictures([s.thumbnail for s in seen.values()])]
    problems = []
    for at, other, how in pairs:
        one, first = photographs.iloc[at], photographs.iloc[other]
        if one["image_id"] == first["image_id"]:
            continue  # an id in both tables is reported as such
        if how == "again" and file_digest(root / one["image_path"]) != file_digest(root / first["image_path"]):
            how = "in another encoding"
        rule, remedy = "a photograph is there once", "remove one, or keep both in one fold (--fold-file)"
        if one["file"] != first["file"]:
            rule, remedy = "a test photograph is not a training photograph", "leave it out when you score"
        got = f"{shown(one['image_path'])}, which is {shown(first['image_path'])} {how}"
        problems.append(_problem(photographs, at, (rule, got, remedy), "warning"))
    return problems


def _misnamed(near: list[str]) -> list[Problem]:
    """A file that may have been meant as test.csv; train.csv and quadrats.csv are written much like it."""
    names = [name for name in near if name not in (table.TRAIN_FILE, QUADRATS_FILE)]
    rule, remedy = f"test images are named in {table.TEST_FILE}", f"rename it to {table.TEST_FILE} if they are"
    return [
        Problem(level="warning", file=name, row=None, rule=rule, got=shown(name), remedy=remedy) for name in names[:1]
    ]


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
