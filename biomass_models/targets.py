"""The five targets, their identities and the one metric. The ground floor: numpy only.

N images, T = 5 targets; masses in grams of dry matter per 70 x 30 cm quadrat, float64.
mass_NT    masses, columns in the order of TARGETS; leading axes (members, bags) are allowed everywhere
weight_T   weights of the metric, summing to 1

The three components (green, dead, clover) determine all five: GDM = green + clover, total = GDM + dead.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biomass_models.counted import counted
from biomass_models.errors import UserError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TARGETS: tuple[str, ...] = ("Dry_Green_g", "Dry_Dead_g", "Dry_Clover_g", "GDM_g", "Dry_Total_g")
GREEN, DEAD, CLOVER, GDM, TOTAL = range(5)
weight_T: FloatArray = np.array([0.1, 0.1, 0.1, 0.2, 0.5])

# mass_T = FROM_COMPONENTS @ (green, dead, clover)
FROM_COMPONENTS: FloatArray = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]], dtype=np.float64)


def weighted_r2_score(truth_NT: ArrayLike, pred_NT: ArrayLike) -> float:
    """The competition's score: one weighted R2 over all (image, target) rows together.

    truth_NT, pred_NT: [N, 5] grams. Larger is better, 1 is perfect, 0 is the grand weighted mean.
    Raises ValueError for unlike shapes, values that are not finite, or a truth without spread.
    """
    truth, pred = np.asarray(truth_NT, dtype=np.float64), np.asarray(pred_NT, dtype=np.float64)
    if truth.shape != pred.shape or truth.ndim != 2 or truth.shape[1] != len(TARGETS):
        raise ValueError(
            f"truth and prediction must both be [images, {len(TARGETS)}], got {truth.shape} and {pred.shape}"
        )
    if not (np.isfinite(truth).all() and np.isfinite(pred).all()):
        raise UserError("truth and prediction must be finite; look for NaN or infinite masses")
    sst = weighted_sst(truth)
    if sst <= 0:
        raise UserError(f"R2 needs masses that differ, got {counted(len(truth), 'image')} without any spread")
    return float(1.0 - weighted_square(truth - pred).sum() / sst)


def weighted_sst(truth_NT: ArrayLike) -> float:
    """Weighted total sum of squares around the ONE grand weighted mean: the metric's denominator, in g^2.

    Exactly 0 for masses that are all alike: what rounding leaves of them is no spread.
    """
    truth = np.asarray(truth_NT, dtype=np.float64)
    mean = (weight_T * truth).sum() / (weight_T.sum() * len(truth))
    sst = float(weighted_square(truth - mean).sum())
    return sst if sst > 1e-12 * float(weighted_square(truth).sum()) else 0.0


def weighted_square(residual_NT: FloatArray) -> FloatArray:
    """What each residual [..., 5] in grams adds to the metric's numerator: [..., 5] g^2."""
    square_NT: FloatArray = weight_T * residual_NT**2
    return square_NT


def squared_error(truth_NT: FloatArray, pred_NT: FloatArray) -> FloatArray:
    """Weighted squared error of each image, [...] g^2; the metric's numerator is its sum over the images."""
    error_N: FloatArray = weighted_square(truth_NT - pred_NT).sum(-1)
    return error_N


def from_components(green: ArrayLike, dead: ArrayLike, clover: ArrayLike) -> FloatArray:
    """Three component masses [...] in grams -> all five targets [..., 5]."""
    stacked = np.stack([np.asarray(part, dtype=np.float64) for part in (green, dead, clover)], axis=-1)
    return stacked @ FROM_COMPONENTS.T


def identity_gap(mass_NT: ArrayLike) -> FloatArray:
    """Largest violation of the two identities per image, [...] grams; 0 for coherent masses."""
    mass = np.asarray(mass_NT, dtype=np.float64)
    gdm_gap = np.abs(mass[..., GDM] - mass[..., GREEN] - mass[..., CLOVER])
    total_gap = np.abs(mass[..., TOTAL] - mass[..., GDM] - mass[..., DEAD])
    return np.maximum(gdm_gap, total_gap)


def _face_solvers() -> list[FloatArray]:
    """For each set of components allowed to be positive: the weighted least-squares map [3, 5] onto that face."""
    root_weight = np.sqrt(weight_T)
    solvers = []
    for free in itertools.product([False, True], repeat=3):
        solver = np.zeros((3, len(TARGETS)))
        if any(free):
            columns = FROM_COMPONENTS[:, np.array(free)]
            solver[np.array(free)] = np.linalg.pinv(root_weight[:, None] * columns) * root_weight
        solvers.append(solver)
    return solvers


_SOLVERS = _face_solvers()


def project_coherent(pred_NT: ArrayLike) -> FloatArray:
    """Nearest coherent, non-negative masses in the metric's own norm; shape [..., 5] grams, kept.

    The feasible set is the convex cone FROM_COMPONENTS @ z, z >= 0, so the projection never moves a prediction
    away from any coherent truth: no score against such a truth can fall. Solved exactly by enumerating
    the cone's 8 faces for all rows at once: the feasible candidate that lies nearest is the projection.
    Raises ValueError for masses that are not finite.
    """
    pred = np.asarray(pred_NT, dtype=np.float64)
    if pred.shape[-1] != len(TARGETS):
        raise ValueError(f"the last axis must hold the {len(TARGETS)} targets, got shape {pred.shape}")
    if not np.isfinite(pred).all():
        raise ValueError("masses must be finite before they are projected; look for NaN or infinite predictions")
    best = np.zeros((*pred.shape[:-1], 3))
    best_distance = np.asarray(weighted_square(pred).sum(-1))  # the face where all three components are 0
    for solver in _SOLVERS[1:]:
        component = pred @ solver.T
        distance = squared_error(pred, component @ FROM_COMPONENTS.T)
        nearer = (component >= 0).all(-1) & (distance < best_distance)
        best[nearer], best_distance[nearer] = component[nearer], distance[nearer]
    return best @ FROM_COMPONENTS.T
