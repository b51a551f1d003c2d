"""Whether a data directory still is what a study learned from, and in words what is not.

Needs no torch: reports are read on laptops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from biomass_models.counted import counted
from biomass_models.data.images import digest_of, file_digest
from biomass_models.data.photographs import PUBLISHED_SIZE, unlike_shapes
from biomass_models.data.table import TEST_FILE, read_test, read_train, train_file
from biomass_models.targets import TARGETS
from orchestration.study.ledger import Ledger
from orchestration.study.records import StudyRecord
from orchestration.study.seeds import content_id
from orchestration.study.settings import StudyError

NAMED = 3  # photographs or labels that a message names
CHANGES = 3  # that a message names
DRAWN = ("fold", "group")  # columns that a study adds to the table


def data_fingerprint(quadrats: pd.DataFrame, image_digest: str) -> str:
    """Of all that a study learns from: its table with groups, one row an image, and the photographs' contents."""
    return content_id(quadrats.drop(columns=["fold"]).to_csv(index=False), image_digest)


def photograph_table(here: pd.DataFrame, digests: Sequence[str]) -> pd.DataFrame:
    """image_id, blake2b: what `Ledger.write_photographs` keeps."""
    return pd.DataFrame({"image_id": here["image_id"], "blake2b": list(digests)})


def data_changes(ledger: Ledger, here: pd.DataFrame, digests: Sequence[str]) -> list[str]:
    """In words what the study's photographs and labels are not any more; empty where they are the same.

    here, digests: the table as it is read now and the content hash of each row's photograph.
    """
    recorded, study = all_quadrats(ledger), ledger.study()
    joined = here.merge(recorded[["image_id", *DRAWN]], on="image_id", how="left")
    if data_fingerprint(joined, digest_of(digests)) == study.data_fingerprint:
        return []
    found = list(_table_changes(recorded, here))
    known = ledger.photographs()
    if known is not None:
        now = dict(zip(here["image_id"], digests, strict=True))
        then = dict(zip(known["image_id"], known["blake2b"], strict=True))
        if replaced := [name for name, digest in then.items() if now.get(name, digest) != digest]:
            found.append(f"{counted(len(replaced), 'photograph')} replaced ({_named(replaced)})")
    elif not found:
        found.append("photographs replaced (which, version 0.1.0 did not record)")
    return found


def names_in(ledger: Ledger, image_ids: Sequence[str], digests: Sequence[str]) -> list[str]:
    """What a study calls photographs of a later table, by what the files hold; those that it does not have keep theirs.

    A name is a file's, with its folders once another file is called so: more photographs may rename those that were
    there (quadrats.image_ids).
    """
    known, own = ledger.photographs(), list(map(str, image_ids))
    if known is None:
        return own
    name_of = dict(zip(known["blake2b"], known["image_id"].astype(str), strict=True))
    there = [name_of.pop(digest, None) for digest in digests]  # the first of photographs that are the same
    found = [mine if name is None else name for name, mine in zip(there, own, strict=True)]
    return found if len(set(found)) == len(found) else own


def all_quadrats(ledger: Ledger) -> pd.DataFrame:
    """The study's quadrats and those that its exam keeps."""
    kept = ledger.exam_quadrats()
    return ledger.quadrats() if kept is None else pd.concat([ledger.quadrats(), kept], ignore_index=True)


def require_same_data(ledger: Ledger, data_dir: Path, here: pd.DataFrame, digests: Sequence[str]) -> None:
    """Raises StudyError that says what changed. Keeps the photographs' hashes where the study has none yet."""
    changes = data_changes(ledger, here, digests)
    if changes:
        raise StudyError(
            "a study keeps its photographs and labels: give the old data, or search in another folder; in "
            f"{data_dir} {_shown(changes)}"
        )
    if ledger.photographs() is None:
        ledger.write_photographs(photograph_table(here, digests))


def data_notices(ledger: Ledger, data_dir: Path) -> Iterator[str]:
    """Sentences for whoever shows or predicts photographs, on what is not as it was when the study was searched.

    A directory without labels, or with none of the study's images, is another test set and is left alone.
    """
    study = ledger.study()
    file = train_file(data_dir)
    if (data_dir / file).exists():
        here, recorded = read_train(data_dir), set(ledger.quadrats()["image_id"])
        missing = [path for path in here["image_path"] if not (data_dir / path).is_file()]
        if missing:
            lost = f"{counted(len(missing), 'photograph')} of {file} ({_named(missing)})"
            yield f"{data_dir} lacks {lost}; get them back"
        elif recorded & set(here["image_id"]):
            digests = [file_digest(data_dir / str(path)) for path in here["image_path"]]
            if changes := data_changes(ledger, here, digests):
                yield f"{data_dir} is not as it was searched: {_shown(changes)}; give the --data of the search"
    if (data_dir / TEST_FILE).exists():
        paths = [data_dir / str(path) for path in read_test(data_dir)["image_path"]]
        if odd := shape_notice(study, paths):
            yield odd


def shape_notice(study: StudyRecord, paths: Sequence[Path]) -> str | None:
    """A sentence on new photographs of another shape than those that a study learned from."""
    return unlike_shapes(paths, study.photograph_size or PUBLISHED_SIZE, study.settings.fit)


def _table_changes(recorded: pd.DataFrame, here: pd.DataFrame) -> Iterator[str]:
    then, now = recorded.set_index("image_id"), here.set_index("image_id")
    for verb, more, fewer in (("added", now, then), ("missing", then, now)):
        if strange := [str(name) for name in more.index if name not in fewer.index]:
            yield f"{counted(len(strange), 'photograph')} {verb} ({_named(strange)})"
    both = then.index.intersection(now.index)
    labels, facts = list(TARGETS), [name for name in then if name in now and name not in (*TARGETS, *DRAWN)]
    cells = [(name, target) for target in labels for name in _differ(then[target], now[target], both)]
    if cells:
        shown = _named([f"{name} {target}" for name, target in cells])
        yield f"{counted(len(cells), 'label')} changed ({shown})"
    for column in facts:
        if names := _differ(then[column], now[column], both):
            yield f"{column} of {counted(len(names), 'photograph')} changed ({_named(names)})"


def _differ(then: pd.Series, now: pd.Series, both: pd.Index) -> list[str]:
    one, other = then.loc[both], now.loc[both]
    same = (one == other) | (one.isna() & other.isna())
    return [str(name) for name in both[~same.to_numpy(dtype=bool)]]


def _shown(changes: Sequence[str]) -> str:
    more = len(changes) - CHANGES
    return ", ".join(changes[:CHANGES]) + (f", {counted(more, 'more change')}" if more > 0 else "")


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(str, list(names)[:NAMED])) + (", ..." if len(names) > NAMED else "")
