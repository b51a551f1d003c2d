"""Rules: from the error Gram of a library to the weights of a blend. One interface for all.

M members, B bags, S steps. A rule is called as rule(problem, seed) -> weight_M: non-negative, summing to 1. It reads
nothing but the problem's numbers, so that the order of the members cannot matter, and draws from its seed alone.

Greedy selection and its bags: Caruana et al., "Ensemble Selection from Libraries of Models", 2004, and "Getting the
Most Out of Ensemble Selection", 2006. With weights count / step, R2 = 1 - count' H count / step^2, so that the best
next member has the smallest 2 (H count)_m + H_mm: a step costs O(M), and bags take their steps together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import FloatArray
from ensembles.gram import ErrorGram
from ensembles.optimum import simplex_optimum


class Rule(Protocol):
    """Weights of a blend from an error Gram."""

    @property
    def name(self) -> str: ...

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray: ...


def ranking(problem: ErrorGram) -> NDArray[np.int64]:
    """Members from best to worst score, [M] indices; the first one listed wins a tie."""
    return np.argsort(problem.loss_M, kind="stable")


@dataclass(frozen=True)
class TopMean:
    """The plain mean of the k best members; k = 1 is the best single member."""

    k: int = 5

    def __post_init__(self) -> None:
        _at_least_one("k", self.k)

    @property
    def name(self) -> str:
        return "single-best" if self.k == 1 else f"top-{self.k}"

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        weight_M = np.zeros(problem.members)
        best = ranking(problem)[: self.k]
        weight_M[best] = 1.0 / len(best)
        return weight_M


@dataclass(frozen=True)
class Greedy:
    """Hill-climbing with replacement; the best of the `steps` prefixes is kept."""

    steps: int = 50

    def __post_init__(self) -> None:
        _at_least_one("steps", self.steps)

    @property
    def name(self) -> str:
        return "greedy"

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        everyone_1M = np.ones((1, problem.members), dtype=bool)
        return greedy_bags(problem.gram_MM, everyone_1M, self.steps)[0]


@dataclass(frozen=True)
class BaggedGreedy:
    """The mean of greedy selections, each from a random share of the members."""

    bags: int = 20
    share: float = 0.5
    steps: int = 25

    def __post_init__(self) -> None:
        _at_least_one("bags", self.bags)
        _at_least_one("steps", self.steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")

    @property
    def name(self) -> str:
        return "bagged-greedy"

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        members = problem.members
        size = max(1, round(self.share * members))
        draw_BM = np.random.default_rng([seed, members]).random((self.bags, members))
        chosen_BM = draw_BM <= np.partition(draw_BM, size - 1, axis=1)[:, size - 1 : size]
        allowed_BM = np.empty_like(chosen_BM)
        allowed_BM[:, ranking(problem)] = chosen_BM  # bags are drawn by rank: the members' order plays no part
        return greedy_bags(problem.gram_MM, allowed_BM, self.steps).mean(0)


@dataclass(frozen=True)
class Optimum:
    """The best weights on the simplex in sample: the ceiling of what any rule can show, and overfitted."""

    @property
    def name(self) -> str:
        return "optimum"

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        return simplex_optimum(problem.gram_MM).weight_M


@dataclass(frozen=True)
class Pruned:
    """A rule that is shown the best `size` members only, and of these none that errs far more than the best one."""

    rule: Rule
    size: int = 12
    slack: float = 1.3  # largest 1 - R2 of a member that is shown, in units of the best member's

    def __post_init__(self) -> None:
        _at_least_one("size", self.size)
        if not self.slack >= 1:
            raise ValueError(f"slack must be at least 1, got {self.slack}")

    @property
    def name(self) -> str:
        return f"{self.rule.name}-of-{self.size}"

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        best = ranking(problem)[: self.size]
        best = best[problem.loss_M[best] <= self.slack * problem.loss_M[best[0]]]
        weight_M = np.zeros(problem.members)
        weight_M[best] = self.rule(problem.keep(best), seed)
        return weight_M


@dataclass(frozen=True)
class Shrunk:
    """A rule's weights pulled towards the plain mean of the k best members."""

    rule: Rule
    pull: float = 0.5  # 0 is the rule itself, 1 the mean of the k best
    k: int = 5

    def __post_init__(self) -> None:
        _at_least_one("k", self.k)
        if not 0 <= self.pull <= 1:
            raise ValueError(f"pull must lie in [0, 1], got {self.pull}")

    @property
    def name(self) -> str:
        return f"shrunk-{self.rule.name}"

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        return (1 - self.pull) * self.rule(problem, seed) + self.pull * TopMean(self.k)(problem, seed)


@dataclass(frozen=True)
class Renamed:
    """A rule under a name of its own."""

    rule: Rule
    name: str

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        return self.rule(problem, seed)


def greedy_bags(gram_MM: FloatArray, allowed_BM: NDArray[np.bool_], steps: int) -> FloatArray:
    """Greedy selection with replacement in every bag at once.

    gram_MM: scaled error Gram; allowed_BM: which members a bag may take (at least one each). Returns weight_BM: each
    bag's best prefix of `steps` picks, ties going to the shorter prefix and the first member.
    """
    if not allowed_BM.any(axis=1).all():
        raise ValueError("every bag must hold at least one member, got an empty one")
    bags, members = allowed_BM.shape
    bag_B = np.arange(bags)
    # change_BM is what picking a member adds to count' H count: H_mm at first, and 2 H_pick,m more after each pick
    change_BM = np.where(allowed_BM, gram_MM.diagonal(), np.inf)
    pick_SB = np.empty((steps, bags), dtype=np.int64)
    loss_SB = np.empty((steps, bags))
    total_B = np.zeros(bags)
    for step in range(steps):
        pick_B = change_BM.argmin(axis=1)
        total_B += change_BM[bag_B, pick_B]
        change_BM += 2 * gram_MM[pick_B]
        pick_SB[step], loss_SB[step] = pick_B, total_B / (step + 1) ** 2
    length_B = loss_SB.argmin(axis=0) + 1
    counts = [np.bincount(pick_SB[:length, bag], minlength=members) for bag, length in enumerate(length_B)]
    return np.stack(counts) / length_B[:, None]


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
