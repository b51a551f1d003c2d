"""Records of studies in which no model is fitted: typed, with a value for each field that a test does not care about.

`hand_made_study` grows a small study step by step from them, `told_study` writes one of any size at once; a test with a
study of its own kind builds it from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from biomass_models.families.configs import config_to_params
from biomass_models.targets import TARGETS, FloatArray
from orchestration.study.records import (
    COMPLETE,
    FAILED,
    PRUNED,
    REFUSED,
    Decision,
    FoldMetrics,
    Params,
    StudyRecord,
    TrialRecord,
    TrialResult,
)
from orchestration.study.settings import StudySettings
from search_spaces.spaces import space_of

BACKBONE = "test_vit"


def study_record(settings: Mapping[str, Any] | None = None, **changes: Any) -> StudyRecord:
    """settings, changes: fields of StudySettings and of StudyRecord that differ from a probe on a nameless backbone."""
    asked = StudySettings(**{"families": ("probe",), "backbones": ("net",), **(settings or {})})
    return StudyRecord(**{"settings": asked, "data_fingerprint": "d", "fold_hash": "f", **changes})


def trial_record(number: int = 0, **changes: Any) -> TrialRecord:
    """An open trial of the probe without settings, whose id is its number."""
    plain: dict[str, Any] = {
        "trial_id": f"{number:010x}", "family": "probe", "params": {}, "config": {}, "weights": "w", "seed": 0,
        "why": "proposed", "proposed_at": 0.0,
    }  # fmt: skip
    return TrialRecord(number=number, **{**plain, **changes})


def drawn(family: str, params: Params | None = None) -> dict[str, Params]:
    """params and config of a family's first trial; params: what is recorded as drawn beside it, for trial_record."""
    space = space_of(family, (BACKBONE,), "smoke")
    first = dict(space.first_trials[0])
    return {"params": first | dict(params or {}), "config": config_to_params(space.config(first))}


def fold_metrics(fold: int, score: float | None = 0.5, **changes: Any) -> FoldMetrics:
    return FoldMetrics(fold=fold, score=score, **{"seconds": 1.0, "peak_memory_mb": 1.0, **changes})


def complete(score: float, **changes: Any) -> TrialResult:
    return TrialResult(status=COMPLETE, score=score, **changes)


def pruned(estimate: float, **changes: Any) -> TrialResult:
    """With the decision that ended it after one fold, unless the changes have another reason."""
    decision = Decision(
        rule="default", prune=True, after_fold=0, folds_done=1, against="0000", p=0.004, groups=5, gain=0.0003,
        estimate=estimate,
    )  # fmt: skip
    ended = {"decisions": (decision,), "reason": str(decision), "folds_done": 1}
    return TrialResult(status=PRUNED, estimate=estimate, **{**ended, **changes})


def failed(reason: str, **changes: Any) -> TrialResult:
    return TrialResult(status=FAILED, reason=reason, **changes)


def refused(estimated_seconds: float, limit_seconds: float, **changes: Any) -> TrialResult:
    """A trial that was not started, since its folds would take too long."""
    limit, estimate = f"a fold may take {limit_seconds:.0f} s (--max-fold-seconds)", f"{estimated_seconds:.0f} s"
    reason = f"{limit}, this one is estimated at {estimate}"
    seconds = {"estimated_seconds": estimated_seconds, "limit_seconds": limit_seconds}
    return TrialResult(status=REFUSED, reason=reason, **seconds, **changes)


def oof_of(quadrats: pd.DataFrame, pred_NT: FloatArray | None = None, fold: int | None = None) -> pd.DataFrame:
    """An out-of-fold table; pred_NT: by default the measured masses themselves; fold: whose rows, by default all."""
    table = quadrats[["image_id", "fold", "group", *TARGETS]].copy()
    if pred_NT is not None:
        table[list(TARGETS)] = np.asarray(pred_NT)
    return table if fold is None else table[table["fold"] == fold]
