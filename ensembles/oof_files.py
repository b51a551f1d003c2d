"""Members from anybody's files: predictions as CSV, parquet or .npy, and a table of measured masses.

    wide   image_id,Dry_Green_g,Dry_Dead_g,Dry_Clover_g,GDM_g,Dry_Total_g    (CSV or parquet, other columns are ignored)
    long   sample_id,target   with sample_id = <image id>__<target name>      (CSV or parquet)
    .npy   [images, 5] in the order of TARGETS, with image ids in <stem>.ids.txt or ids.txt beside it, one a line
Masses in grams. A file that cannot be read is named with the reason, as a broken member is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from biomass_models.errors import UserError
from biomass_models.table import split_sample_id
from biomass_models.targets import TARGETS
from ensembles.library import LibraryError

SUFFIXES = (".csv", ".parquet", ".npy")
DEFAULT_GROUPS = ("Sampling_Date", "State")


def read_members(files: Mapping[str, Path]) -> tuple[dict[str, pd.DataFrame], list[tuple[str, str]]]:
    """Wide frames (image_id, TARGETS) by name, and the files that could not be read with the reasons."""
    frames: dict[str, pd.DataFrame] = {}
    unreadable: list[tuple[str, str]] = []
    for name, path in files.items():
        try:
            frames[name] = _wide(path)
        except (ValueError, OSError, KeyError, EOFError) as reason:
            unreadable.append((name, f"{path.name} cannot be read: {reason}"))
    return frames, unreadable


def read_truth(path: Path, *, groups: Sequence[str] = DEFAULT_GROUPS, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """image_id, fold, group, TARGETS and State (if there): what library_from_frames asks of a truth.

    Raises LibraryError for a file without masses, an unknown group column or fewer groups than folds.
    """
    try:
        table = _table(path)
        masses = _wide_of(table)
    except (ValueError, OSError, KeyError, EOFError) as reason:
        raise LibraryError(f"the truth {path} cannot be read: {reason}") from reason
    if absent := [name for name in groups if name not in table]:
        raise LibraryError(
            f"the truth has no column {', '.join(absent)} to group by, got {', '.join(table.columns)}; "
            "name other columns, or none to make each image its own group"
        )
    image_id = table["image_id"] if "image_id" in table else split_sample_id(table["sample_id"])["image_id"]
    facts = table.assign(image_id=image_id.astype(str)).drop_duplicates("image_id").set_index("image_id")
    facts = facts.loc[masses["image_id"]]
    keys = [facts[name].astype(str) for name in groups] or [facts.index.to_series()]
    group_N = np.array([" ".join(parts) for parts in zip(*keys, strict=True)])
    masses["group"] = group_N
    masses["fold"] = facts["fold"].to_numpy(dtype=np.int64) if "fold" in facts else _deal(group_N, folds, seed)
    if "State" in facts:
        masses["State"] = facts["State"].to_numpy()
    return masses


def _wide(path: Path) -> pd.DataFrame:
    if path.suffix != ".npy":
        return _wide_of(_table(path))
    pred_NT = np.load(path, allow_pickle=False)
    beside = [path.with_name(f"{path.stem}.ids.txt"), path.with_name("ids.txt")]
    found = next((candidate for candidate in beside if candidate.is_file()), None)
    if found is None:
        raise UserError(
            f"an array needs its image ids beside it, in {beside[0].name} or {beside[1].name}; found neither"
        )
    ids = [line.strip() for line in found.read_text(encoding="utf-8").splitlines() if line.strip()]
    if ids[:1] == ["image_id"]:
        ids = ids[1:]
    if pred_NT.shape != (len(ids), len(TARGETS)):
        raise UserError(f"the array must be [{len(ids)}, {len(TARGETS)}] as {found.name} has ids, got {pred_NT.shape}")
    frame = pd.DataFrame(pred_NT, columns=list(TARGETS))
    frame.insert(0, "image_id", ids)
    return frame


def _table(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype={"image_id": "str", "sample_id": "str"})
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    raise UserError(f"predictions come as {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}")


def _wide_of(table: pd.DataFrame) -> pd.DataFrame:
    """image_id and TARGETS from a wide or long table; ValueError when it is neither, or repeats a row."""
    if {"image_id", *TARGETS} <= set(table.columns):
        return table[["image_id", *TARGETS]].astype({"image_id": str})
    if not {"sample_id", "target"} <= set(table.columns):
        raise UserError(
            f"columns must be image_id,{','.join(TARGETS)} or sample_id,target; got {','.join(map(str, table.columns))}"
        )
    halves = split_sample_id(table["sample_id"].astype("str"))
    strange = ~halves["target_name"].isin(TARGETS)
    if strange.any():
        raise UserError(f"sample_id must be <image id>__<target name>, got {table['sample_id'][strange].iloc[0]!r}")
    long = halves.assign(target=table["target"])
    if long.duplicated(["image_id", "target_name"]).any():
        twice = table["sample_id"][long.duplicated(["image_id", "target_name"])].iloc[0]
        raise UserError(f"a sample_id must appear once, got {twice!r} again")
    wide = long.pivot(index="image_id", columns="target_name", values="target").reindex(columns=list(TARGETS))
    wide.columns.name = None
    return wide.loc[long["image_id"].unique()].reset_index()


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
