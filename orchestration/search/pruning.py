"""The pruning decision: is a trial worth its remaining folds? Pure functions of predictions; no files, no Ray.

n images of the folds that the trial has finished, N images of the study, T = 5 targets, G groups (dates) among the n.
trial_nT, incumbent_nT, ensemble_nT   out-of-fold predictions of the same images, grams      truth_nT   measured masses
loss_n                                weighted squared error of one image, g^2: what the metric sums up

A rule that asks only "can it still become the best?" starves the later ensemble. A trial is therefore pruned when it
is BOTH clearly worse than the best complete trial, by a paired one-sided t-test on the mean loss difference of each
group (images of one day share their errors, so the group is the unit: G - 1 degrees of freedom), AND of no use to the
current ensemble, because even the best convex mixture with it hardly gains on the rows that are there.
The README has what this saved and cost; `biomass replay` measures it on any study that was searched without pruning.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr

from biomass_models.targets import FloatArray, project_coherent, squared_error, weight_T, weighted_square
from orchestration.study.records import Decision
from orchestration.study.seeds import derive_seed

NEVER_FIRST = 10  # trials of a study that are never pruned: there is nothing sound yet to compare with
SURVIVORS = 0.05  # share of the others that are spared by lot, so that the rule's own errors can be seen


@dataclass(frozen=True, kw_only=True)
class PruneRule:
    """Limits of the two conditions; a trial is pruned when both its numbers lie below."""

    name: str
    p_below: float  # of the paired test against the incumbent
    gain_below: float  # relative fall of the ensemble's loss through the best convex mixture


RULES: dict[str, PruneRule | None] = {
    "off": None,
    "default": PruneRule(name="default", p_below=0.01, gain_below=0.002),
    # spends less on doubtful trials: for budgets so short that the ensemble will be small anyway
    "strict": PruneRule(name="strict", p_below=0.05, gain_below=0.005),
}


def decide(
    rule: PruneRule,
    trial_nT: ArrayLike,
    incumbent_nT: ArrayLike,
    ensemble_nT: ArrayLike,
    truth_nT: ArrayLike,
    group_n: ArrayLike,
    *,
    incumbent: str,
    incumbent_score: float,
    sst_an_image: float,
    after_fold: int,
    folds_done: int,
) -> Decision:
    """Apply a rule on the rows that a trial has finished.

    incumbent_score: R2 of its pooled rows; sst_an_image: the study's SST / N in g^2, which turns a loss difference
    into a difference of scores. Raises ValueError for arrays of unlike shapes or without rows.
    """
    trial, best, ensemble, truth = (
        np.asarray(array, dtype=np.float64) for array in (trial_nT, incumbent_nT, ensemble_nT, truth_nT)
    )
    if not trial.shape == best.shape == ensemble.shape == truth.shape or not len(truth):
        raise ValueError(
            "a pruning decision needs the same rows of trial, incumbent, ensemble and truth, got shapes "
            f"{trial.shape}, {best.shape}, {ensemble.shape}, {truth.shape}"
        )
    difference_n = squared_error(truth, trial) - squared_error(truth, best)
    p, groups = paired_p(difference_n, group_n)
    gain = convex_gain(truth - ensemble, truth - project_coherent(trial))
    return Decision(
        rule=rule.name,
        prune=p < rule.p_below and gain < rule.gain_below,
        after_fold=after_fold,
        folds_done=folds_done,
        against=incumbent,
        p=p,
        groups=groups,
        gain=gain,
        estimate=incumbent_score - float(difference_n.mean()) / sst_an_image,
    )


def paired_p(difference_n: ArrayLike, group_n: ArrayLike) -> tuple[float, int]:
    """One-sided p of "the mean difference is not positive", by a t-test on the groups' means; and the groups G.

    With fewer than two groups nothing can be said, and p is 1.
    """
    difference = np.asarray(difference_n, dtype=np.float64)
    _, group = np.unique(np.asarray(group_n), return_inverse=True)
    count_G = np.bincount(group)
    mean_G = np.bincount(group, weights=difference) / count_G
    groups = len(mean_G)
    if groups < 2:
        return 1.0, groups
    mean, error = float(mean_G.mean()), float(mean_G.std(ddof=1)) / groups**0.5
    if error == 0.0:  # every group says exactly the same
        return (0.0 if mean > 0 else 1.0), groups
    # scipy.stats.t.sf to the last bit, without scipy.stats, which each coordinator would load for it
    return float(stdtr(groups - 1, -mean / error)), groups


def convex_gain(ensemble_residual_nT: FloatArray, residual_nT: FloatArray) -> float:
    """Relative fall of the ensemble's loss through its best mixture (1 - w) ensemble + w trial, 0 <= w <= 1."""
    own = float(weighted_square(ensemble_residual_nT).sum())
    step_nT = residual_nT - ensemble_residual_nT
    cross, length = (float((weight_T * part * step_nT).sum()) for part in (ensemble_residual_nT, step_nT))
    if own == 0.0 or length == 0.0:
        return 0.0
    weight = min(max(-cross / length, 0.0), 1.0)
    return max(0.0, -(2 * weight * cross + weight**2 * length) / own)


def spared(number: int, backbone: str, known_backbones: Collection[str], trial_id: str) -> str | None:
    """Why a trial is never pruned, or None when it may be.

    number: order of proposal in the study; known_backbones: of the trials proposed before it.
    """
    if number < NEVER_FIRST:
        return f"one of the first {NEVER_FIRST}"
    if backbone not in known_backbones:
        return "first of its backbone"
    if derive_seed("survivor", trial_id) % 1000 < 1000 * SURVIVORS:
        return "spared by lot"
    return None
