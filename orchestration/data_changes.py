"""Whether a data directory still is what a study learned from, and in words what is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from biomass_models.inputs import ImageSet
from biomass_models.targets import TARGETS
from orchestration.ledger import Ledger
from orchestration.seeds import content_id
from orchestration.settings import StudyError

NAMED = 3  # photographs or labels that a message names
DRAWN = ("fold", "group")  # columns that a study adds to the table


def data_fingerprint(quadrats: pd.DataFrame, image_digest: str) -> str:
    """Of all that a study learns from: its table with groups, one row an image, and the photographs' contents."""
    return content_id(quadrats.drop(columns=["fold"]).to_csv(index=False), image_digest)


def photograph_table(images: ImageSet) -> pd.DataFrame:
    """image_id, blake2b: what `Ledger.write_photographs` keeps."""
    return pd.DataFrame({"image_id": images.image_ids, "blake2b": images.digests})


def data_changes(ledger: Ledger, here: pd.DataFrame, images: ImageSet) -> list[str]:
    """In words what the study's photographs and labels are not any more; empty where they are the same.

    here, images: the table as it is read now and its photographs, rows alike.
    """
    recorded, study = ledger.quadrats(), ledger.study()
    joined = here.merge(recorded[["image_id", *DRAWN]], on="image_id", how="left")
    if data_fingerprint(joined, images.digest) == study.data_fingerprint:
        return []
    found = list(_table_changes(recorded, here))
    known = ledger.photographs()
    if known is not None:
        now = dict(zip(images.image_ids, images.digests, strict=True))
        then = dict(zip(known["image_id"], known["blake2b"], strict=True))
        if replaced := [name for name, digest in then.items() if now.get(name, digest) != digest]:
            found.append(f"{_count(len(replaced), 'photograph')} replaced ({_named(replaced)})")
    elif not found:
        found.append("photographs replaced (which, version 0.1.0 did not record)")
    return found


def require_same_data(ledger: Ledger, data_dir: Path, here: pd.DataFrame, images: ImageSet) -> None:
    """Raises StudyError that says what changed. Keeps the photographs' hashes where the study has none yet."""
    changes = data_changes(ledger, here, images)
    if changes:
        raise StudyError(
            f"a study keeps its photographs and labels; in {data_dir} {', '.join(changes)}; give the old data, or "
            "search in another folder"
        )
    if ledger.photographs() is None:
        ledger.write_photographs(photograph_table(images))


def _table_changes(recorded: pd.DataFrame, here: pd.DataFrame) -> Iterator[str]:
    then, now = recorded.set_index("image_id"), here.set_index("image_id")
    for verb, more, fewer in (("added", now, then), ("missing", then, now)):
        if strange := [str(name) for name in more.index if name not in fewer.index]:
            yield f"{_count(len(strange), 'photograph')} {verb} ({_named(strange)})"
    both = then.index.intersection(now.index)
    labels, facts = list(TARGETS), [name for name in then if name in now and name not in (*TARGETS, *DRAWN)]
    cells = [(name, target) for target in labels for name in _differ(then[target], now[target], both)]
    if cells:
        shown = _named([f"{name} {target}" for name, target in cells])
        yield f"{_count(len(cells), 'label')} changed ({shown})"
    for column in facts:
        if names := _differ(then[column], now[column], both):
            yield f"{column} of {_count(len(names), 'photograph')} changed ({_named(names)})"


def _differ(then: pd.Series, now: pd.Series, both: pd.Index) -> list[str]:
    one, other = then.loc[both], now.loc[both]
    same = (one == other) | (one.isna() & other.isna())
    return [str(name) for name in both[~same.to_numpy(dtype=bool)]]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(str, list(names)[:NAMED])) + (", ..." if len(names) > NAMED else "")
