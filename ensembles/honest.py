"""Honest scores of a rule: nested over folds or groups, bootstrap over groups, paired differences with their error.

M members, C cells (see gram.py), K nests, D bootstrap draws. A nest is a set of cells that is scored with weights which
were found without it: members are ranked, chosen and weighted on the other cells alone. Its squared errors are pooled
over all nests and divided by the SST of all rows: the nested score is a weighted R2 like any other.

BBC-CV: Tsamardinos et al. 2018, "Bootstrapping the out-of-sample predictions for efficient and accurate
cross-validation": a rule is fitted on groups drawn with replacement and scored on the groups that were not drawn.
Groups (dates) are the unit everywhere, because images of one day share their errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biomass_models.errors import UserError
from biomass_models.targets import FloatArray, IntArray, squared_error, weight_T
from ensembles.gram import ErrorGram, cells_of, moments_of, sst_of
from ensembles.rules import Rule, ranking

NestBy = Literal["fold", "group"]
PREFILTER = 1000  # members a nest works on; the best of its own training cells
MOST_NESTS = 60  # nests over groups; with more groups, some share a nest


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A rule's errors on cells that its weights have not seen."""

    rule: str
    by: NestBy
    nest_C: IntArray  # nest of each cell
    labels: tuple[str, ...]  # of the K nests
    weight_KM: FloatArray
    loss_C: FloatArray  # held-out weighted squared error, g^2
    sst: float

    @property
    def score(self) -> float:
        return 1.0 - float(self.loss_C.sum()) / self.sst


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its bootstrap standard error and 95 % interval over groups."""

    value: float
    se: float
    low: float
    high: float


def nests_of(problem: ErrorGram, by: NestBy, *, at_most: int = MOST_NESTS) -> tuple[IntArray, tuple[str, ...]]:
    """Nest of each cell [C] and the nests' labels.

    More than `at_most` groups are dealt out to `at_most` nests in turn. Raises ValueError when there is only one nest.
    """
    key_C = problem.fold_C if by == "fold" else problem.group_C
    labels, nest_C = np.unique(key_C, return_inverse=True)
    if len(labels) < 2:
        raise UserError(f"a nested score needs at least 2 {by}s, got {len(labels)}")
    if len(labels) <= at_most:
        return nest_C.astype(np.int64), tuple(str(label) for label in labels)
    return (nest_C % at_most).astype(np.int64), tuple(f"{by}s {k + 1}/{at_most}" for k in range(at_most))


def nest_of(problem: ErrorGram) -> NestBy:
    """What a blend is nested over by default: its folds, or its groups where there is one fold only."""
    return "fold" if len(np.unique(problem.fold_C)) > 1 else "group"


def nested(problem: ErrorGram, rule: Rule, by: NestBy = "fold", *, seed: int = 0, prefilter: int = PREFILTER) -> Nested:
    """Score a rule on cells held out from choosing members and fitting weights; by fold or by group."""
    return nested_all(problem, [rule], by, seed=seed, prefilter=prefilter)[0]


def nested_all(
    problem: ErrorGram, rules: Sequence[Rule], by: NestBy = "fold", *, seed: int = 0, prefilter: int = PREFILTER
) -> list[Nested]:
    """As nested, for several rules that share each nest's Gram."""
    nest_C, labels = nests_of(problem, by)
    weight_RKM = np.zeros((len(rules), len(labels), problem.members))
    loss_RC = np.empty((len(rules), problem.cells))
    for nest in range(len(labels)):
        held_C = nest_C == nest
        training, held = problem.select(~held_C), problem.select(held_C)
        shortlist = np.sort(ranking(training)[:prefilter])
        if len(shortlist) < problem.members:
            training = training.keep(shortlist)
        for row, rule in enumerate(rules):
            weight_RKM[row, nest, shortlist] = rule(training, seed)
            loss_RC[row, held_C] = held.loss_by_cell(weight_RKM[row, nest])
    return [
        Nested(
            rule=rule.name,
            by=by,
            nest_C=nest_C,
            labels=labels,
            weight_KM=weight_RKM[row],
            loss_C=loss_RC[row],
            sst=problem.sst,
        )
        for row, rule in enumerate(rules)
    ]


def fit_prefiltered(problem: ErrorGram, rule: Rule, *, seed: int, prefilter: int = PREFILTER) -> FloatArray:
    """A rule's weights over all members, fitted on the best `prefilter` of them: bounds the Gram at prefilter^2."""
    if problem.members <= prefilter:
        return rule(problem, seed)
    best = np.sort(ranking(problem)[:prefilter])
    weight_M = np.zeros(problem.members)
    weight_M[best] = rule(problem.keep(best), seed)
    return weight_M


