"""How often the intervals of a blend held on its own units, each left out of what they were computed from.

N rows, T = 5 targets, G units. The promise is over units, not within each: some are covered well and some badly.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from biomass_models.targets import TARGETS, FloatArray
from ensembles.intervals.levels import Intervals
from ensembles.intervals.rows import IntervalRows

BADLY = 0.7  # share of a unit's photographs up to which it counts as badly covered
MOST_UNITS = 200  # that are left out one by one, spread over all


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Of a level; columns are the targets."""

    level: float
    units: tuple[str, ...]  # that were left out
    share_GT: FloatArray  # of each unit's measured masses in their intervals; NaN where there was none
    joint_G: FloatArray  # of its photographs with all measured masses in the box

    @property
    def mean_T(self) -> FloatArray:
        """Over units; NaN without any."""
        return _mean(self.share_GT)

    @property
    def joint(self) -> float:
        return float(_mean(self.joint_G))

    @property
    def badly_T(self) -> FloatArray:
        """Share of the units of which BADLY or less was covered."""
        return _mean(np.where(np.isnan(self.share_GT), np.nan, self.share_GT <= BADLY))

    @property
    def worst(self) -> tuple[str, float] | None:
        """The target that is badly covered on most units, and their share; None without any interval."""
        if np.isnan(self.badly_T).all():
            return None
        column = int(np.nanargmax(self.badly_T))
        return TARGETS[column], float(self.badly_T[column])


def coverage(rows: IntervalRows, level: float) -> Coverage:
    """Leave out one unit after the other; a unit without an interval (not enough others) has no share."""
    units = np.arange(len(rows.unit_names))
    left = units if len(units) <= MOST_UNITS else units[np.linspace(0, len(units) - 1, MOST_UNITS).astype(int)]
    share, joint = [], []
    calibration = rows.calibration
    for unit in left:
        own_N = calibration.unit_N == unit
        own, others = calibration.take(own_N), Intervals(calibration.take(~own_N))
        truth_nT = own.pred_NT + own.error_NT
        share.append(_mean(_inside(truth_nT, *others.of_photographs(own.pred_NT, level))))
        box = others.box(own.pred_NT, level)
        in_nT = _inside(truth_nT, box.low_NT, box.high_NT)
        whole_n = np.where(np.isnan(in_nT).all(axis=1), np.nan, (np.isnan(in_nT) | (in_nT == 1)).all(axis=1))
        joint.append(_mean(whole_n))
    return Coverage(
        level=level,
        units=tuple(rows.unit_names[unit] for unit in left),
        share_GT=np.array(share).reshape(len(left), len(TARGETS)),
        joint_G=np.array(joint),
    )


def _inside(truth_nT: FloatArray, low_nT: FloatArray, high_nT: FloatArray) -> FloatArray:
    """1 or 0; NaN where nothing was measured or promised."""
    unknown_nT = np.isnan(truth_nT) | np.isnan(low_nT)
    slack = 1e-9  # sums of rounded masses
    inside_nT = (truth_nT >= low_nT - slack) & (truth_nT <= high_nT + slack)
    return np.where(unknown_nT, np.nan, inside_nT)


def _mean(value: FloatArray) -> FloatArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns without any number, whose mean is NaN
        return np.asarray(np.nanmean(value, axis=0))
