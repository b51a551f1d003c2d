"""A study whose trials are written by hand: no model is fitted, every number is known."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biomass_models.families.configs import config_to_params
from biomass_models.targets import TARGETS
from orchestration.study.ledger import Ledger
from orchestration.study.records import FoldMetrics, StudyRecord, TrialRecord, TrialResult
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from search_spaces.spaces import space_of

FOLDS = 3
FAMILIES = ("probe", "baseline")
COST = {"seconds": 3.0, "peak_memory_mb": 1.0}
_SPACES = {family: space_of(family, ("test_vit",), "smoke") for family in FAMILIES}


def empty_study(folder: Path | str) -> Ledger:
    """Settings and six images in three folds."""
    ledger = Ledger(Storage(folder))
    quadrats = pd.DataFrame({"image_id": [f"ID{row}" for row in range(6)], "fold": [0, 0, 1, 1, 2, 2], "group": "g"})
    quadrats[list(TARGETS)] = np.arange(30.0).reshape(6, 5)
    settings = StudySettings(families=FAMILIES, backbones=("test_vit",), scale="smoke", n_folds=FOLDS)
    facts = {"data_fingerprint": "d", "fold_hash": "f", "weights": {"test_vit": "w"}, "versions": {"torch": "2.0"}}
    ledger.write_study(StudyRecord(settings=settings, created_at=1e9, **facts), quadrats)
    return ledger


def propose(ledger: Ledger, number: int, family: str = "probe", params: Mapping[str, Any] | None = None) -> str:
    """An open trial; its id says its number."""
    space = _SPACES[family]
    params = dict(space.first_trials[0]) | dict(params or {})
    config = config_to_params(space.config(dict(space.first_trials[0])))
    trial_id = f"{number:010x}"
    ledger.write_trial(
        TrialRecord(
            trial_id=trial_id, number=number, family=family, params=params, config=config, weights="w", seed=0,
            why="proposed", proposed_at=1e9 + 10 * number,
        )
    )  # fmt: skip
    return trial_id


def finish_fold(ledger: Ledger, trial_id: str, fold: int, score: float | None) -> None:
    rows = ledger.quadrats().query("fold == @fold")
    metrics = FoldMetrics(fold=fold, score=score, seconds=1.0, started_at=1e9, finished_at=1e9 + 1)
    ledger.write_fold(trial_id, oof=rows[["image_id", "fold", "group", *TARGETS]], model=b"", metrics=metrics)


def complete(ledger: Ledger, trial_id: str, score: float) -> None:
    ending = {"score": score, "fold_scores": (score - 0.1, score, score + 0.1), "folds_done": FOLDS}
    ledger.write_result(trial_id, TrialResult(status="complete", ended_at=time.time(), **ending, **COST))


def prune(ledger: Ledger, trial_id: str, estimate: float) -> None:
    ending = {"estimate": estimate, "reason": "hopeless after fold 1", "folds_done": 1}
    ledger.write_result(trial_id, TrialResult(status="pruned", ended_at=time.time(), **ending, **COST))


def fail(ledger: Ledger, trial_id: str, reason: str) -> None:
    ledger.write_result(trial_id, TrialResult(status="failed", reason=reason, ended_at=time.time(), **COST))
