"""What a search adds to a nested score by its own luck: simulated figures, for pages that show such a score.

A nest pays for the choice among trials, not for their having been sought on the same photographs. An engine that
learns from scores comes to configurations that are better, and to some whose errors happen to cancel on the
photographs that are scored. How much that adds depends on what nobody sees in one study, so the figure is shown
beside the score and never subtracted; an exam (`biomass search --exam`) measures instead.
Measured by COMMAND: nested minus true score of the default blend, trials of TPE less as many of random search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

COMMAND = "python tests/benchmarks/simulate_search.py"
FEWEST = 12  # trials below which nothing is shown: an engine draws its first ones at random


@dataclass(frozen=True, kw_only=True)
class SearchOptimism:
    """Of searches by TPE with so many trials, in weighted R2."""

    trials: int
    value: float
    error: float  # Monte Carlo standard error over replicates

    def __str__(self) -> str:
        return (
            f"a search of about {self.trials} trials adds {self.value:.3f} ± {self.error:.3f} to such a score by its "
            "own luck (simulated, not subtracted)"
        )


MEASURED = (  # over 35 replicates
    SearchOptimism(trials=24, value=0.0048, error=0.0012),
    SearchOptimism(trials=60, value=0.0054, error=0.0015),
    SearchOptimism(trials=120, value=0.0061, error=0.0017),
    SearchOptimism(trials=300, value=0.0065, error=0.0014),
)


def search_optimism(trials: int) -> SearchOptimism | None:
    """The figure at the nearest number of trials, as a ratio; None below FEWEST."""
    if trials < FEWEST:
        return None
    return min(MEASURED, key=lambda one: abs(math.log(one.trials / trials)))
