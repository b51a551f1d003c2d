"""Artefacts that the trials of a study share (families.base.Shared): fitted once per fold and settings, then stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

from biomass_models.families.base import Artefact, Shared
from biomass_models.interrupt import ShouldStop, check_stop
from orchestration.study.ledger import Ledger
from orchestration.study.records import SharedRecord
from orchestration.study.seeds import content_id, derive_seed

LOOK_AGAIN = 0.5  # seconds between two looks at `should_stop` while another worker fits the artefact


def artefact_id(shared: Shared, settings: Any) -> str:
    """Names an artefact within a study, which fixes folds and seed."""
    return content_id(shared.name, asdict(settings), length=10)


def artefact_of(
    ledger: Ledger,
    shared: Shared,
    settings: Any,
    quadrats: pd.DataFrame,
    fold: int,
    *,
    study_seed: int,
    lock_dir: Path,
    should_stop: ShouldStop | None = None,
) -> Artefact:
    """The stored artefact of a fold, or a new one. quadrats: what the fold trains on, and what it holds out.

    lock_dir: a folder of the node, so that its workers do not fit the same one at once; two nodes may, and the last to
    write stays. Raises FitError, StopRequested.
    """
    identity = artefact_id(shared, settings)
    if (found := _stored(ledger, shared.name, identity, quadrats, fold)) is not None:
        return found
    lock_dir.mkdir(parents=True, exist_ok=True)
    lock = content_id(ledger.storage.uri, identity, fold, length=16)
    with _held(filelock.FileLock(lock_dir / f"{shared.name}-{lock}.lock"), should_stop):
        if (found := _stored(ledger, shared.name, identity, quadrats, fold)) is not None:
            return found
        seed = derive_seed(study_seed, shared.name, identity, fold)
        fold_N = quadrats["fold"].to_numpy()
        made = shared.fit(settings, quadrats, fold_N, fold, seed=seed, should_stop=should_stop)
        score = None if np.isnan(made.score) else made.score
        record = SharedRecord(settings=asdict(settings), fold=fold, score=score)
        ledger.write_shared(shared.name, identity, made.table, record)
        return made


@contextmanager
def _held(lock: filelock.BaseFileLock, should_stop: ShouldStop | None) -> Iterator[None]:
    while True:
        check_stop(should_stop, "waiting for what another worker fits for all trials")
        with suppress(filelock.Timeout):
            lock.acquire(timeout=LOOK_AGAIN)
            break
    try:
        yield
    finally:
        lock.release()


def _stored(ledger: Ledger, name: str, identity: str, quadrats: pd.DataFrame, fold: int) -> Artefact | None:
    found = ledger.shared(name, identity, fold)
    if found is None:
        return None
    table, record = found
    rows = table.set_index("image_id").loc[quadrats.loc[quadrats["fold"] != fold, "image_id"]].reset_index()
    return Artefact(rows, np.nan if record.score is None else record.score)
