"""A rule that chooses among rules, and the names by which people call them.

`Chosen` scores each candidate by an inner nested score on the very problem that it is given, and takes the winner's
weights. Because it is a rule itself, an outer nest around it (honest.py) pays for the choice as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from biomass_models.data.problems import did_you_mean
from biomass_models.errors import UserError
from biomass_models.targets import FloatArray
from ensembles.gram import ErrorGram
from ensembles.honest import NestBy, nested_all, paired_difference
from ensembles.rules import BaggedGreedy, Greedy, Optimum, Pruned, Rule, Shrunk, TopMean


@dataclass(frozen=True)
class Chosen:
    """The candidate with the best inner nested score, if it beats the first one by `margin` standard errors."""

    candidates: tuple[Rule, ...]  # the one to fall back on first
    margin: float = 1.0  # of the paired difference over groups
    label: str = "chosen"

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ValueError("a choice needs at least one candidate rule, got none")

    @property
    def name(self) -> str:
        return self.label

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        return self.choose(problem, seed)(problem, seed)

    def choose(self, problem: ErrorGram, seed: int) -> Rule:
        """The winner on this problem. With a single fold and group there is nothing to choose by: the first."""
        by = inner_nests(problem)
        if by is None:
            return self.candidates[0]
        trials = nested_all(problem, self.candidates, by, seed=seed)
        best = int(np.argmax([trial.score for trial in trials]))
        gain = paired_difference(problem, trials[best].loss_C, trials[0].loss_C, draws=200, seed=seed)
        return self.candidates[best if gain.value > self.margin * gain.se else 0]


def inner_nests(problem: ErrorGram) -> NestBy | None:
    """Folds where there are at least 3 of them, else groups, else folds, else nothing to nest over."""
    folds, groups = len(np.unique(problem.fold_C)), len(np.unique(problem.group_C))
    if folds >= 3 or (folds == 2 and groups < 2):
        return "fold"
    return "group" if groups >= 2 else None


SINGLE_BEST = TopMean(1)
TOP_MEAN = TopMean(5)

# From the simulation study (tests/benchmarks/simulate_blending.py, README): bagged selection among the best 25, half of
# the weight left on the mean of the top 12, unless the sample says loudly that less or more selection is better.
DEFAULT = Chosen(
    (Pruned(Shrunk(BaggedGreedy(), k=12), 25), TOP_MEAN, Pruned(BaggedGreedy(), 50)),
    label="default",
)

RULES: MappingProxyType[str, Rule] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            DEFAULT,
            SINGLE_BEST,
            TOP_MEAN,
            TopMean(12),
            Greedy(),
            BaggedGreedy(),
            Pruned(BaggedGreedy(), 12),
            Shrunk(Greedy()),
            DEFAULT.candidates[0],
            Shrunk(Optimum()),
            Optimum(),
        )
    }
)


def rule_named(name: str) -> Rule:
    """A rule by its public name; `top-K` works for any K. Raises ValueError that lists the names."""
    if name in RULES:
        return RULES[name]
    head, _, number = name.partition("-")
    if head == "top" and number.isdigit() and int(number) > 0:
        return TopMean(int(number))
    raise UserError(f"unknown rule {name!r}; use one of {', '.join(RULES)}, or top-K{did_you_mean(name, RULES)}")
