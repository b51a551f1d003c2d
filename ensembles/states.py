"""The state rule: where a photograph is likely of a state that never has a component, that component is 0.

N images, S states, 3 components (green, dead, clover), T = 5 targets; masses in grams.
likely_NS   chance of each state, from a model that has not learned from the image
absent_S3   whether the measured rows of a state, FEWEST or more, are all 0
threshold   chance above which a state counts; 1 never does
Both are fitted on training rows only: those of a nest, where a nest is scored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import FROM_COMPONENTS, TARGETS, FloatArray, squared_error

COMPONENTS = TARGETS[:3]
THRESHOLDS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)  # that are compared; of equals the first, which does least
FEWEST = 10  # measured rows by which a state may be said to never have a component


@dataclass(frozen=True, kw_only=True, eq=False)
class States:
    """How likely each image is of each state."""

    names: tuple[str, ...]
    likely_NS: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class StateRule:
    """A fitted rule."""

    absent_S3: NDArray[np.bool_]
    threshold: float

    def apply(self, pred_NT: FloatArray, likely_NS: FloatArray) -> FloatArray:
        """Coherent masses [N, 5] without the components that a likely state never has."""
        struck_N3 = np.any((likely_NS > self.threshold)[:, :, None] & self.absent_S3, axis=1)
        return without(pred_NT, struck_N3) if struck_N3.any() else pred_NT


def fit_state_rule(
    truth_NT: FloatArray,
    pred_NT: FloatArray,
    weight: FloatArray,
    state_N: NDArray[np.str_],
    states: tuple[str, ...],
    likely_NS: FloatArray,
) -> StateRule:
    """What each state never has, and the threshold with the least weighted squared error. All rows are training rows.

    pred_NT: blended masses; weight: of the cells, [5] or [N, 5].
    """
    measured_N3 = (np.broadcast_to(weight, truth_NT.shape) > 0)[:, :3] & ~np.isnan(truth_NT[:, :3])
    has_N3 = measured_N3 & (truth_NT[:, :3] != 0)
    absent_S3 = np.array(
        [(measured_N3[state_N == state].sum(0) >= FEWEST) & ~has_N3[state_N == state].any(0) for state in states]
    )
    rules = [StateRule(absent_S3=absent_S3, threshold=threshold) for threshold in THRESHOLDS]
    losses = [float(squared_error(truth_NT, rule.apply(pred_NT, likely_NS), weight).sum()) for rule in rules]
    return rules[int(np.argmin(losses))]


def without(pred_NT: FloatArray, struck_N3: NDArray[np.bool_]) -> FloatArray:
    """Coherent masses [N, 5] with some components at 0; NaN, as of targets that were never measured, stays."""
    if np.isnan(pred_NT).any():
        removed_N3 = np.where(struck_N3 & ~np.isnan(pred_NT[:, :3]), pred_NT[:, :3], 0.0)
        return np.maximum(pred_NT - removed_N3 @ FROM_COMPONENTS.T, 0.0)
    return np.where(struck_N3, 0.0, pred_NT[:, :3]) @ FROM_COMPONENTS.T
