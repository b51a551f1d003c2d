"""A study whose trials are written by hand: no model is fitted, every number is known."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import study_records as records

from biomass_models.targets import TARGETS
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage

FOLDS = 3
FAMILIES = ("probe", "baseline")
COST = {"seconds": 3.0, "peak_memory_mb": 1.0}


def empty_study(folder: Path | str) -> Ledger:
    """Settings and six images in three folds."""
    ledger = Ledger(Storage(folder))
    quadrats = pd.DataFrame({"image_id": [f"ID{row}" for row in range(6)], "fold": [0, 0, 1, 1, 2, 2], "group": "g"})
    quadrats[list(TARGETS)] = np.arange(30.0).reshape(6, 5)
    settings = {"families": FAMILIES, "backbones": (records.BACKBONE,), "scale": "smoke", "folds": FOLDS}
    facts = {"created_at": 1e9, "weights": {records.BACKBONE: "w"}, "versions": {"torch": "2.0"}}
    ledger.write_study(records.study_record(settings, **facts), quadrats)
    return ledger


def propose(ledger: Ledger, number: int, family: str = "probe", params: Mapping[str, Any] | None = None) -> str:
    """An open trial; its id says its number."""
    trial = records.trial_record(number, family=family, proposed_at=1e9 + 10 * number, **records.drawn(family, params))
    ledger.write_trial(trial)
    return trial.trial_id


def finish_fold(ledger: Ledger, trial_id: str, fold: int, score: float | None) -> None:
    metrics = records.fold_metrics(fold, score, peak_memory_mb=0.0, started_at=1e9, finished_at=1e9 + 1)
    ledger.write_fold(trial_id, oof=records.oof_of(ledger.quadrats(), fold=fold), model=b"", metrics=metrics)


def complete(ledger: Ledger, trial_id: str, score: float) -> None:
    ending = {"fold_scores": (score - 0.1, score, score + 0.1), "folds_done": FOLDS, "ended_at": time.time()}
    ledger.write_result(trial_id, records.complete(score, **ending, **COST))


def prune(ledger: Ledger, trial_id: str, estimate: float) -> None:
    ending = {"reason": "hopeless after fold 1", "decisions": (), "ended_at": time.time()}
    ledger.write_result(trial_id, records.pruned(estimate, **ending, **COST))


def fail(ledger: Ledger, trial_id: str, reason: str) -> None:
    ledger.write_result(trial_id, records.failed(reason, ended_at=time.time(), **COST))
