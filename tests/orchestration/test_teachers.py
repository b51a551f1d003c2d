"""Teachers in the ledger: fitted once, shared by trials, never read when they are not whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_study import make_study

from biomass_models.families.base import Artefact
from biomass_models.families.distilled.config import DistilledConfig, TeacherConfig
from biomass_models.families.registry import model
from biomass_models.targets import TARGETS
from orchestration.inspect.leaderboard import leaderboard
from orchestration.search.trial import run_trial
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage
from orchestration.workers.shared import artefact_id, artefact_of
from orchestration.workers.slots.inline_pool import InlinePool

TEACHER = model("distilled").shared
assert TEACHER is not None
SMALL = TeacherConfig(width=8, width_2=8, epochs=5)


def masses(artefact: Artefact) -> bytes:
    return artefact.table[list(TARGETS)].to_numpy().tobytes()


@pytest.mark.slow
def test_trials_share_the_teachers_of_their_study(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    first = next(record for record in records if record.family == "distilled")
    twin = replace(first, trial_id="0123456789", number=9, config=first.config | {"epochs": 2, "ratio_weight": 0.5})
    ledger.write_trial(twin)
    assert run_trial(ledger, InlinePool(context), first.trial_id) is not None
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "teachers").rglob("*.*")}
    assert len(files) == 3 * 2  # three folds, targets and marker
    result = run_trial(ledger, InlinePool(context), twin.trial_id)
    assert result is not None and result.status == "complete"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "teachers").rglob("*.*")} == files
    teacher = DistilledConfig(**first.config).teacher_config()
    assert teacher is not None
    board = {row.name: row.notes for row in leaderboard(StudyData(ledger))}
    assert any(note == f"teacher {result.teacher_score:.2f}" for note in board[twin.trial_id])
    info = ledger.fold_metrics(twin.trial_id, 1).info
    assert info["teacher"] == artefact_id(TEACHER, teacher)
    stored = ledger.shared("teacher", artefact_id(TEACHER, teacher), 1)
    assert stored is not None and stored[1].score == info["teacher_score"]


def test_what_is_stored_is_what_was_fitted(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, _, _ = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    quadrats = ledger.quadrats()
    fitted, stored = (
        artefact_of(ledger, TEACHER, SMALL, quadrats, 2, study_seed=0, lock_dir=tmp_path / "locks") for _ in range(2)
    )
    assert masses(stored) == masses(fitted)
    assert stored.score == fitted.score
    targets, record = ledger.shared("teacher", artefact_id(TEACHER, SMALL), 2) or (None, None)
    assert targets is not None and record is not None
    assert set(targets["image_id"]) == set(quadrats.loc[quadrats["fold"] != 2, "image_id"])
    np.testing.assert_array_equal(targets[list(TARGETS)], fitted.table[list(TARGETS)])
    other = artefact_of(ledger, TEACHER, SMALL, quadrats, 2, study_seed=1, lock_dir=tmp_path / "locks")
    assert masses(other) == masses(fitted)  # within one study the first one stays


def test_half_a_teacher_and_a_changed_one_are_fitted_again(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, _, _ = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    quadrats = ledger.quadrats()
    folder = tmp_path / "study" / "teachers" / artefact_id(TEACHER, SMALL) / "fold-0"
    fitted = artefact_of(ledger, TEACHER, SMALL, quadrats, 0, study_seed=0, lock_dir=tmp_path)
    (folder / "teacher.json").unlink()
    assert ledger.shared("teacher", artefact_id(TEACHER, SMALL), 0) is None
    artefact_of(ledger, TEACHER, SMALL, quadrats, 0, study_seed=0, lock_dir=tmp_path)
    other = Ledger(Storage(tmp_path / "study"))
    targets = other.shared("teacher", artefact_id(TEACHER, SMALL), 0)
    assert targets is not None
    targets[0]["Dry_Total_g"] += 1.0
    targets[0].to_parquet(folder / "targets.parquet")
    assert ledger.shared("teacher", artefact_id(TEACHER, SMALL), 0) is None
    again = artefact_of(ledger, TEACHER, SMALL, quadrats, 0, study_seed=0, lock_dir=tmp_path)
    assert masses(again) == masses(fitted)
    assert ledger.shared("teacher", artefact_id(TEACHER, SMALL), 0) is not None
