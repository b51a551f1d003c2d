"""How often intervals cover, and what choices cost: simulated libraries with a true test set.

    python tests/benchmarks/simulate_errors.py [--replicates 1000] [--out errors.md]

Seeds are consecutive from 0. A paired interval is held against two truths: what the two rules gain on average when they
are fitted without the dates of a nest, which is what a nested score is about, and what the two blends that were fitted
on all dates gain on 200 other dates. The interval of a score is held against scores on sets of new dates. Choices are
held against the default, whose choice costs nothing. About 8 minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from simulated_libraries import Simulated, simulate

from biomass_models.targets import FloatArray
from ensembles.choice import DEFAULT, RULES, SINGLE_BEST, TOP_MEAN, CandidateRule
from ensembles.honest import Estimate, interval_for_new, paired_difference, score_estimate, units_of
from ensembles.nests import fit_weights, nested, nested_all, skilled
from ensembles.rules import Rule

NEW_DATES, ALIKE = 12, "50 models that err alike"
FEW = 100  # replicates where each nest chooses among ten rules, which takes two seconds
LIBRARIES: Mapping[str, Callable[[int], Simulated]] = {
    "50 models": lambda seed: simulate(50, 357, dates=28, seed=seed),
    ALIKE: lambda seed: simulate(50, 357, dates=28, seed=seed, own=0.35),
}


@dataclass(frozen=True)
class Column:
    """What is measured in each replicate; a bound on its mean, with the side that it is on."""

    name: str
    least: float | None = None
    most: float | None = None
    share: bool = False  # of replicates; a difference of scores otherwise

    def holds(self, value_S: FloatArray) -> bool:
        """Whether the mean over replicates keeps the bounds, less two Monte Carlo errors."""
        slack = 2 * monte_carlo_error(value_S, self.least)
        mean = float(value_S.mean())
        return (self.least is None or mean >= self.least - slack) and (self.most is None or mean <= self.most + slack)


_PAIRED = ("blend - mean of top 5", "blend - best single")


def coverage_columns(title: str) -> tuple[Column, ...]:
    """What `coverage` measures, and its bounds.

    That of two blends fitted on all dates has none where models differ much (88 % of 1000 libraries): which members a
    sample favours moves both blends, and the partitions show only part of it.
    """
    return (
        *(Column(f"{pair}, fitted without a nest", least=0.92, share=True) for pair in _PAIRED),
        *(
            Column(f"{pair}, fitted on all dates", least=0.92 if title == ALIKE else None, share=True)
            for pair in _PAIRED
        ),
        Column("score on 28 new dates", least=0.90, share=True),
        Column(f"score on {NEW_DATES} new dates", least=0.90, share=True),
    )


DEFAULT_COLUMNS = (
    Column("libraries where the default is not below the mean of five by one standard error", least=0.95, share=True),
    Column("true score of the default minus that of the mean of five", least=0.0),
)
CHOICES = (
    Column("second candidate: nested minus true gain over the default", most=0.002),
    Column("best of all rules, unpaid: nested minus true gain over the default"),
)
NOISE = (
    Column("default beside 500 members of noise: nested score gained", most=0.002),
    Column("skill floor on all rows instead: nested score of the mean of top 12 gained"),
)


def monte_carlo_error(value_S: FloatArray, share: float | None = None) -> float:
    """Standard error of the mean of S replicates; of a share that is expected, by its binomial."""
    spread = float(value_S.std(ddof=1))
    if share is not None and set(np.unique(value_S)) <= {0.0, 1.0}:
        spread = max(spread, float(np.sqrt(share * (1 - share))))
    return spread / float(np.sqrt(len(value_S)))


def coverage(library: Simulated, seed: int) -> tuple[list[float], list[float]]:
    """Values of coverage_columns and DEFAULT_COLUMNS for one library."""
    gram, rules = library.gram, list[Rule]((DEFAULT, TOP_MEAN, SINGLE_BEST))
    found = nested_all(gram, rules, seed=seed)
    weight_RM = np.stack([fit_weights(gram, rule, seed=seed) for rule in rules])
    on_all = library.true_scores(weight_RM)
    in_nests = [library.true_scores(each.weight_RKM.reshape(-1, gram.members)).mean() for each in found]
    gains = [paired_difference(gram, found[0].loss_RC, found[rival].loss_RC) for rival in (1, 2)]
    score = score_estimate(gram, found[0].loss_RC)
    covered = [
        *(_covers(gain, float(in_nests[0] - in_nests[rival])) for rival, gain in enumerate(gains, start=1)),
        *(_covers(gain, float(on_all[0] - on_all[rival])) for rival, gain in enumerate(gains, start=1)),
    ]
    for new in (units_of(gram), NEW_DATES):
        low, high = interval_for_new(score, units_of(gram), new)
        score_S = library.scores_on_dates(weight_RM[0], new)
        covered.append(float(((low <= score_S) & (score_S <= high)).mean()))
    return covered, [float(gains[0].value >= -gains[0].se), float(on_all[0] - on_all[1])]


def choices(seed: int) -> list[float]:
    """CHOICES of one library of 12 models."""
    library = simulate(12, 357, dates=28, seed=seed)
    gram, rules = library.gram, list(RULES.values())
    second = CandidateRule(2, DEFAULT, tuple(rules))
    found = nested_all(gram, rules, seed=seed)
    own = found[rules.index(DEFAULT)].score
    best = max(range(len(rules)), key=lambda row: found[row].score)
    weight_RM = np.stack([fit_weights(gram, rule, seed=seed) for rule in (DEFAULT, second, rules[best])])
    true_R = library.true_scores(weight_RM)
    paid = nested(gram, second, seed=seed).score - own - (true_R[1] - true_R[0])
    return [float(paid), float(found[best].score - own - (true_R[2] - true_R[0]))]


def noise(seed: int) -> list[float]:
    """NOISE of one library of 5 models beside 500 members of noise."""
    library = simulate(5, 357, dates=28, seed=seed, noise=500, test_dates=5)
    gram, twelve = library.gram, RULES["top-12"]
    with_noise, without = nested(gram, DEFAULT, seed=seed), nested(gram.keep(range(5)), DEFAULT, seed=seed)
    inside, outside = (
        nested(gram, twelve, seed=seed),
        nested(gram.keep(np.flatnonzero(skilled(gram))), twelve, seed=seed),
    )
    return [with_noise.score - without.score, outside.score - inside.score]


def _covers(estimate: Estimate, truth: float) -> float:
    return float(estimate.low <= truth <= estimate.high)


def table(title: str, columns: Sequence[Column], value_SC: FloatArray) -> str:
    """Mean over replicates with its Monte Carlo error, and the bound."""
    lines = [f"| {title}, {len(value_SC)} replicates | found | bound |", "|---|---|---|"]
    for column, value_S in zip(columns, value_SC.T, strict=True):
        share = column.share
        found = f"{value_S.mean():.1%} ± {monte_carlo_error(value_S):.1%}" if share else (
            f"{value_S.mean():+.4f} ± {monte_carlo_error(value_S):.4f}"
        )  # fmt: skip
        limit = column.least if column.least is not None else column.most
        sign = "at least" if column.least is not None else "at most"
        bound = "" if limit is None else f"{sign} {limit:.0%}" if share else f"{sign} {limit:.3f}"
        lines.append(f"| {column.name} | {found} | {bound}{'' if column.holds(value_S) else ' MISSED'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of intervals and cost of choices.")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    arguments = parser.parse_args()
    seeds, texts = range(arguments.replicates), []
    for title, draw in LIBRARIES.items():
        pairs = [coverage(draw(seed), seed) for seed in seeds]
        texts.append(table(title, coverage_columns(title), np.array([covered for covered, _ in pairs])))
        texts.append(table(title, DEFAULT_COLUMNS, np.array([found for _, found in pairs])))
        print("\n".join(texts[-2:]), flush=True)
    for title, columns, measure, own in (
        ("12 models", CHOICES, choices, range(min(FEW, arguments.replicates))),
        ("5 models and 500 of noise", NOISE, noise, seeds),
    ):
        texts.append(table(title, columns, np.array([measure(seed) for seed in own])))
        print(texts[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
