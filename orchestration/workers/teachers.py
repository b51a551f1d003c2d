"""Teachers of a study: fitted once per fold and settings, stored, and shared by the trials that ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import filelock
import numpy as np
import pandas as pd

from biomass_models.families.configs import TeacherConfig
from biomass_models.families.distilled.teacher import Taught, fit_teacher
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.targets import TARGETS
from orchestration.study.ledger import Ledger
from orchestration.study.records import TeacherRecord
from orchestration.study.seeds import content_id, derive_seed

LOOK_AGAIN = 0.5  # seconds between two looks at `should_stop` while another worker fits the teacher


def teacher_id(config: TeacherConfig) -> str:
    """Names a teacher within a study, which fixes folds and seed."""
    return content_id("teacher", asdict(config), length=10)


def teacher_of(
    ledger: Ledger,
    config: TeacherConfig,
    quadrats: pd.DataFrame,
    fold: int,
    *,
    study_seed: int,
    lock_dir: Path,
    should_stop: ShouldStop | None = None,
) -> Taught:
    """The stored teacher of a fold, or a new one.

    lock_dir: a folder of the node, so that its workers do not fit the same one at once; two nodes may, and the last to
    write stays. Raises FitError, StopRequested.
    """
    identity = teacher_id(config)
    if (found := _stored(ledger, identity, quadrats, fold)) is not None:
        return found
    lock_dir.mkdir(parents=True, exist_ok=True)
    lock = content_id(ledger.storage.uri, identity, fold, length=16)
    with _held(filelock.FileLock(lock_dir / f"teacher-{lock}.lock"), should_stop):
        if (found := _stored(ledger, identity, quadrats, fold)) is not None:
            return found
        seed = derive_seed(study_seed, "teacher", identity, fold)
        fold_N = quadrats["fold"].to_numpy()
        taught = fit_teacher(config, quadrats, fold_N, fold, seed=seed, should_stop=should_stop)
        targets = quadrats.loc[fold_N != fold, ["image_id"]].reset_index(drop=True)
        targets[list(TARGETS)] = taught.mass_MT
        score = None if np.isnan(taught.score) else taught.score
        ledger.write_teacher(identity, targets, TeacherRecord(settings=asdict(config), fold=fold, score=score))
        return taught


@contextmanager
def _held(lock: filelock.BaseFileLock, should_stop: ShouldStop | None) -> Iterator[None]:
    while True:
        check_stop(should_stop, "waiting for another worker's teacher")
        with suppress(filelock.Timeout):
            lock.acquire(timeout=LOOK_AGAIN)
            break
    try:
        yield
    finally:
        lock.release()


def _stored(ledger: Ledger, identity: str, quadrats: pd.DataFrame, fold: int) -> Taught | None:
    found = ledger.teacher(identity, fold)
    if found is None:
        return None
    targets, record = found
    rows = targets.set_index("image_id").loc[quadrats.loc[quadrats["fold"] != fold, "image_id"]]
    return Taught(rows[list(TARGETS)].to_numpy(), np.nan if record.score is None else record.score)
