"""The pruning decision: is a trial worth its remaining folds? Pure functions of predictions; no files, no Ray.

n images of the folds that the trial has finished, N images of the study, T = 5 targets, G groups (dates) among the n.
trial_nT                out-of-fold predictions of those images, grams      truth_NT   measured masses
weight                  what each cell counts in the metric (targets.weights_of)
compared.ensemble_NT    the same of the incumbent ensemble, of all images
compared.loss_N         mean of the three best complete trials' losses: the best one alone is lucky on these rows
loss                    weighted squared error of one image, g^2: what the metric sums up

A rule that asks only "can it still become the best?" starves the later ensemble. A trial is therefore pruned when it
is BOTH clearly worse than the compared trials, by a paired one-sided t-test on the mean loss difference of each group
(images of one day share their errors, so the group is the unit: G - 1 degrees of freedom), AND of no use to the
current ensemble, because even the best convex mixture with it hardly gains on the rows that are there.
The test looks after each of K - 1 folds, and at the best of many: alpha is divided by LOOKS (K - 1).
docs/measured.md has what this prunes of equal trials; `biomass replay` measures it on any study that was searched
without pruning.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from biomass_models.targets import (
    FloatArray,
    IntArray,
    norm_of,
    project_coherent,
    squared_error,
    weight_T,
    weighted_square,
    weighted_sst,
    weights_in,
    weights_of,
)
from orchestration.study.records import Decision
from orchestration.study.seeds import derive_seed

NEVER_FIRST = 10  # the first trials, never pruned: there is nothing sound yet to compare with
SURVIVORS = 0.05  # share of the others that are exempt by lot, so that the rule's own errors can be seen


LOOKS = (
    2.0  # for the choice of the compared trials among all: without it 1.4 % of equal trials were pruned at alpha = 1 %
)
COMPARED = 3  # complete trials that are compared with
ENOUGH = 10  # complete exempt trials from which a slope is learned
# Share of the rows that are there -> slope of full on partial loss differences where too few trials can say.
SLOPES = ((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), (0.0, 0.25, 0.46, 0.65, 0.83, 1.0))


@dataclass(frozen=True, kw_only=True)
class PruneRule:
    """Limits of the two conditions; a trial is pruned when both its numbers lie below."""

    name: str
    alpha: float  # share of trials as good as the compared ones that may be pruned, over all looks
    gain_below: float  # relative fall of the ensemble's loss through the best convex mixture

    def p_below(self, folds: int) -> float:
        """Limit of p at one look, in a study of so many folds."""
        return self.alpha / (LOOKS * max(1, folds - 1))


RULES: dict[str, PruneRule | None] = {
    "off": None,
    "default": PruneRule(name="default", alpha=0.01, gain_below=0.002),
    # spends less on doubtful trials: for budgets so short that the ensemble will be small anyway
    "strict": PruneRule(name="strict", alpha=0.05, gain_below=0.005),
}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The trials that a trial is compared with to be pruned, and the incumbent ensemble."""

    names: tuple[str, ...]  # trial ids, best first
    loss_N: FloatArray  # mean of their losses, g^2
    score: float  # mean of their scores, which is that of loss_N
    ensemble_NT: FloatArray  # of the moment, grams
    exempt_MN: FloatArray  # losses of complete trials that could not be pruned, without the compared ones


