"""Intervals of new photographs, of all masses at once, and of means, at any level, from the rows that a card keeps.

N photographs, T = 5 targets, G units; masses in grams. NaN where nothing is promised: a target that was not measured,
or too few units for the level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from biomass_models.errors import UserError
from biomass_models.targets import TARGETS, FloatArray
from ensembles.intervals.conformal import (
    bounds,
    joint_quantile,
    least_units,
    order_quantile,
    propagated,
    scale_of,
    scaled,
    unit_quantile,
)
from ensembles.intervals.rows import Calibration

LEVELS = (0.8, 0.9)  # that pages show
JOINT_BASE = 0.8  # level whose quantiles make the targets of a box comparable


@dataclass(frozen=True, kw_only=True)
class Box:
    """Bounds that hold for all masses of a photograph together."""

    low_NT: FloatArray
    high_NT: FloatArray
    left_out: tuple[str, ...]  # measured targets without a scale of their own: no error at all, or too few units


@dataclass(frozen=True, kw_only=True)
class MeanQuantiles:
    """Of means of photographs of one unit."""

    q_T: FloatArray  # infinite: not enough units
    photographs_T: tuple[
        int, ...
    ]  # that the calibrating means are of; fewer than asked where too few units have as many


class Intervals:
    """What a blend promises on a new unit."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._joint = cache(self._joint_at)
        self._mean = cache(self._mean_at)

    @property
    def offset_T(self) -> FloatArray:
        return self.calibration.offset_T

    @cached_property
    def score_NT(self) -> FloatArray:
        """Scaled errors of the calibrating rows."""
        return scaled(self.calibration.error_NT, scale_of(self.calibration.pred_NT, self.offset_T))

    def quantiles(self, level: float) -> FloatArray:
        """q_T; infinite for a target with too few units, NaN for one that was not measured."""
        require_level(level)
        q_T = [
            unit_quantile(self.score_NT[:, column], self.calibration.unit_N, level) for column in range(len(TARGETS))
        ]
        return np.where(np.isnan(self.offset_T), np.nan, q_T)

    def of_photographs(self, pred_NT: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds [N, 5] of each mass alone."""
        return bounds(pred_NT, self.quantiles(level), self.offset_T)

    def box(self, pred_NT: FloatArray, level: float) -> Box:
        """Bounds [N, 5] of all masses at once, as far as the identities let them move."""
        q, part, q80_T = self._joint(level)
        q_T = np.full(len(TARGETS), np.nan)
        q_T[list(part)] = q * q80_T[list(part)]
        low_NT, high_NT = propagated(*bounds(pred_NT, q_T, self.offset_T))
        return Box(low_NT=low_NT, high_NT=high_NT, left_out=self.left_out(level))

    def left_out(self, level: float) -> tuple[str, ...]:
        """Measured targets that a box has no bounds for."""
        _, part, _ = self._joint(level)
        return tuple(name for name in self.calibration.targets if TARGETS.index(name) not in part)

    def of_mean(self, mean_T: FloatArray, photographs: int, level: float) -> tuple[FloatArray, FloatArray]:
        """Bounds [5] of the mean mass of photographs of one unit."""
        low_NT, high_NT = bounds(mean_T[None], self.mean_quantiles(photographs, level).q_T, self.offset_T)
        return low_NT[0], high_NT[0]

    def mean_quantiles(self, photographs: int, level: float) -> MeanQuantiles:
        """Of |mean error| / sqrt(mean predicted + offset), one subsample of the photographs of each unit.

        Units with fewer photographs cannot show what such a mean errs by. Where fewer than half of the units, or than
        the level needs, have as many, the means are of as many as those have: that errs on the wide side.
        """
        require_level(level)
        return self._mean(photographs, level)

    def enough(self, level: float) -> bool:
        """Whether any mass has a finite interval."""
        return bool(np.isfinite(self.quantiles(level)).any())

    def shortage(self, level: float) -> str | None:
        """Why masses have no interval of a level; None where all have one."""
        q_T = self.quantiles(level)
        short = [
            name
            for name, q in zip(TARGETS, q_T, strict=True)
            if name in self.calibration.targets and not np.isfinite(q)
        ]
        if not short:
            return None
        which = "" if len(short) == len(self.calibration.targets) else f" of {', '.join(short)}"
        have = max((self._units(TARGETS.index(name)) for name in short), default=0)
        units, needed = f"{self.calibration.unit}s", least_units(level)
        return f"not enough {units} for intervals{which} at {level:g}: they need {needed}, got {have}"

    def _units(self, column: int) -> int:
        return len(np.unique(self.calibration.unit_N[~np.isnan(self.score_NT[:, column])]))

    def _joint_at(self, level: float) -> tuple[float, tuple[int, ...], FloatArray]:
        require_level(level)
        q80_T = self.quantiles(JOINT_BASE)
        q, part = joint_quantile(
            self.score_NT, self.calibration.unit_N, np.where(np.isnan(q80_T), np.inf, q80_T), level
        )
        return q, tuple(map(int, part)), q80_T

    @cached_property
    def _drawn_N(self) -> FloatArray:
        """A random number for each row, by which photographs of a unit come first in subsamples of any size."""
        return np.random.default_rng([self.calibration.seed, len(self.calibration.unit_N)]).random(
            len(self.calibration.unit_N)
        )

    def _mean_at(self, photographs: int, level: float) -> MeanQuantiles:
        found = [self._mean_of(column, photographs, level) for column in range(len(TARGETS))]
        return MeanQuantiles(q_T=np.array([q for q, _ in found]), photographs_T=tuple(size for _, size in found))

    def _mean_of(self, column: int, photographs: int, level: float) -> tuple[float, int]:
        error_N, pred_N = self.calibration.error_NT[:, column], self.calibration.pred_NT[:, column]
        known = np.flatnonzero(~np.isnan(error_N))
        if not len(known):
            return math.nan, photographs
        order = known[np.lexsort((self._drawn_N[known], self.calibration.unit_N[known]))]
        _, first_G, rows_G = np.unique(self.calibration.unit_N[order], return_index=True, return_counts=True)
        needed = max(least_units(level), (len(rows_G) + 1) // 2)
        if len(rows_G) < least_units(level):
            return math.inf, photographs
        size = min(photographs, int(np.sort(rows_G)[::-1][min(needed, len(rows_G)) - 1]))
        rows_gn = [order[first : first + size] for first, rows in zip(first_G, rows_G, strict=True) if rows >= size]
        error_g, pred_g = (np.array([value_N[rows].mean() for rows in rows_gn]) for value_N in (error_N, pred_N))
        return order_quantile(scaled(error_g, scale_of(pred_g, self.offset_T[column])), level), size


def require_level(level: float) -> None:
    """Raise UserError for what is no share of photographs."""
    if not 0 < level < 1:
        raise UserError(f"a level lies between 0 and 1, such as 0.8, got {level:g}")
