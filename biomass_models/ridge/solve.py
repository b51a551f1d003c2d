"""Ridge regression on standardised features: numpy only.

N images, F features, T = 5 targets, A penalties.
feature_NF   features, standardised by the training rows' mean and spread, then divided by sqrt(F)
alpha        penalty: mean squared error + alpha * |coefficient|^2, so its scale depends neither on N nor on F
goal_NT      z-scored masses, NaN where not measured: each target is fitted on the rows in which it was
weight_N     of the rows: photographs of one quadrat count as one. None: all alike
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from biomass_models.data.cell_weights import measured_alike
from biomass_models.targets import FloatArray, IntArray

FURTHEST = 5.0  # spreads from the mean at which a standardised feature is cut off
CONSTANT = 1e-6  # spread below which a feature says nothing (a dead unit) and is left at 0


@dataclass(frozen=True)
class Ridge:
    """Coefficients on standardised features."""

    mean_F: FloatArray
    scale_F: FloatArray  # 0 for features without spread
    coefficient_FT: FloatArray
    intercept_T: FloatArray

    @classmethod
    def fit(
        cls,
        feature_NF: FloatArray,
        goal_NT: FloatArray,
        alpha_T: FloatArray,
        weight_N: FloatArray | None = None,
        standard: tuple[FloatArray, FloatArray] | None = None,
    ) -> Ridge:
        """One penalty per target, [T]. A target without a goal is 0 everywhere. standard: `standardiser` of the rows
        that say how features are scaled; None: of all."""
        mean_F, scale_F = standard or standardiser(feature_NF)
        coefficient_FT, intercept_T = np.zeros((len(mean_F), goal_NT.shape[1])), np.zeros(goal_NT.shape[1])
        for columns, part in _decomposed(standardised(feature_NF, mean_F, scale_F), goal_NT, weight_N):
            shrunk_RT = shrinkage(part.s_R, alpha_T[columns], part.rows).T * part.goal_RT
            coefficient_FT[:, columns] = part.v_RF.T @ shrunk_RT
            intercept_T[columns] = part.intercept_T - part.centre_F @ coefficient_FT[:, columns]
        return cls(mean_F, scale_F, coefficient_FT, intercept_T)

    def predict(self, feature_NF: FloatArray) -> FloatArray:
        """[N, F] -> [N, T]."""
        return standardised(feature_NF, self.mean_F, self.scale_F) @ self.coefficient_FT + self.intercept_T

    def arrays(self) -> dict[str, FloatArray]:
        """What a prediction needs, by name."""
        parts = (self.mean_F, self.scale_F, self.coefficient_FT, self.intercept_T)
        return {
            f"ridge.{name}": part
            for name, part in zip(("mean", "scale", "coefficient", "intercept"), parts, strict=True)
        }


def ridge_path(
    train_NF: FloatArray,
    goal_NT: FloatArray,
    test_MF: FloatArray,
    alpha_A: FloatArray,
    weight_N: FloatArray | None = None,
) -> FloatArray:
    """Predictions [A, M, T] of one ridge regression per penalty, from a single SVD of each set of measured rows."""
    mean_F, scale_F = standardiser(train_NF)
    test_MF = standardised(test_MF, mean_F, scale_F)
    path_AMT = np.zeros((len(alpha_A), len(test_MF), goal_NT.shape[1]))
    for columns, part in _decomposed(standardised(train_NF, mean_F, scale_F), goal_NT, weight_N):
        test_MR = (test_MF - part.centre_F) @ part.v_RF.T
        shrunk_AR = shrinkage(part.s_R, alpha_A, part.rows)
        own_AMT = np.einsum("mr,ar,rt->amt", test_MR, shrunk_AR, part.goal_RT, optimize=True) + part.intercept_T
        if len(columns) == goal_NT.shape[1]:
            return own_AMT
        path_AMT[:, :, columns] = own_AMT
    return path_AMT


@dataclass(frozen=True)
class _Part:
    """Singular values and vectors of the rows in which some targets were measured, and their goals in that basis."""

    rows: int
    centre_F: FloatArray  # mean feature of these rows; 0 where all rows count alike, since features are centred
    s_R: FloatArray
    v_RF: FloatArray
    goal_RT: FloatArray  # of these targets
    intercept_T: FloatArray


def _decomposed(
    feature_NF: FloatArray, goal_NT: FloatArray, weight_N: FloatArray | None
) -> Iterator[tuple[IntArray, _Part]]:
    """feature_NF: standardised. Yields the columns of goal_NT that were measured in the same rows, and their part."""
    if weight_N is None and not np.isnan(goal_NT).any():
        u_NR, s_R, v_RF = np.linalg.svd(feature_NF, full_matrices=False)
        intercept_T = goal_NT.mean(0)
        centre_F = np.zeros(feature_NF.shape[1])
        part = _Part(len(goal_NT), centre_F, s_R, v_RF, u_NR.T @ (goal_NT - intercept_T), intercept_T)
        yield np.arange(goal_NT.shape[1]), part
        return
    weight_N = np.ones(len(goal_NT)) if weight_N is None else weight_N
    for columns, rows in measured_alike(goal_NT):
        goal_MT, share_M = goal_NT[np.ix_(rows, columns)], weight_N[rows] / weight_N[rows].sum()
        centre_F, intercept_T = share_M @ feature_NF[rows], share_M @ goal_MT
        root_M1 = np.sqrt(len(rows) * share_M)[:, None]
        u_MR, s_R, v_RF = np.linalg.svd(root_M1 * (feature_NF[rows] - centre_F), full_matrices=False)
        goal_RT = u_MR.T @ (root_M1 * (goal_MT - intercept_T))
        yield columns, _Part(len(rows), centre_F, s_R, v_RF, goal_RT, intercept_T)


def standardised(feature_NF: FloatArray, mean_F: FloatArray, scale_F: FloatArray) -> FloatArray:
    """Features in units of their spread over sqrt(F), no further than FURTHEST spreads from the mean.

    Some units of a frozen network are all but silent on the training dates and loud on another: unbounded, a handful
    of rows then ruins the pooled score of an otherwise sound fold.
    """
    limit = FURTHEST / np.sqrt(len(mean_F))
    return np.clip((feature_NF - mean_F) * scale_F, -limit, limit)


def standardiser(feature_NF: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean [F], and the factor [F] that takes a feature to unit spread over sqrt(F)."""
    spread_F = feature_NF.std(0)
    safe_F = np.where(spread_F > CONSTANT, spread_F, 1.0)
    return feature_NF.mean(0), (spread_F > CONSTANT) / (safe_F * np.sqrt(feature_NF.shape[1]))


def shrinkage(s_R: FloatArray, alpha_A: FloatArray, rows: int) -> FloatArray:
    """s / (s^2 + rows * alpha) for each penalty and singular value, [A, R]; 0 where s is 0."""
    s_R = np.where(s_R > 1e-10 * s_R.max(initial=0.0), s_R, 0.0)
    return s_R / np.maximum(s_R**2 + rows * alpha_A[:, None], 1e-300)
