"""The rules by name, and the rule that several submissions are made by: the most different one of those as good.

Two submissions that predict the same are one bet. The first candidate is the default's blend (or that of a rule that is
named). The next one is, among the rules whose nested score lies within one standard error of the first one's (paired
over units), that whose blended masses differ most from those taken already. That choice is made on labels: because
`CandidateRule` is a rule itself, the nests around it (nests.py) make the choice again and pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from biomass_models.data.problems import did_you_mean
from biomass_models.errors import UserError
from biomass_models.targets import FloatArray
from ensembles.gram import ErrorGram
from ensembles.honest import paired_difference
from ensembles.nests import INNER_PARTITIONS, can_nest, fit_weights, nested_all, shortlist
from ensembles.rules import BaggedGreedy, Greedy, Optimum, Pruned, Renamed, Rule, Shrunk, TopMean

SHOWN = 200  # members that rules are compared on
SAME_G = 1e-9  # grams; blends that differ less are one

SINGLE_BEST = TopMean(1)
TOP_MEAN = TopMean(5)

# From the simulation study (tests/benchmarks/simulate_blending.py, docs/blending.md): bagged selection among the best
# 25, half of the weight left on the mean of the top 12. A choice among rules by an inner score lost against it.
DEFAULT = Renamed(Pruned(Shrunk(BaggedGreedy(), k=12), 25), "default")

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
            Shrunk(Optimum()),
            Optimum(),
        )
    }
)
OLD_NAMES = MappingProxyType({DEFAULT.rule.name: DEFAULT})  # of cards that were written before it was the default


@dataclass(frozen=True)
class CandidateRule:
    """The rule of the submission at a place: 2 is the first one that is chosen."""

    place: int
    first: Rule
    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        if self.place < 2:
            raise ValueError(f"the first candidate is not chosen; a place is at least 2, got {self.place}")

    @property
    def name(self) -> str:
        return f"candidate-{self.place}-after-{self.first.name}"

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        return self.choose(problem, seed)(problem, seed)

    def choose(self, problem: ErrorGram, seed: int) -> Rule:
        """The rule at this place on this problem; the last one that is found where there are fewer."""
        return candidate_rules(problem, self.first, self.rules, self.place, seed=seed)[-1][0]


def chosen_rule(problem: ErrorGram, rule: Rule, *, seed: int = 0) -> Rule:
    """The rule that a choice among rules comes to on this problem; any other rule itself."""
    return rule.choose(problem.keep(shortlist(problem)), seed) if isinstance(rule, CandidateRule) else rule


def candidate_rules(
    problem: ErrorGram, first: Rule, rules: Sequence[Rule], count: int, *, seed: int = 0
) -> list[tuple[Rule, float]]:
    """At most `count` rules, and how far the blend of each is from the nearest one before it.

    Distances are the root of the metric's mean squared difference, in g; 0 for the first.
    """
    taken: list[tuple[Rule, float]] = [(first, 0.0)]
    others = [rule for rule in rules if rule != first]
    if count < 2 or not others or not can_nest(problem):
        return taken
    own, *scored = nested_all(problem, [first, *others], seed=seed, partitions=INNER_PARTITIONS, prefilter=SHOWN)
    losses = [paired_difference(problem, own.loss_RC, other.loss_RC) for other in scored]
    eligible = [rule for rule, loss in zip(others, losses, strict=True) if loss.value <= loss.se]
    weights = {rule: fit_weights(problem, rule, seed=seed) for rule in [first, *eligible]}
    total = problem.moment_C3[:, 0].sum()  # of the weights: the number of images where all was measured

    def distance(left: Rule, right: Rule) -> float:
        # weights sum to 1: residuals differ by what predictions differ by
        difference_M = weights[left] - weights[right]
        return float(np.sqrt(problem.loss_by_cell(difference_M).sum() / total))

    while eligible and len(taken) < count:
        distances = {rule: min(distance(rule, old) for old, _ in taken) for rule in eligible}
        farthest = max(eligible, key=lambda rule: distances[rule])
        if distances[farthest] <= SAME_G:
            break
        taken.append((farthest, distances[farthest]))
        eligible.remove(farthest)
    return taken


def rule_named(name: str) -> Rule:
    """A rule by its public name; `top-K` works for any K. Raises UserError that lists the names."""
    if name in RULES:
        return RULES[name]
    if name in OLD_NAMES:
        return OLD_NAMES[name]
    head, _, number = name.partition("-")
    if head == "top" and number.isdigit() and int(number) > 0:
        return TopMean(int(number))
    if head == "candidate":
        place, _, first = number.partition("-after-")
        if place.isdigit() and int(place) > 1 and first:
            return CandidateRule(int(place), rule_named(first), tuple(RULES.values()))
    raise UserError(f"unknown rule {name!r}; use one of {', '.join(RULES)}, or top-K{did_you_mean(name, RULES)}")