def decide(
    rule: PruneRule,
    trial_nT: ArrayLike,
    compared: Compared,
    truth_NT: FloatArray,
    group_N: ArrayLike,
    row_n: IntArray,
    *,
    after_fold: int,
    folds_done: int,
    folds: int,
    weight: FloatArray | None = None,
) -> Decision:
    """Apply a rule on the rows that a trial has finished.

    row_n: those rows of the study's N; folds: of the study; weight: of the cells, by default weights_of(truth_NT).
    Raises ValueError for arrays of unlike shapes or no rows.
    """
    weight = weights_of(truth_NT) if weight is None else weight
    trial, truth = np.asarray(trial_nT, dtype=np.float64), truth_NT[row_n]
    if trial.shape != truth.shape or not len(truth):
        raise ValueError(
            f"a pruning decision needs the same rows of trial and truth, got shapes {trial.shape}, {truth.shape}"
        )
    weight_n = weights_in(weight, row_n)
    difference_n = squared_error(truth, trial, weight_n) - compared.loss_N[row_n]
    p, groups = paired_p(difference_n, np.asarray(group_N)[row_n])
    coherent = project_coherent(trial, norm_of(weight))
    gain = convex_gain(truth - compared.ensemble_NT[row_n], truth - coherent, weight_n)
    expected = expected_difference(
        float(difference_n.mean()), compared.exempt_MN - compared.loss_N, row_n, folds_done / folds
    )
    return Decision(
        rule=rule.name,
        prune=p < rule.p_below(folds) and gain < rule.gain_below,
        after_fold=after_fold,
        folds_done=folds_done,
        folds=folds,
        against=compared.names[0],
        compared=compared.names,
        p=p,
        groups=groups,
        gain=gain,
        estimate=compared.score - expected * len(truth_NT) / weighted_sst(truth_NT, weight),
    )


def expected_difference(partial: float, exempt_MN: FloatArray, row_n: IntArray, share: float) -> float:
    """Mean loss difference over all rows that a trial is expected to have, g^2, from the one over its own rows.

    exempt_MN: differences of complete trials that could not be pruned, M of them; share: of the folds that are there.
    The regression of full on partial differences over the exempt trials; below ENOUGH of them its slope is SLOPES'.
    A trial that is about to be pruned has been unlucky as well: its plain difference is biased.
    """
    slope = float(np.interp(share, *SLOPES))
    if not len(exempt_MN):
        return slope * partial
    partial_M, full_M = exempt_MN[:, row_n].mean(1), exempt_MN.mean(1)
    spread = float(np.square(partial_M - partial_M.mean()).sum())
    if len(exempt_MN) >= ENOUGH and spread > 0:
        slope = float(((partial_M - partial_M.mean()) * full_M).sum()) / spread
    return float(full_M.mean()) + slope * (partial - float(partial_M.mean()))


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
    from scipy.special import stdtr  # here: a coordinator without pruning does without scipy

    # scipy.stats.t.sf to the last bit, without scipy.stats
    return float(stdtr(groups - 1, -mean / error)), groups


def convex_gain(ensemble_residual_nT: FloatArray, residual_nT: FloatArray, weight: FloatArray = weight_T) -> float:
    """Relative fall of the ensemble's loss through its best mixture (1 - w) ensemble + w trial, 0 <= w <= 1.

    weight: what the cells of these rows count in the metric.
    """
    if weight.ndim > 1:  # what was not measured is NaN in residuals, and counts nowhere
        ensemble_residual_nT, residual_nT = (
            np.where(weight > 0, part, 0.0) for part in (ensemble_residual_nT, residual_nT)
        )
    own = float(weighted_square(ensemble_residual_nT, weight).sum())
    step_nT = residual_nT - ensemble_residual_nT
    cross, length = (float((weight * part * step_nT).sum()) for part in (ensemble_residual_nT, step_nT))
    if own == 0.0 or length == 0.0:
        return 0.0
    share = min(max(-cross / length, 0.0), 1.0)
    return max(0.0, -(2 * share * cross + share**2 * length) / own)


def exemption(number: int, backbone: str, known_backbones: Collection[str], trial_id: str) -> str | None:
    """Why a trial is exempt from pruning, or None.

    number: order of proposal in the study; known_backbones: of the trials proposed before it.
    """
    if number < NEVER_FIRST:
        return f"one of the first {NEVER_FIRST}"
    if backbone not in known_backbones:
        return "first of its backbone"
    if derive_seed("survivor", trial_id) % 1000 < 1000 * SURVIVORS:
        return "exempt by lot"
    return None
