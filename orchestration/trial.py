"""The coordinator of one trial: hands its missing folds to the pool, and closes the trial in the ledger."""

from __future__ import annotations

from typing import Any

import pandas as pd

from biomass_models.targets import TARGETS, weighted_r2_score
from orchestration.ledger import Ledger
from orchestration.pool import PILOT, UNDER_WAY, Job, Pool


class StorageFull(OSError):
    """A fold could not be written: nothing is wrong with the trial, but the search cannot go on."""


def run_trial(ledger: Ledger, pool: Pool, trial_id: str) -> dict[str, Any] | None:
    """Bring a trial to its end and return its result, or None when it was stopped before its end.

    Folds that are in the ledger are not computed again. The score is that of the pooled OOF rows (SPEC 2).
    Raises StorageFull.
    """
    if (result := ledger.result(trial_id)) is not None:
        return result
    quadrats = ledger.quadrats()
    folds = sorted(int(fold) for fold in quadrats["fold"].unique())
    metrics = {fold: found for fold in folds if (found := ledger.fold_metrics(trial_id, fold)) is not None}
    missing = [fold for fold in folds if fold not in metrics]
    jobs: list[Job] = [{"kind": "fold", "trial_id": trial_id, "fold": fold} for fold in missing]
    reason, stopped = None, False
    for job, outcome in pool.run(jobs, UNDER_WAY if metrics else PILOT):
        if outcome["status"] == "done":
            metrics[job["fold"]] = outcome["metrics"]
        elif outcome["status"] == "failed" and reason is None:
            reason = f"fold {job['fold']}: {outcome['reason']}"
            pool.drop(trial_id)
        elif outcome["status"] == "no room":
            raise StorageFull(
                f"a finished fold needs room, {ledger.storage.uri} has none ({outcome['reason']}); "
                "make room, then give the same command again"
            )
        elif outcome["status"] == "stopped":
            stopped = True
    if reason is not None:
        result = {"status": "failed", "score": None, "reason": reason, **_cost(metrics)}
        ledger.write_result(trial_id, result)
        return result
    if stopped:
        return None
    oof = pd.concat([ledger.fold_oof(trial_id, fold) for fold in folds])
    oof = oof.set_index("image_id").loc[quadrats["image_id"]].reset_index()
    truth_NT, pred_NT = quadrats[list(TARGETS)].to_numpy(), oof[list(TARGETS)].to_numpy()
    result = {
        "status": "complete",
        "score": weighted_r2_score(truth_NT, pred_NT),
        "fold_scores": [metrics[fold]["score"] for fold in folds],
        "target_rmse_g": dict(zip(TARGETS, ((truth_NT - pred_NT) ** 2).mean(0) ** 0.5, strict=True)),
        **_cost(metrics),
    }
    ledger.write_result(trial_id, result, oof)
    return result


def _cost(metrics: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {
        "folds_done": len(metrics),
        "seconds": sum(fold["seconds"] for fold in metrics.values()),
        "peak_memory_mb": max((fold["peak_memory_mb"] for fold in metrics.values()), default=0.0),
    }
