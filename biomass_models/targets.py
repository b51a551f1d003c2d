"""The five targets, their identities and the one metric. The ground floor: numpy only.

N images, T = 5 targets; masses in grams of dry matter per 70 x 30 cm quadrat, float64.
mass_NT    masses, columns in the order of TARGETS; leading axes (members, bags) are allowed everywhere; NaN in a truth:
           not measured
weight_T   weights of the metric, summing to 1
weight     what each cell counts in the metric: weight_T for all rows where all was measured, else [N, 5], 0 in a cell
           that was not (weights_of); what stands in such a cell, of truth or prediction, plays no part

The three components (green, dead, clover) determine all five: GDM = green + clover, total = GDM + dead.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biomass_models.counted import counted
from biomass_models.errors import UserError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TARGETS: tuple[str, ...] = ("Dry_Green_g", "Dry_Dead_g", "Dry_Clover_g", "GDM_g", "Dry_Total_g")
GREEN, DEAD, CLOVER, GDM, TOTAL = range(5)
weight_T: FloatArray = np.array([0.1, 0.1, 0.1, 0.2, 0.5])
LEAST_MEASURED = 10  # training rows in which a target must be measured to be learned, where some rows lack it

# mass_T = FROM_COMPONENTS @ (green, dead, clover)
FROM_COMPONENTS: FloatArray = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]], dtype=np.float64)


def weights_of(truth_NT: ArrayLike, given: FloatArray | None = None) -> FloatArray:
    """Weight of each cell in the metric: `given` ([5] or [N, 5], default weight_T), and 0 where truth_NT is NaN.

    [N, 5], or `given` as it is where nothing is NaN: then every formula is the published one, to the bit.
    """
    truth = np.asarray(truth_NT, dtype=np.float64)
    weight = weight_T if given is None else given
    unmeasured = np.isnan(truth)
    return np.where(unmeasured, 0.0, weight) if unmeasured.any() else weight


def weights_in(weight: FloatArray, rows: Any) -> FloatArray:
    """Weights of some rows."""
    return weight if weight.ndim == 1 else weight[rows]


def norm_of(weight: FloatArray) -> FloatArray:
    """Weight of each target in a projection, [5]; 0 for a target that no row counts.

    A row that shows one of k photographs of a quadrat counts 1 / k of it: what is returned is without that factor, also
    for a mass that was measured only where there are several. Masses that no row connects keep their largest weights.
    """
    if weight.ndim == 1:
        return weight
    largest_T: FloatArray = weight.max(axis=0, initial=0.0)
    if in_proportion(weight, largest_T):
        return largest_T
    return _weights_without_shares(weight, largest_T)


def in_proportion(weight_NT: FloatArray, base_T: FloatArray) -> bool:
    """Whether the weights of each row are base_T times a factor of the row, where it counts any."""
    ratio_NT = np.divide(weight_NT, base_T, out=np.zeros(weight_NT.shape), where=base_T > 0)
    least_N = np.where(ratio_NT > 0, ratio_NT, np.inf).min(axis=1)
    return bool((ratio_NT.max(axis=1) <= least_N * (1 + 1e-9)).all())


def _weights_without_shares(weight_NT: FloatArray, largest_T: FloatArray) -> FloatArray:
    """norm_of from rows with two masses or more: their ratio is that of their targets, whatever the factor."""
    norm_T, known = np.zeros(len(TARGETS)), np.zeros(len(TARGETS), dtype=bool)
    for start in np.argsort(-largest_T, kind="stable"):
        if known[start] or largest_T[start] <= 0:
            continue
        part = {int(start): float(largest_T[start])}
        while found := [
            (target, part[have] * float(weight_NT[both[0], target] / weight_NT[both[0], have]))
            for have in part
            for target in np.flatnonzero(largest_T > 0).tolist()
            if target not in part and len(both := np.flatnonzero((weight_NT[:, have] > 0) & (weight_NT[:, target] > 0)))
        ]:
            part.setdefault(*found[0])
        columns = list(part)
        base_C = np.array([part[column] for column in columns])
        norm_T[columns] = base_C * (weight_NT[:, columns] / base_C).max()  # the largest factor of a row is 1
        known[columns] = True
    return norm_T


def blank_unmeasured(pred_NT: FloatArray, norm_T: FloatArray) -> FloatArray:
    """Predictions [..., 5] in grams, NaN in targets that were never measured (norm_of a study's weights: 0)."""
    return np.where(norm_T > 0, pred_NT, np.nan) if (norm_T <= 0).any() else pred_NT


def measured_targets(weight: FloatArray) -> tuple[str, ...]:
    """Names of the targets that some row counts: what was measured, in the order of TARGETS."""
    return tuple(name for name, norm in zip(TARGETS, norm_of(weight), strict=True) if norm > 0)


def weighted_r2_score(truth_NT: ArrayLike, pred_NT: ArrayLike, weight: FloatArray | None = None) -> float:
    """The competition's score: one weighted R2 over all (image, target) rows together.

    truth_NT, pred_NT: [N, 5] grams; weight: of the cells, by default weights_of(truth_NT). Larger is better, 1 is
    perfect, 0 is the grand weighted mean. Raises ValueError for unlike shapes; UserError for values that count and are
    not finite, and a truth without spread.
    """
    truth, pred = np.asarray(truth_NT, dtype=np.float64), np.asarray(pred_NT, dtype=np.float64)
    if truth.shape != pred.shape or truth.ndim != 2 or truth.shape[1] != len(TARGETS):
        raise ValueError(
            f"truth and prediction must both be [images, {len(TARGETS)}], got {truth.shape} and {pred.shape}"
        )
    weight = weights_of(truth) if weight is None else weight
    counts = np.broadcast_to(weight > 0, truth.shape)
    if not (np.isfinite(truth[counts]).all() and np.isfinite(pred[counts]).all()):
        raise UserError("truth and prediction must be finite; look for NaN or infinite masses")
    sst = weighted_sst(truth, weight)
    if sst <= 0:
        raise UserError(f"R2 needs masses that differ, got {counted(len(truth), 'image')} without any spread")
    return float(1.0 - weighted_square(truth - pred, weight).sum() / sst)


def weighted_sst(truth_NT: ArrayLike, weight: FloatArray | None = None) -> float:
    """Weighted total sum of squares around the ONE grand weighted mean: the metric's denominator, in g^2.

    Exactly 0 for masses that are all alike: what rounding leaves of them is no spread.
    """
    truth = np.asarray(truth_NT, dtype=np.float64)
    weight = weights_of(truth) if weight is None else weight
    if weight.ndim == 1:
        mean = (weight * truth).sum() / (weight.sum() * len(truth))
    elif (total := float(weight.sum())) > 0:
        mean = np.where(weight > 0, weight * truth, 0.0).sum() / total
    else:
        return 0.0
    sst, square = (float(weighted_square(part, weight).sum()) for part in (truth - mean, truth))
    return float(spread_of(sst, square))


def spread_of(sst: ArrayLike, square: ArrayLike) -> FloatArray:
    """Sums of squares around a mean, exactly 0 where they are rounding; square: the same around 0."""
    return np.where(np.asarray(sst) > 1e-12 * np.asarray(square), sst, 0.0)


def weighted_square(residual_NT: FloatArray, weight: FloatArray = weight_T) -> FloatArray:
    """What each residual [..., N, 5] in grams adds to the metric's numerator: [..., N, 5] g^2; exactly 0 in a cell
    that does not count."""
    square_NT: FloatArray = weight * residual_NT**2
    return square_NT if (weight > 0).all() else np.where(weight > 0, square_NT, 0.0)


def squared_error(truth_NT: FloatArray, pred_NT: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """Weighted squared error of each image, [..., N] g^2; the metric's numerator is its sum over the images."""
    weight = weights_of(truth_NT) if weight is None else weight
    error_N: FloatArray = weighted_square(truth_NT - pred_NT, weight).sum(-1)
    return error_N


def rmse_by_target(truth_NT: FloatArray, pred_NT: FloatArray, weight: FloatArray) -> dict[str, float]:
    """Root mean squared error of each measured target over the rows that have it, by their weights, grams."""
    square_NT = (truth_NT - pred_NT) ** 2
    if weight.ndim == 1:
        return dict(zip(TARGETS, map(float, square_NT.mean(0) ** 0.5), strict=True))
    known_NT = weight > 0
    return {
        name: float(np.average(square_NT[known_N, column], weights=weight[known_N, column]) ** 0.5)
        for name in measured_targets(weight)
        for column in [TARGETS.index(name)]
        for known_N in [known_NT[:, column]]
    }


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


@lru_cache(maxsize=64)
def _face_solvers(norm: tuple[float, ...]) -> tuple[FloatArray, ...]:
    """For each set of components allowed to be positive: the weighted least-squares map [3, 5] onto that face."""
    root_weight = np.sqrt(np.array(norm))
    solvers = []
    for free in itertools.product([False, True], repeat=3):
        solver = np.zeros((3, len(TARGETS)))
        if any(free):
            columns = FROM_COMPONENTS[:, np.array(free)]
            solver[np.array(free)] = np.linalg.pinv(root_weight[:, None] * columns) * root_weight
        solvers.append(solver)
    return tuple(solvers)


def project_coherent(pred_NT: ArrayLike, norm_T: FloatArray = weight_T) -> FloatArray:
    """Nearest coherent, non-negative masses in the metric's own norm; shape [..., 5] grams, kept.

    The feasible set is the convex cone FROM_COMPONENTS @ z, z >= 0, so the projection never moves a prediction
    away from any coherent truth: no score against such a truth can fall. Solved exactly by enumerating
    the cone's 8 faces for all rows at once: the feasible candidate that lies nearest is the projection.
    norm_T: norm_of a study's weights. A target without weight in it was never measured: whatever is predicted of it is
    not looked at, and it is NaN in what is returned. The others are unique also where components are not.
    Raises ValueError for masses that are not finite.
    """
    pred = np.asarray(pred_NT, dtype=np.float64)
    if pred.shape[-1] != len(TARGETS):
        raise ValueError(f"the last axis must hold the {len(TARGETS)} targets, got shape {pred.shape}")
    unknown_T = norm_T <= 0
    if unknown_T.any():
        pred = np.where(unknown_T, 0.0, pred)
    if not np.isfinite(pred).all():
        raise ValueError("masses must be finite before they are projected; look for NaN or infinite predictions")
    best = np.zeros((*pred.shape[:-1], 3))
    best_distance = np.asarray(weighted_square(pred, norm_T).sum(-1))  # the face where all three components are 0
    for solver in _face_solvers(tuple(norm_T.tolist()))[1:]:
        component = pred @ solver.T
        distance = weighted_square(pred - component @ FROM_COMPONENTS.T, norm_T).sum(-1)
        nearer = (component >= 0).all(-1) & (distance < best_distance)
        best[nearer], best_distance[nearer] = component[nearer], distance[nearer]
    return blank_unmeasured(best @ FROM_COMPONENTS.T, norm_T)
