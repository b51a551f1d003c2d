"""Standard errors and intervals of scores and of paired differences: the one source of every ± on every page.

C cells (gram.py), G units, R partitions. A unit is what the folds keep whole, and never finer than a date: photographs
of one day share their errors. loss_RC are weighted squared errors in g^2 of each partition of the units into nests
(nests.py); fixed predictions, which choose nothing, have one row.

The jackknife leaves out one unit after the other; the metric's denominator moves along. What a blend gains over
something else also depends on how the units happened to be dealt out to nests: the variance s_b^2 between partitions,
times (1 + 1 / R), is added. Intervals are by t with G - 1 degrees of freedom: of a difference symmetric, of a score by
the logarithm of its loss 1 - R2, which cannot be negative. A score on k new units varies on its own account as well.
Sources: MacKinnon, Nielsen, Webb 2023 (arXiv 2301.04527); Cameron, Gelbach, Miller 2008. How often the intervals cover
is measured by tests/benchmarks/simulate_errors.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biomass_models.targets import FloatArray
from ensembles.gram import ErrorGram, sst_of

METHOD = "nested over units, jackknife"  # what a card records about its errors
OLD_METHOD = "nested by fold, bootstrap"  # of cards that were written before cards named it
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its standard error and 95 % interval; NaN where a single unit leaves no error."""

    value: float
    se: float
    low: float
    high: float


def score_estimate(problem: ErrorGram, loss_RC: ArrayLike) -> Estimate:
    """Weighted R2 of losses [R, C] or [C] in g^2: the mean over partitions, with its jackknife error.

    The interval is that of the expected score; `interval_for_new` is about the score of a number of new units.
    """
    loss_C = np.atleast_2d(np.asarray(loss_RC, dtype=np.float64)).mean(0)
    value, se = _jackknife(problem, loss_C)
    low, high = _score_interval(1 - value, se, units_of(problem))
    return Estimate(value=1 - value, se=se, low=low, high=high)


def paired_difference(problem: ErrorGram, loss_RC: ArrayLike, against_RC: ArrayLike) -> Estimate:
    """Score gained by the first over the second; losses [R, C] of the same partitions, or [C] of fixed predictions."""
    gain_RC = np.atleast_2d(np.asarray(against_RC, dtype=np.float64) - np.asarray(loss_RC, dtype=np.float64))
    partitions = len(gain_RC)
    value, jackknife = _jackknife(problem, gain_RC.mean(0))
    between = float((gain_RC.sum(1) / problem.sst).var(ddof=1)) if partitions > 1 else 0.0
    se = math.sqrt(jackknife**2 + between * (1 + 1 / partitions))
    reach = _quantile(units_of(problem)) * se
    return Estimate(value=value, se=se, low=value - reach, high=value + reach)


def interval_for_new(score: Estimate, units: int, new: int) -> tuple[float, float]:
    """95 % interval of the score on `new` other units, from an estimate over `units` of them."""
    return _score_interval(score.value, score.se * math.sqrt(1 + units / new), units)


def units_of(problem: ErrorGram) -> int:
    """Number of units G; one in which nothing counts is none."""
    return len(np.unique(problem.unit_C[_counts_C(problem)]))


def _counts_C(problem: ErrorGram) -> NDArray[np.bool_]:
    """Cells in which something counts."""
    return problem.moment_C3[:, 0] > 0


def _jackknife(problem: ErrorGram, amount_C: FloatArray) -> tuple[float, float]:
    """sum(amount) / SST and its standard error by leaving out one unit after the other."""
    counts_C = _counts_C(problem)
    units, unit_c = np.unique(problem.unit_C[counts_C], return_inverse=True)
    size = len(units)
    value = float(amount_C.sum() / problem.sst)
    if size < 2:
        return value, math.nan
    amount_G, moment_G3 = np.zeros(size), np.zeros((size, 3))
    np.add.at(amount_G, unit_c, amount_C[counts_C])
    np.add.at(moment_G3, unit_c, problem.moment_C3[counts_C])
    sst_G = sst_of(moment_G3.sum(0) - moment_G3)
    if not (sst_G > 1e-12 * problem.sst).all():  # all spread is between one unit and the rest
        return value, math.nan
    value_G = (amount_G.sum() - amount_G) / sst_G
    return value, float(np.sqrt((size - 1) / size * ((value_G - value_G.mean()) ** 2).sum()))


def _score_interval(score: float, se: float, units: int) -> tuple[float, float]:
    loss = 1 - score
    if math.isnan(se) or loss <= 0:
        return (math.nan, math.nan) if math.isnan(se) else (score, score)
    reach = _quantile(units) * se / loss
    return 1 - loss * math.exp(reach), 1 - loss * math.exp(-reach)


def _quantile(units: int) -> float:
    """Of t with one degree of freedom less than there are units."""
    from scipy.special import stdtrit  # here: scipy is slow to load, and readers of one number do without

    return float(stdtrit(units - 1, (1 + LEVEL) / 2)) if units > 1 else math.nan
