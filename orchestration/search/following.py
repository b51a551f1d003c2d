"""A study of more labelled photographs: what it takes over from the one before, and what is another now.

Its first trials are the settings that were best there. Nothing of the old scores is observed: they are of other data.
Loads neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from biomass_models.families.introduced import fill_config
from orchestration.progress import Say
from orchestration.study.data import StudyData
from orchestration.study.data_changes import all_quadrats, data_changes, names_in
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import Params, StudyRecord
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from search_spaces.domain import SearchSpace
from search_spaces.nearest import has_backbone, moved_to, origins_of, with_origins

SETTINGS = 5  # of each family that are proposed first


def followed(study: str, old: str) -> StudyData:
    """The study that `study` follows. Raises StudyError where there is none, and for itself."""
    storage = Storage(old)
    if storage.uri == Storage(study).uri:
        raise StudyError(f"a study follows another one, got {old} for both; search in a new folder (--from {old})")
    ledger = Ledger(storage)
    if ledger.find_study() is None:
        raise StudyError(f"--from names a study, there is none in {old}; give its folder, or leave --from out")
    return StudyData(ledger)


def is_there(study: str) -> bool:
    """Whether a study can be opened there."""
    try:
        return Ledger(Storage(study)).find_study() is not None
    except LedgerError:
        return False


def follow_moved(ledger: Ledger, record: StudyRecord, typed: str | None, say: Say) -> StudyRecord:
    """The record of a study whose followed study may have been moved or removed since; says so.

    What it gave is stored in this study's ranges, so that a search goes on without it. typed: where a command names it
    now; if a study is there, pages compare with that one from now on.
    """
    if record.follows is None or is_there(record.follows):
        return record
    if typed is None or not is_there(typed):
        say(
            f"note: the study that this one follows is not in {record.follows} any more; its best settings are kept "
            "here, but pages cannot compare with it (--from names where it is now)"
        )
        return record
    say(f"The study that this one follows was {record.follows} and is read from {typed} now")
    record = replace(record, follows=Storage(typed).uri)
    ledger.update_study(record)
    return record


def known_images(old: StudyData, here: pd.DataFrame, digests: Sequence[str]) -> pd.DataFrame:
    """image_id and group of every image that the old study, or one that it followed, has learned from or was examined
    on, by its name in `here`; of a study that is gone nothing is known.

    digests: content hash of each row's photograph.
    """
    tables, uris = [], set[str]()
    ledger: Ledger | None = old.ledger
    while ledger is not None and ledger.storage.uri not in uris and ledger.find_study() is not None:
        known = all_quadrats(ledger)[["image_id", "group"]]
        name_here = dict(zip(names_in(ledger, here["image_id"].tolist(), digests), here["image_id"], strict=True))
        tables.append(known.assign(image_id=[name_here.get(name, name) for name in known["image_id"]]))
        uris.add(ledger.storage.uri)
        earlier = ledger.study().follows
        ledger = None if earlier is None else Ledger(Storage(earlier))
    return pd.concat(tables, ignore_index=True)


def changes_since(old: StudyData, here: pd.DataFrame, digests: Sequence[str]) -> str:
    """A sentence on what is another in these data: photographs added, missing or replaced, labels changed."""
    here = here.assign(image_id=names_in(old.ledger, here["image_id"].tolist(), digests))
    found = data_changes(old.ledger, here, digests)
    return f"Since {old.name}: {', '.join(found) if found else 'the same photographs and labels'}"


def begin_with(old: StudyData, spaces: Mapping[str, SearchSpace], say: Say) -> dict[str, SearchSpace]:
    """The spaces, whose first trials are now the best settings of the old study, each at the nearest point of these
    ranges, then their own; says which."""
    found = {}
    for family, space in spaces.items():
        ranked = [trial for trial in old.ranked if trial.family == family and trial.record.second_round is None]
        best: dict[str, Mapping[str, Any]] = {}  # configuration by trial
        points: list[Params] = []
        known = [trial.record.params for trial in ranked]
        for trial in ranked:
            config = fill_config(family, trial.record.config)
            if len(best) == SETTINGS or not has_backbone(space, config):
                continue
            moved = moved_to(space, config)
            if moved.refusal is None and moved.params not in points:
                best[trial.trial_id] = config
                points.append(moved.params)
                if moved.fields:
                    say(f"{family}: {trial.trial_id} is moved to the ranges of this search: {', '.join(moved.fields)}")
        found[family] = with_origins(space, [*best.values(), *origins_of(space)], [*known, *space.first_trials])
        if best:
            say(f"{family} begins with the {len(best)} best settings of {old.name}: {', '.join(best)}")
        elif ranked:
            say(
                f"{family}: no setting of {old.name} has a backbone of this search and is accepted in its ranges; it "
                "begins as a new one"
            )
    return found
