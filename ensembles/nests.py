"""Who is held out (partitions, nests), and nested losses of plain rules: weights found without the scored units.

The nested score of a card, follow-ups included, is made in blend.fit_blend from spec.nested_rows, over these nests.

M members, C cells (gram.py), G units, R partitions, K nests. A partition deals the G units out to K = min(5, G) nests;
each nest is scored with weights that were found on the others. The losses of R = 8 random partitions are averaged,
since how the units are dealt out moves the score; with 5 units or fewer each is a nest of its own, and R = 1. With a
single unit the folds are the nests: a score without an error.

All that is chosen on labels is chosen inside the nest. Members without skill are dropped there: applied to all rows, a
floor lifts the nested score (by .014 with 500 members of noise beside good ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomass_models.errors import UserError
from biomass_models.targets import FloatArray, IntArray
from ensembles.gram import ErrorGram
from ensembles.rules import Rule, ranking

PARTITIONS, NESTS = 8, 5
INNER_PARTITIONS = 2  # of a choice that is itself made inside of a nest
PREFILTER = 1000  # members that a rule sees: the best of its own training cells


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A plain rule's errors on cells that its weights have not seen."""

    rule: str
    nest_RC: IntArray  # nest of each cell in each partition
    weight_RKM: FloatArray
    loss_RC: FloatArray  # held-out weighted squared error, g^2
    sst: float

    @property
    def loss_C(self) -> FloatArray:
        """Mean over partitions."""
        return self.loss_RC.mean(0)

    @property
    def score(self) -> float:
        """Weighted R2 of the mean loss over partitions, of the rule without follow-ups."""
        return 1.0 - float(self.loss_C.sum()) / self.sst


def assign_nests(problem: ErrorGram, *, seed: int = 0, partitions: int = PARTITIONS) -> IntArray:
    """Nest of each cell in each partition: [R, C]. Raises UserError for a single unit in a single fold."""
    units, unit_C = np.unique(problem.unit_C, return_inverse=True)
    size = len(units)
    if size == 1:
        folds, fold_C = np.unique(problem.fold_C, return_inverse=True)
        if len(folds) == 1:
            raise UserError("a nested score needs at least 2 groups, such as dates, or 2 folds; got one of each")
        return fold_C[None].astype(np.int64)
    if size <= NESTS:
        return unit_C[None].astype(np.int64)
    rng = np.random.default_rng([seed, size])
    nest_RG = np.stack([rng.permutation(size) % NESTS for _ in range(partitions)])
    return nest_RG[:, unit_C].astype(np.int64)


def fold_nests(problem: ErrorGram) -> IntArray | None:
    """The study's folds as the nests of one partition, [1, C]; units where there is a single fold.

    None where no weights could be found without one of them: all spread is within it.
    """
    folds, fold_C = np.unique(problem.fold_C, return_inverse=True)
    nest_C = fold_C if len(folds) > 1 else np.unique(problem.unit_C, return_inverse=True)[1]
    nests = range(int(nest_C.max()) + 1)
    if len(nests) < 2 or not all(problem.select(nest_C != nest).sst > 0 for nest in nests):
        return None
    return nest_C[None].astype(np.int64)


def require_spread(problem: ErrorGram) -> None:
    """Raise UserError for cells that no weights can be found on."""
    if not problem.sst > 0:
        raise UserError(
            "weights are found on masses that differ; without the scored part (a date, or a fold) none are left"
        )


def can_nest(problem: ErrorGram) -> bool:
    """Whether there is anything to nest over."""
    return len(np.unique(problem.unit_C)) > 1 or len(np.unique(problem.fold_C)) > 1


def nested(problem: ErrorGram, rule: Rule, *, seed: int = 0, partitions: int = PARTITIONS) -> Nested:
    """Score a rule on units held out from choosing members and fitting weights."""
    return nested_all(problem, [rule], seed=seed, partitions=partitions)[0]


def nested_all(
    problem: ErrorGram,
    rules: Sequence[Rule],
    *,
    seed: int = 0,
    partitions: int = PARTITIONS,
    prefilter: int = PREFILTER,
) -> list[Nested]:
    """As nested, for several rules that share each nest's Gram. On Grams alone: rules to compare with; spec.py predicts
    rows."""
    nest_RC = assign_nests(problem, seed=seed, partitions=partitions)
    count = int(nest_RC.max()) + 1
    weight_rRKM = np.zeros((len(rules), len(nest_RC), count, problem.members))
    loss_rRC = np.empty((len(rules), *nest_RC.shape))
    for partition, nest_C in enumerate(nest_RC):
        for nest in range(count):
            held_C = nest_C == nest
            training, held = problem.select(~held_C), problem.select(held_C)
            require_spread(training)
            shown = shortlist(training, prefilter=prefilter)
            if len(shown) < problem.members:
                training = training.keep(shown)
            for row, rule in enumerate(rules):
                weight_rRKM[row, partition, nest, shown] = rule(training, seed)
                loss_rRC[row, partition, held_C] = held.loss_by_cell(weight_rRKM[row, partition, nest])
    return [
        Nested(rule=rule.name, nest_RC=nest_RC, weight_RKM=weight_RKM, loss_RC=loss_RC, sst=problem.sst)
        for rule, weight_RKM, loss_RC in zip(rules, weight_rRKM, loss_rRC, strict=True)
    ]


def skilled(problem: ErrorGram) -> NDArray[np.bool_]:
    """Members [M] at least as good on these cells as the per-target mean out of fold; the best one where none is."""
    skilled_M = problem.loss_M <= problem.per_target_mean_loss
    if not skilled_M.any():
        skilled_M[ranking(problem)[0]] = True
    return skilled_M


def shortlist(
    problem: ErrorGram, among_M: NDArray[np.bool_] | None = None, *, prefilter: int = PREFILTER
) -> NDArray[np.int64]:
    """Members that a rule is shown, in their own order: the best `prefilter` of those with skill on these cells.

    among_M: who has skill, where that is to be decided by other targets than the problem's.
    """
    among = skilled(problem) if among_M is None else among_M
    best = ranking(problem)
    return np.sort(best[among[best]][:prefilter])


def fit_weights(
    problem: ErrorGram, rule: Rule, *, seed: int = 0, among_M: NDArray[np.bool_] | None = None
) -> FloatArray:
    """A rule's weights over all members, [M]; only those of the shortlist can have any."""
    require_spread(problem)
    shown = shortlist(problem, among_M)
    weight_M = np.zeros(problem.members)
    weight_M[shown] = rule(problem.keep(shown) if len(shown) < problem.members else problem, seed)
    return weight_M
