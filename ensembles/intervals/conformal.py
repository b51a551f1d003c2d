"""Quantiles of scaled errors for intervals on a new unit: hierarchical conformal prediction.

N calibration rows, T = 5 targets, G units (dates, or what the folds keep whole); masses in grams.
score_N    |measured - predicted| / sqrt(predicted + offset), NaN where the mass was not measured
offset_T   0.3 x the mean of each target's training masses, so that errors near 0 g have a scale
level      1 - alpha: the share of new units' photographs that an interval is to hold

Each of a unit's n_k rows has the mass 1 / ((G + 1) n_k), and 1 / (G + 1) lies at infinity, for the new unit. The
interval is finite where G / (G + 1) >= level; else there are not enough units. Sources: Lee, Barber, Willett (arXiv
2306.06342); Dunn, Wasserman, Ramdas (arXiv 1809.07441).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import CLOVER, DEAD, GDM, GREEN, TOTAL, FloatArray, IntArray

OFFSET_SHARE = 0.3  # of a target's mean training mass
SUMS = ((GREEN, CLOVER, GDM), (GDM, DEAD, TOTAL))  # part + part = whole
PASSES = 4  # over the identities, after which no bound moves any more
_ROUNDING = 1e-9  # of sums of masses


def scale_of(pred: FloatArray, offset: FloatArray | float) -> FloatArray:
    """sqrt(predicted + offset), what errors are divided by; grams to the power of 1/2."""
    return np.sqrt(np.maximum(pred + offset, 0.0))


def scaled(error: FloatArray, scale: FloatArray) -> FloatArray:
    """|error| / scale: 0 where both are 0, infinite where only the scale is, NaN where the error is."""
    size = np.abs(error)
    found = np.divide(size, scale, out=np.full(size.shape, np.inf), where=scale > 0)
    return np.where(np.isnan(size), np.nan, np.where((size == 0) & (scale == 0), 0.0, found))


def least_units(level: float) -> int:
    """Units that a finite interval of a level needs: the smallest G with G / (G + 1) >= level."""
    return max(1, math.ceil(level / (1 - level) - _ROUNDING))


def unit_quantile(score_N: FloatArray, unit_N: NDArray[np.generic], level: float) -> float:
    """Weighted quantile of the scores that are not NaN, infinite where there are not enough units."""
    known_N = ~np.isnan(score_N)
    units, of_n, rows_G = np.unique(unit_N[known_N], return_inverse=True, return_counts=True)
    if len(units) < least_units(level):
        return math.inf
    score_n, mass_n = score_N[known_N], 1 / ((len(units) + 1) * rows_G[of_n])
    order = np.argsort(score_n, kind="stable")
    reached = np.searchsorted(np.cumsum(mass_n[order]), level - _ROUNDING)
    return float(score_n[order[min(int(reached), len(order) - 1)]])


def order_quantile(score_G: FloatArray, level: float) -> float:
    """The ceil((G + 1) level)-th smallest of one score a unit; infinite where there are not enough units."""
    if len(score_G) < least_units(level):
        return math.inf
    return float(np.sort(score_G)[math.ceil((len(score_G) + 1) * level - _ROUNDING) - 1])


def bounds(pred_NT: FloatArray, q_T: FloatArray, offset_T: FloatArray) -> tuple[FloatArray, FloatArray]:
    """max(0, predicted -+ q sqrt(predicted + offset)); NaN where q is not finite or nothing is predicted."""
    reach_NT = np.where(np.isfinite(q_T), q_T, np.nan) * scale_of(pred_NT, offset_T)
    return np.maximum(pred_NT - reach_NT, 0.0), pred_NT + reach_NT


def joint_quantile(
    score_NT: FloatArray, unit_N: NDArray[np.generic], q80_T: FloatArray, level: float
) -> tuple[float, IntArray]:
    """One quantile of max_t score_t / q80_t, and the targets that take part: with a q80 neither 0 nor infinite."""
    part = np.flatnonzero(np.isfinite(q80_T) & (q80_T > 0))
    if not len(part):
        return math.inf, part
    ratio_NP = score_NT[:, part] / q80_T[part]
    none_N = np.isnan(ratio_NP).all(axis=1)
    largest_N = np.where(np.isnan(ratio_NP), -np.inf, ratio_NP).max(axis=1)
    return unit_quantile(np.where(none_N, np.nan, largest_N), unit_N, level), part


def propagated(low_NT: FloatArray, high_NT: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bounds that the identities leave of a box [N, 5]; NaN is no bound and stays NaN.

    An interval that rounding leaves empty is as it was given.
    """
    unknown_NT = np.isnan(low_NT) | np.isnan(high_NT)
    low, high = np.where(unknown_NT, 0.0, low_NT), np.where(unknown_NT, np.inf, high_NT)
    for _ in range(PASSES):
        for part, other, whole in SUMS:
            low[:, whole] = np.maximum(low[:, whole], low[:, part] + low[:, other])
            high[:, whole] = np.minimum(high[:, whole], high[:, part] + high[:, other])
            for one, rest in ((part, other), (other, part)):
                least_N = np.maximum(low[:, whole] - high[:, rest], 0.0)
                low[:, one] = np.maximum(low[:, one], least_N)
                high[:, one] = np.minimum(high[:, one], high[:, whole] - low[:, rest])
    empty_NT = low > high
    low, high = np.where(empty_NT, low_NT, low), np.where(empty_NT, high_NT, high)
    return np.where(unknown_NT, np.nan, low), np.where(unknown_NT, np.nan, high)
