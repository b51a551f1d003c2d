"""The exact optimum on the simplex: the ceiling of every blend with non-negative weights that sum to 1.

minimise  q(w) = w' H w   over  w >= 0, sum(w) = 1.      H = gram_MM, positive semi-definite
Put x = s w with s = sum(x): min over s of s^2 q + (s - 1)^2 is q / (1 + q), which grows with q. So the solution of the
non-negative least-squares problem with matrix H + 11' and right-hand side 1 lies on the ray of the optimum. This is
Lawson and Hanson's active set method for it (1974; in the Gram form of Bro and de Jong 1997), kept on the simplex.
The duality gap w'g - min g with g = 2 H w bounds q(w) - q* whatever the method did: it is the certificate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from biomass_models.targets import FloatArray


@dataclass(frozen=True)
class SimplexOptimum:
    weight_M: FloatArray
    loss: float  # w' H w = 1 - R2
    gap: float  # bound on how far loss lies above the true minimum
    steps: int


def duality_gap(gram_MM: FloatArray, weight_M: FloatArray) -> float:
    """Upper bound on weight' H weight - min over the simplex, never below 0 but for rounding."""
    slope_M = 2 * (gram_MM @ weight_M)
    return float(weight_M @ slope_M - slope_M.min())


def simplex_optimum(gram_MM: FloatArray, *, tolerance: float = 1e-11, max_steps: int = 5000) -> SimplexOptimum:
    """Minimise w' H w on the simplex by an active set method.

    gram_MM: symmetric positive semi-definite [M, M]. The tolerance on the duality gap is in units of the best member's
    loss, or of 1 where that is smaller. Raises ValueError for a matrix that is not square or not finite,
    ArithmeticError when the gap stays above 1e-10 of that unit.
    """
    gram = np.asarray(gram_MM, dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not np.isfinite(gram).all():
        raise ValueError(f"the Gram matrix must be square and finite, got shape {gram.shape}")
    members = len(gram)
    active = [int(gram.diagonal().argmin())]
    weight_M = np.zeros(members)
    weight_M[active] = 1.0
    unit = max(1.0, float(gram.diagonal().min()))
    best_M, best_gap = weight_M, duality_gap(gram, weight_M)
    blocked: set[int] = set()  # members that rounding threw straight out again; freed by the next real step
    steps = 0
    while best_gap > tolerance * unit and steps < max_steps:
        steps += 1
        slope_M = gram[:, active] @ weight_M[active]
        slope_M[active + list(blocked)] = np.inf
        entering = int(slope_M.argmin())
        if not np.isfinite(slope_M[entering]):
            break
        active.append(entering)
        active, weight_M = _retreat(gram, active, weight_M)
        if entering in active:
            blocked.clear()
        else:
            blocked.add(entering)
        gap = duality_gap(gram, weight_M)
        if gap < best_gap:
            best_M, best_gap = weight_M, gap
    if best_gap > 1e-10 * unit:
        raise ArithmeticError(
            f"the optimum's duality gap must fall below 1e-10, got {best_gap:.3g} after {steps} steps; "
            "merge near duplicates of members first"
        )
    return SimplexOptimum(best_M, float(best_M @ gram @ best_M), max(best_gap, 0.0), steps)


def _retreat(gram_MM: FloatArray, active: list[int], weight_M: FloatArray) -> tuple[list[int], FloatArray]:
    """Go to the best point of the active members' plane; members that would turn negative leave on the way."""
    while True:
        target_A = _plane_optimum(gram_MM, active)
        current_A = weight_M[active]
        negative_A = target_A <= 0
        if not negative_A.any():
            moved_M = np.zeros(len(weight_M))
            moved_M[active] = target_A
            return active, moved_M
        fall_A = current_A[negative_A] - target_A[negative_A]
        ratio_A = np.where(fall_A > 0, current_A[negative_A] / np.where(fall_A > 0, fall_A, 1.0), 0.0)
        step = float(ratio_A.min())
        moved_A = current_A + step * (target_A - current_A)
        leaving = np.flatnonzero(negative_A)[int(ratio_A.argmin())]
        staying_A = moved_A > 0
        staying_A[leaving] = False
        if not staying_A.any():
            staying_A[int(moved_A.argmax())] = True
        active = [member for member, stays in zip(active, staying_A, strict=True) if stays]
        weight_M = np.zeros(len(weight_M))
        weight_M[active] = np.maximum(moved_A[staying_A], 0)
        weight_M /= weight_M.sum()


def _plane_optimum(gram_MM: FloatArray, active: list[int]) -> FloatArray:
    """Minimiser of w' H w over the active members' weights that sum to 1, of any sign."""
    from scipy.linalg import cho_factor, cho_solve  # here: the coordinator of a trial does without

    lifted_AA = gram_MM[np.ix_(active, active)] + 1.0
    ones_A = np.ones(len(active))
    try:
        ray_A = cho_solve(cho_factor(lifted_AA, lower=True, check_finite=False), ones_A, check_finite=False)
    except np.linalg.LinAlgError:  # two active members are (nearly) the same: any of the equal minimisers will do
        ray_A = np.linalg.lstsq(lifted_AA, ones_A, rcond=None)[0]
    return ray_A / ray_A.sum()
