"""Members whose out-of-fold rows come as one file a fold: joined, or refused with what is wrong.

Files belong together when their paths differ in one number only. Held-out rows of folds are disjoint and, together, all
labelled images; files that each hold all images are predictions of single folds' models, which saw most of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from biomass_models.counted import counted
from ensembles.members.image_ids import matched_ids

_FOLD = re.compile(r"(?:fold|cv|split|part|kfold)[-_ ]?\*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class JoinedFolds:
    """Frames by member; the files that a joined member is made of; remarks; what cannot be used, with reasons."""

    frames: dict[str, pd.DataFrame]
    parts: dict[str, tuple[str, ...]]
    remarks: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def join_folds(files: Mapping[str, Path], frames: Mapping[str, pd.DataFrame], image_ids: pd.Index) -> JoinedFolds:
    """Join what comes as one file a fold. files: path by member; image_ids: of all labelled images."""
    held = {
        name: set(matched_ids(pd.Index(frame["image_id"].astype(str)), image_ids)) for name, frame in frames.items()
    }
    wanted = set(image_ids)
    kept = dict(frames)
    parts: dict[str, tuple[str, ...]] = {}
    remarks: list[str] = []
    left_out: list[tuple[str, str]] = []
    for key, names in _groups({name: files[name] for name in frames}):
        names = [name for name in names if name in kept and held[name] & wanted]
        if len(names) < 2:
            continue
        rows = sum(len(held[name] & wanted) for name in names)
        together = set().union(*(held[name] for name in names)) & wanted
        if all(held[name] >= wanted for name in names):
            reason = _all_images(key, files, names)
        elif any(held[name] >= wanted for name in names):
            reason = None
        elif rows > len(together):
            reason = (
                f"{len(names)} files {_short(key)} hold {counted(rows - len(together), 'row')} twice; one "
                "file a fold holds the fold's held-out images only"
            )
            reason = reason if _FOLD.search(key) else None
        elif together != wanted:
            lacking = sorted(wanted - together)
            reason = (
                f"{len(names)} files {_short(key)} look like one a fold, together they lack {len(lacking)} of "
                f"{len(wanted)} images, such as {lacking[0]}; give the files of all folds"
            )
        else:
            name = _name(key, taken=set(kept) - set(names))
            kept[name] = pd.concat([kept.pop(each) for each in names], ignore_index=True)
            parts[name] = tuple(names)
            remarks.append(f"{name}: {len(names)} files {_short(key)}, one a fold, are joined into one member")
            continue
        if reason is not None:
            left_out += [(name, reason) for name in names]
            for name in names:
                del kept[name]
    return JoinedFolds(frames=kept, parts=parts, remarks=tuple(remarks), left_out=tuple(left_out))


def _groups(files: Mapping[str, Path]) -> list[tuple[str, list[str]]]:
    """Members whose paths differ in one number, by the path with a star for it; folds first, then the largest."""
    found: dict[str, list[str]] = {}
    for name, path in files.items():
        for digits in re.finditer(r"\d+", str(path)):
            found.setdefault(f"{str(path)[: digits.start()]}*{str(path)[digits.end() :]}", []).append(name)
    groups = [(key, names) for key, names in found.items() if len(names) > 1]
    return sorted(groups, key=lambda group: (_FOLD.search(group[0]) is None, -len(group[1]), group[0]))


def _all_images(key: str, files: Mapping[str, Path], names: list[str]) -> str | None:
    """Several seeds of a model hold all images each, and are members; so do a model's folds, and are none."""
    if not _FOLD.search(key):
        return None
    before = len(key[: key.index("*")])
    numbers = sorted(int(match[0]) for name in names if (match := re.match(r"\d+", str(files[name])[before:])))
    if numbers not in (list(range(len(numbers))), list(range(1, len(numbers) + 1))):
        return None
    return (
        f"{len(names)} files {_short(key)} hold all labelled images each: a fold's model has seen most of them; keep "
        "the rows of its held-out fold"
    )


def _name(key: str, taken: set[str]) -> str:
    """exp7/fold_*/oof.csv -> exp7, oof_fold*.csv -> oof; the pattern itself where that is nothing or taken."""
    folder, _, file = key.rpartition("/")
    if "*" in file:
        name = re.sub(r"[-_. ]*(?:fold|cv|split|part|kfold|f)?[-_. ]*\*", "", Path(file).stem, flags=re.IGNORECASE)
    else:
        parts = folder.split("/")
        name = parts[next(place for place, part in enumerate(parts) if "*" in part) - 1] if "*" not in parts[0] else ""
    return name if name and name not in taken else key


def _short(key: str) -> str:
    return "/".join(key.split("/")[-3:])
