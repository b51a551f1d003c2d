"""What a card keeps so that intervals of any level can be computed later: nested predictions and their errors.

N rows in the order of their units, G units, T = 5 targets; grams, with four decimals. Numbers of a column are one text
each, so that a card stays a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import TARGETS, FloatArray, IntArray
from ensembles.intervals.conformal import OFFSET_SHARE

_DECIMALS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """The rows as arrays; NaN in a target that was not measured."""

    pred_NT: FloatArray
    error_NT: FloatArray  # measured minus predicted
    unit_N: IntArray  # number of each row's unit
    offset_T: FloatArray
    unit: str
    seed: int

    @property
    def targets(self) -> tuple[str, ...]:
        """That were measured."""
        return tuple(name for name, offset in zip(TARGETS, self.offset_T, strict=True) if not np.isnan(offset))

    def take(self, keep_N: NDArray[np.bool_]) -> Calibration:
        """Some of the rows; offsets stay."""
        return replace(self, pred_NT=self.pred_NT[keep_N], error_NT=self.error_NT[keep_N], unit_N=self.unit_N[keep_N])


@dataclass(frozen=True, kw_only=True)
class IntervalRows:
    """Out-of-nest rows of a blend, nests being the study's folds; columns of the measured targets only."""

    unit: str  # what a unit is called: date, state, group, photograph
    unit_names: tuple[str, ...]
    unit_rows: tuple[int, ...]  # of each unit; they stand together
    offset_g: dict[str, float]  # by target
    predicted_g: dict[str, str]  # by target, numbers apart by blanks
    error_g: dict[str, str]  # measured minus predicted; nan: not measured
    seed: int  # which photographs of a unit stand for a mean of few

    @classmethod
    def of(
        cls,
        truth_NT: FloatArray,
        pred_NT: FloatArray,
        measured_NT: FloatArray,
        units: Sequence[str],
        *,
        unit: str,
        seed: int,
    ) -> Self:
        """measured_NT: true where a mass was measured; units: of each row."""
        order = np.argsort(np.asarray(units), kind="stable")
        names, counts = np.unique(np.asarray(units), return_counts=True)
        measured = [(column, name) for column, name in enumerate(TARGETS) if measured_NT[:, column].any()]
        error_NT = np.where(measured_NT, truth_NT - pred_NT, np.nan)
        return cls(
            unit=unit,
            unit_names=tuple(map(str, names)),
            unit_rows=tuple(map(int, counts)),
            offset_g={
                name: OFFSET_SHARE * float(truth_NT[measured_NT[:, column], column].mean()) for column, name in measured
            },
            predicted_g={name: _text(pred_NT[order, column]) for column, name in measured},
            error_g={name: _text(error_NT[order, column]) for column, name in measured},
            seed=seed,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What dataclasses.asdict gave."""
        return cls(
            **{
                **content,
                "unit_names": tuple(content["unit_names"]),
                "unit_rows": tuple(content["unit_rows"]),
            }
        )

    @cached_property
    def calibration(self) -> Calibration:
        return Calibration(
            pred_NT=self._columns(self.predicted_g),
            error_NT=self._columns(self.error_g),
            unit_N=np.repeat(np.arange(len(self.unit_rows)), self.unit_rows),
            offset_T=np.array([self.offset_g.get(name, np.nan) for name in TARGETS]),
            unit=self.unit,
            seed=self.seed,
        )

    def _columns(self, texts: Mapping[str, str]) -> FloatArray:
        none_N = np.full(sum(self.unit_rows), np.nan)
        columns = [np.array(texts[name].split(), dtype=np.float64) if name in texts else none_N for name in TARGETS]
        return np.column_stack(columns)


def _text(value_N: FloatArray) -> str:
    return " ".join(f"{value:.{_DECIMALS}f}" for value in value_N)