def bias_corrected_bootstrap(
    problem: ErrorGram, rule: Rule, *, draws: int = 200, seed: int = 0, prefilter: int = 100
) -> Estimate:
    """BBC-CV over groups: fitted on drawn groups, scored on the others; the mean, its spread and interval over draws.

    Each draw's SST is that of its own left-out rows around the mean of all rows, as the pooled score has it. A draw
    that leaves no group out is drawn again. The value is the ratio of the sums over draws.
    """
    groups, group_C = np.unique(problem.group_C, return_inverse=True)
    if len(groups) < 2:
        raise UserError(f"a bootstrap over groups needs at least 2 groups, got {len(groups)}")
    rng = np.random.default_rng([seed, len(groups)])
    total = problem.moment_C3.sum(0)
    mean = total[1] / total[0]
    spread_C = problem.moment_C3 @ np.array([mean**2, -2 * mean, 1.0])
    loss_D, spread_D = np.empty(draws), np.empty(draws)
    for draw in range(draws):
        count_G = _drawn_groups(rng, len(groups))
        best = np.sort(np.argsort(count_G[group_C] @ problem.loss_CM, kind="stable")[:prefilter])
        kept = problem.keep(best)
        weight_K = rule(kept.resample(count_G[group_C]), seed)
        out_C = count_G[group_C] == 0
        loss_D[draw] = kept.select(out_C).loss_by_cell(weight_K).sum()
        spread_D[draw] = spread_C[out_C].sum()
    value = 1 - loss_D.sum() / spread_D.sum()
    score_D = 1 - loss_D / spread_D
    low, high = np.quantile(score_D, [0.025, 0.975])
    return Estimate(value=float(value), se=float(score_D.std(ddof=1)), low=float(low), high=float(high))


def _drawn_groups(rng: np.random.Generator, size: int) -> FloatArray:
    """How often each of `size` groups is drawn; at least one is not."""
    while True:
        count_G = np.bincount(rng.integers(0, size, size), minlength=size).astype(np.float64)
        if (count_G == 0).any():
            return count_G


def score_estimate(problem: ErrorGram, loss_C: FloatArray, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """A pooled score from squared errors per cell, with its bootstrap error over groups (the SST moves along)."""
    return _bootstrap_over_groups(problem.group_C, problem.moment_C3, -loss_C, 1.0, draws, seed)


def paired_difference(
    problem: ErrorGram, loss_C: FloatArray, against_C: FloatArray, *, draws: int = 2000, seed: int = 0
) -> Estimate:
    """Score gained by the first over the second, both given as squared errors per cell; error over groups, paired."""
    return _bootstrap_over_groups(problem.group_C, problem.moment_C3, against_C - loss_C, 0.0, draws, seed)


def paired_bootstrap(
    truth_NT: FloatArray,
    pred_NT: FloatArray,
    against_NT: FloatArray,
    group_N: NDArray[np.str_] | list[str],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Score gained by one set of predictions [N, 5] (grams) over another, resampled over the rows' groups."""
    rows, _, group_G = cells_of(np.zeros(len(truth_NT)), group_N)
    gain_N = squared_error(truth_NT, against_NT) - squared_error(truth_NT, pred_NT)
    moment_G3 = np.stack([moments_of(truth_NT[cell], weight_T) for cell in rows])
    gain_G = np.array([gain_N[cell].sum() for cell in rows])
    return _bootstrap_over_groups(group_G, moment_G3, gain_G, 0.0, draws, seed)


def _bootstrap_over_groups(
    group_C: NDArray[np.str_], moment_C3: FloatArray, gain_C: FloatArray, base: float, draws: int, seed: int
) -> Estimate:
    """base + sum(gain) / SST over groups drawn with replacement; SE corrected for the few groups."""
    groups, index_C = np.unique(group_C, return_inverse=True)
    size = len(groups)
    value = base + float(gain_C.sum() / sst_of(moment_C3.sum(0)))
    if size < 2:
        return Estimate(value=value, se=float("nan"), low=float("nan"), high=float("nan"))
    member_GC = (np.arange(size)[:, None] == index_C).astype(np.float64)
    rng = np.random.default_rng([seed, size])
    count_DG = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)
    gain_D = count_DG @ (member_GC @ gain_C)
    sst_D = sst_of(count_DG @ (member_GC @ moment_C3))
    usable = sst_D > 0
    value_D = base + gain_D[usable] / sst_D[usable]
    low, high = np.quantile(value_D, [0.025, 0.975])
    se = float(value_D.std(ddof=1) * np.sqrt(size / (size - 1)))
    return Estimate(value=value, se=se, low=float(low), high=float(high))
