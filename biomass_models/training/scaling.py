"""Grams to the numbers that a network regresses, and back. Torch-free, float64.

N images, T = 5 targets.  mass_NT grams, NaN where not measured;  z_NT transformed and z-scored masses, without unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from biomass_models.targets import FloatArray

SMALLEST_SD = 1e-3  # a target that never varies in the training folds is not blown up
HEADROOM = 2.0  # predictions are capped at this multiple of the heaviest training mass


@dataclass(frozen=True)
class TargetScaler:
    """Transform and z-score per target, fitted on training rows only.

    cap_T [grams] bounds predictions: the inverse of a logarithm turns a small overshoot into tonnes, and
    half precision overflows at expm1(12). The cap is applied before the inverse, so nothing can overflow.
    """

    transform: str  # log1p | sqrt | none
    mean_T: FloatArray
    sd_T: FloatArray
    cap_T: FloatArray  # grams

    @classmethod
    def fit(cls, mass_NT: FloatArray, transform: str) -> TargetScaler:
        """mass_NT: [N, 5] grams of the training rows, non-negative. Measured cells count; a target without any is
        scaled as one that is always 0.
        """
        unmeasured = np.isnan(mass_NT)
        if unmeasured.any():
            mass_NT = np.where(unmeasured.all(axis=0), 0.0, mass_NT)
            value = _forward(mass_NT, transform)
            mean, sd, heaviest = np.nanmean(value, axis=0), np.nanstd(value, axis=0), np.nanmax(mass_NT, axis=0)
        else:
            value = _forward(mass_NT, transform)
            mean, sd, heaviest = value.mean(axis=0), value.std(axis=0), mass_NT.max(axis=0)
        return cls(transform, mean, np.maximum(sd, SMALLEST_SD), np.maximum(HEADROOM * heaviest, 1.0))

    def scale(self, mass_NT: FloatArray) -> FloatArray:
        """[N, 5] grams -> [N, 5] z-scores; NaN stays NaN."""
        return (_forward(mass_NT, self.transform) - self.mean_T) / self.sd_T

    def grams(self, z_NT: FloatArray) -> FloatArray:
        """[N, 5] z-scores -> [N, 5] grams in [0, cap_T]."""
        value = np.asarray(z_NT, dtype=np.float64) * self.sd_T + self.mean_T
        value = np.clip(value, 0.0, _forward(self.cap_T, self.transform))
        if self.transform == "log1p":
            return np.expm1(value)
        return value**2 if self.transform == "sqrt" else value

    def arrays(self) -> dict[str, FloatArray]:
        """What `from_arrays` needs beside the transform's name."""
        return {"scaler.mean": self.mean_T, "scaler.sd": self.sd_T, "scaler.cap": self.cap_T}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray], transform: str) -> TargetScaler:
        """Inverse of `arrays`."""
        parts = (np.asarray(arrays[f"scaler.{part}"], np.float64) for part in ("mean", "sd", "cap"))
        return cls(transform, *parts)


def _forward(mass: FloatArray, transform: str) -> FloatArray:
    if transform == "log1p":
        return np.log1p(mass)
    return np.sqrt(mass) if transform == "sqrt" else np.asarray(mass, dtype=np.float64)
