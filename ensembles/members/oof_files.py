"""Members from files of any origin: predictions as CSV, parquet or .npy, and a table of measured masses.

    wide   image_id,Dry_Green_g,Dry_Dead_g,Dry_Clover_g,GDM_g,Dry_Total_g    (CSV or parquet, other columns are ignored)
    long   sample_id,target   with sample_id = <image id>__<target name>      (CSV or parquet)
    .npy   [images, 5] in the order of TARGETS, with image ids in <stem>.ids.txt or ids.txt beside it, one a line
Masses in grams. A column that is named a prediction wins over a plain one (columns.py). A file that cannot be read is
named with the reason, as a broken member is. A blank cell of the truth was not measured; predictions of targets that
were never measured may be left out or left blank.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from biomass_models.data.alignment import rows_of
from biomass_models.data.problems import other_separator, read_header
from biomass_models.data.quadrats import derive
from biomass_models.data.table import split_sample_id
from biomass_models.errors import UserError
from biomass_models.fold_rows import ALWAYS, EXAM, EXAM_WORD, scored_rows
from biomass_models.targets import TARGETS
from ensembles.members.columns import labels_of, predictions_of, tidy_names
from ensembles.members.library import LibraryError

SUFFIXES = (".csv", ".parquet", ".npy")
DEFAULT_GROUPS = ("Sampling_Date", "State")
Remark = Callable[[str], None]
_FAULTS = (ValueError, OSError, KeyError, EOFError, csv.Error)


def read_members(
    files: Mapping[str, Path], remark: Remark = lambda _: None, measured: Sequence[str] = TARGETS
) -> tuple[dict[str, pd.DataFrame], list[tuple[str, str]]]:
    """Wide frames (image_id, TARGETS) by name, and the files that could not be read with the reasons.

    remark: called with what a reader should know of a file that was read, such as which of its columns counted;
    measured: targets that a file must have (measured.measured_targets).
    """
    frames: dict[str, pd.DataFrame] = {}
    unreadable: list[tuple[str, str]] = []
    for name, path in files.items():
        try:
            frames[name], note = _wide(path, measured)
        except _FAULTS as reason:
            unreadable.append((name, f"{path.name} cannot be read: {' '.join(str(reason).split())}"))
        else:
            if note is not None:
                remark(f"{path}: {note}")
    return frames, unreadable


def read_truth(path: Path, *, groups: Sequence[str] = DEFAULT_GROUPS, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """image_id, fold, group, TARGETS, and State and unit (if there): what library_from_frames needs of a truth.

    A mass that was not measured is NaN, unless it follows from the others (quadrats.derive). Rows whose fold is -1 or
    exam (fold_rows.py) are left out: nothing predicts them.
    Raises LibraryError for a file without masses, an unknown group column, fewer groups than folds, or what is no fold.
    """
    try:
        table = _table(path)
        masses = labels_of(table)[["image_id", *TARGETS]]
        masses[list(TARGETS)], _ = derive(masses[list(TARGETS)].to_numpy(dtype=np.float64))
    except _FAULTS as reason:
        raise LibraryError(f"the truth {path} cannot be read: {reason}") from reason
    if absent := [name for name in groups if name not in table]:
        raise LibraryError(
            f"the truth has no column {', '.join(absent)} to group by, got {', '.join(table.columns)}; "
            "name other columns, or none to make each image its own group"
        )
    facts = table.assign(image_id=_image_ids(table)).drop_duplicates("image_id")
    facts = rows_of(facts, masses["image_id"])
    keys = [facts[name].astype(str) for name in groups] or [facts["image_id"]]
    group_N = np.array([" ".join(parts) for parts in zip(*keys, strict=True)])
    masses["group"] = group_N
    masses["fold"] = _folds(facts["fold"]) if "fold" in facts else _deal(group_N, folds, seed)
    dates = [name for name in DEFAULT_GROUPS if name in facts]
    if "Sampling_Date" in dates:
        date = facts[dates].astype(str).agg(" ".join, axis=1)
        if (date.groupby(group_N).nunique() == 1).all():  # errors are counted by dates also where groups are finer
            masses["unit"] = date.to_numpy()
    if "State" in facts:
        masses["State"] = facts["State"].to_numpy()
    return scored_rows(masses)


def _folds(column: pd.Series) -> NDArray[np.int64]:
    """The numbers of a truth's folds, as fold_rows has them."""
    number = pd.to_numeric(column.replace(EXAM_WORD, EXAM), errors="coerce")
    wrong = column[~(number.isin([ALWAYS, EXAM]) | ((number >= 0) & (number % 1 == 0)))]
    if len(wrong):
        raise LibraryError(
            f"a truth's fold is a whole number from 0, {ALWAYS} for what is only trained on, or {EXAM_WORD}; got "
            f"{wrong.iloc[0]!r}"
        )
    if not (number >= 0).any():
        raise LibraryError("a truth has rows that a fold holds out, got none in its column fold; number folds from 0")
    return number.to_numpy(dtype=np.int64)


def _image_ids(table: pd.DataFrame) -> pd.Series:
    if "sample_id" in table and "image_id" not in table:
        return split_sample_id(table["sample_id"].astype(str).str.strip())["image_id"]
    return table["image_id" if "image_id" in table else "image_path"].astype(str).str.strip()


def _wide(path: Path, measured: Sequence[str]) -> tuple[pd.DataFrame, str | None]:
    if path.suffix.lower() != ".npy":
        return predictions_of(_table(path), measured)
    pred_NT = np.load(path, allow_pickle=False)
    beside = [path.with_name(f"{path.stem}.ids.txt"), path.with_name("ids.txt")]
    found = next((candidate for candidate in beside if candidate.is_file()), None)
    if found is None:
        raise UserError(
            f"an array needs its image ids beside it, in {beside[0].name} or {beside[1].name}; found neither"
        )
    ids = [line.strip() for line in found.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if ids[:1] == ["image_id"]:
        ids = ids[1:]
    if pred_NT.shape != (len(ids), len(TARGETS)):
        raise UserError(f"the array must be [{len(ids)}, {len(TARGETS)}] as {found.name} has ids, got {pred_NT.shape}")
    if pred_NT.dtype.kind not in "fiu":
        raise UserError(f"the array must hold numbers, got {pred_NT.dtype}")
    frame = pd.DataFrame(pred_NT.astype(np.float64), columns=list(TARGETS))
    frame.insert(0, "image_id", ids)
    return frame, None


def _table(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return tidy_names(pd.read_parquet(path))
    if suffix != ".csv":
        raise UserError(f"predictions come as {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}")
    header = read_header(path)
    if separator := other_separator(header):
        raise UserError(f"a table is separated by commas, got {separator}; save it with commas and decimal points")
    tidy_names(pd.DataFrame(columns=header))  # pandas would rename the second of two
    ids = dict.fromkeys(_names_of_ids(path), "str")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header: decimal commas
        # index_col=False: pandas would take the first column for row names and shift the others
        return tidy_names(pd.read_csv(path, dtype=ids, index_col=False, encoding="utf-8-sig"))


def _names_of_ids(path: Path) -> list[str]:
    """Columns that hold ids, as the file spells them: 007 is no number."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = next(csv.reader(stream), [])
    return [name for name in header if name.strip().lower() in ("image_id", "sample_id", "image_path")]


def _deal(group_N: NDArray[np.str_], folds: int, seed: int) -> NDArray[np.int64]:
    """Whole groups to folds of about equal size: largest first, each to the smallest fold; ties in a seeded order."""
    names, index_N, size_G = np.unique(group_N, return_inverse=True, return_counts=True)
    if len(names) < folds:
        raise LibraryError(f"{folds} folds need as many groups, got {len(names)}; ask for fewer folds")
    shuffled = np.random.default_rng([seed, len(names)]).permutation(len(names))
    fold_G = np.empty(len(names), dtype=np.int64)
    filled = np.zeros(folds)
    for group in shuffled[np.argsort(-size_G[shuffled], kind="stable")]:
        fold_G[group] = filled.argmin()
        filled[fold_G[group]] += size_G[group]
    return fold_G[index_N]
