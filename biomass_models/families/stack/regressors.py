"""Regressors of level 1: each learns several goals from one set of scaled features, and is kept as plain arrays.

M training rows, N rows, F features, G goals, A penalties.
feature_MF   scaled features, float32
goal_MG      z-scores, NaN where not measured: each goal is fitted on the rows in which it was
weight_M     of the rows: photographs of one quadrat count as one

Ridge minimises sum_m weight_m (goal - x b - c)^2 + penalty |b|^2. Where features outnumber rows the kernel [M, M] is
solved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVR

from biomass_models.data.cell_weights import measured_alike
from biomass_models.families.stack.config import StackConfig
from biomass_models.families.stack.scaling import FloatsOf32
from biomass_models.families.stack.trees import Forest
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.targets import FloatArray

Arrays = dict[str, NDArray[Any]]
Rows = slice | NDArray[np.bool_]
ALL = slice(None)


class Regressor(Protocol):
    """A fitted regressor; a goal that no row had is predicted as 0."""

    def predict(self, feature_NF: FloatsOf32) -> FloatArray:
        """Z-scores [N, G]."""
        ...

    def arrays(self) -> Arrays:
        """What `restored` needs."""
        ...


def fitted(
    config: StackConfig,
    feature_MF: FloatsOf32,
    goal_MG: FloatArray,
    weight_M: FloatArray,
    penalty_G: FloatArray,
    scaled_by: Rows = ALL,
    *,
    seed: int,
    should_stop: ShouldStop | None = None,
) -> Regressor:
    """The configuration's regressor; penalty_G: of ridge; scaled_by: rows from which a kernel has its width. Raises
    StopRequested."""
    match config.regressor:
        case "ridge":
            return Ridge.fit(feature_MF, goal_MG, weight_M, penalty_G)
        case "kernel":
            penalty, width = config.kernel_penalty, config.kernel_width
            return Kernel.ridge(feature_MF, goal_MG, weight_M, penalty, width, scaled_by)
        case "svr":
            return Kernel.svr(feature_MF, goal_MG, weight_M, config, should_stop, scaled_by)
    count, leaf, share = config.trees, config.tree_leaf, config.tree_features
    return Forest.fit(feature_MF, goal_MG, weight_M, count=count, leaf=leaf, features=share, seed=seed)


def restored(regressor: str, arrays: Mapping[str, NDArray[Any]]) -> Regressor:
    """Inverse of `arrays`."""
    kind: Any = {"ridge": Ridge, "trees": Forest}.get(regressor, Kernel)
    return kind(**arrays)


@dataclass(frozen=True)
class Ridge:
    """Coefficients on scaled features, float32 as the features."""

    coefficient_FG: FloatsOf32
    intercept_G: FloatArray

    @classmethod
    def fit(cls, feature_MF: FloatsOf32, goal_MG: FloatArray, weight_M: FloatArray, penalty_G: FloatArray) -> Ridge:
        """One penalty for each goal."""
        coefficient_FG = np.zeros((feature_MF.shape[1], goal_MG.shape[1]))
        intercept_G = np.zeros(goal_MG.shape[1])
        for columns, rows in measured_alike(goal_MG):
            part = _Centred.of(feature_MF, goal_MG, weight_M, columns, rows)
            for penalty in np.unique(penalty_G[columns]):
                same = penalty_G[columns] == penalty
                coefficient_FG[:, columns[same]] = part.coefficients(penalty, part.goal_RG[:, same])
            intercept_G[columns] = part.intercept_G - part.centre_F @ coefficient_FG[:, columns]
        return cls(coefficient_FG.astype(np.float32), intercept_G)

    def predict(self, feature_NF: FloatsOf32) -> FloatArray:
        return feature_NF.astype(np.float64) @ self.coefficient_FG.astype(np.float64) + self.intercept_G

    def arrays(self) -> Arrays:
        return {"coefficient_FG": self.coefficient_FG, "intercept_G": self.intercept_G}


def ridge_path(
    train_MF: FloatsOf32, goal_MG: FloatArray, weight_M: FloatArray, asked_NF: FloatsOf32, penalty_A: FloatArray
) -> FloatArray:
    """Predictions [A, N, G] of one ridge for each penalty, from a single decomposition of each set of measured rows."""
    path_ANG = np.zeros((len(penalty_A), len(asked_NF), goal_MG.shape[1]))
    for columns, rows in measured_alike(goal_MG):
        part = _Centred.of(train_MF, goal_MG, weight_M, columns, rows)
        path_ANG[:, :, columns] = part.path(asked_NF.astype(np.float64), penalty_A)
    return path_ANG


@dataclass(frozen=True)
class _Centred:
    """Goals that were measured in the same R rows, and these rows: centred, times the root of their weights."""

    feature_RF: FloatArray
    goal_RG: FloatArray
    centre_F: FloatArray
    intercept_G: FloatArray

    @classmethod
    def of(
        cls,
        feature_MF: FloatsOf32,
        goal_MG: FloatArray,
        weight_M: FloatArray,
        columns: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> _Centred:
        feature_RF, goal_RG, weight_R = (
            feature_MF[rows].astype(np.float64),
            goal_MG[np.ix_(rows, columns)],
            weight_M[rows],
        )
        share_R, root_R1 = weight_R / weight_R.sum(), np.sqrt(weight_R)[:, None]
        centre_F, intercept_G = share_R @ feature_RF, share_R @ goal_RG
        return cls(root_R1 * (feature_RF - centre_F), root_R1 * (goal_RG - intercept_G), centre_F, intercept_G)

    @property
    def wide(self) -> bool:
        """Whether features outnumber rows: then the kernel [R, R] is the smaller matrix."""
        return self.feature_RF.shape[1] > len(self.feature_RF)

    def coefficients(self, penalty: float, goal_RG: FloatArray) -> FloatArray:
        """[F, G] of the ridge with that penalty."""
        gram = self._gram()
        gram[np.diag_indices_from(gram)] += penalty
        right_RG = goal_RG if self.wide else self.feature_RF.T @ goal_RG
        solved_RG = np.linalg.solve(gram, right_RG)
        return np.asarray(self.feature_RF.T @ solved_RG if self.wide else solved_RG)

    def path(self, asked_NF: FloatArray, penalty_A: FloatArray) -> FloatArray:
        """Predictions [A, N, G] for each penalty."""
        square_K, vector_KK = np.linalg.eigh(self._gram())
        asked_NF = asked_NF - self.centre_F
        if self.wide:
            left_NK, right_KG = asked_NF @ (self.feature_RF.T @ vector_KK), vector_KK.T @ self.goal_RG
        else:
            left_NK, right_KG = asked_NF @ vector_KK, vector_KK.T @ (self.feature_RF.T @ self.goal_RG)
        shrunk_AKG = right_KG / (np.maximum(square_K, 0.0) + penalty_A[:, None])[:, :, None]
        return left_NK @ shrunk_AKG + self.intercept_G

    def _gram(self) -> FloatArray:
        return self.feature_RF @ self.feature_RF.T if self.wide else self.feature_RF.T @ self.feature_RF


@dataclass(frozen=True)
class Kernel:
    """A sum of Gaussians around the training rows: kernel ridge (the mean of a Gaussian process), or an SVR."""

    feature_MF: FloatsOf32
    dual_MG: FloatArray
    intercept_G: FloatArray
    gamma: FloatArray  # of the kernel exp(-gamma |x - x'|^2), [1]

    @classmethod
    def ridge(
        cls,
        feature_MF: FloatsOf32,
        goal_MG: FloatArray,
        weight_M: FloatArray,
        penalty: float,
        width: float,
        scaled_by: Rows = ALL,
    ) -> Kernel:
        """Kernel ridge around the weighted mean of each goal."""
        gamma, kernel_MM = _own_kernel(feature_MF, width, scaled_by)
        dual_MG, intercept_G = np.zeros(goal_MG.shape), np.zeros(goal_MG.shape[1])
        for columns, rows in measured_alike(goal_MG):
            goal_RG, root_R1 = goal_MG[np.ix_(rows, columns)], np.sqrt(weight_M[rows])[:, None]
            intercept_G[columns] = weight_M[rows] / weight_M[rows].sum() @ goal_RG
            weighted_RR = root_R1 * kernel_MM[np.ix_(rows, rows)] * root_R1.T
            weighted_RR[np.diag_indices_from(weighted_RR)] += penalty
            solved_RG = np.linalg.solve(weighted_RR, root_R1 * (goal_RG - intercept_G[columns]))
            dual_MG[np.ix_(rows, columns)] = root_R1 * solved_RG
        return cls(feature_MF, dual_MG, intercept_G, gamma)

    @classmethod
    def svr(
        cls,
        feature_MF: FloatsOf32,
        goal_MG: FloatArray,
        weight_M: FloatArray,
        config: StackConfig,
        should_stop: ShouldStop | None = None,
        scaled_by: Rows = ALL,
    ) -> Kernel:
        """scikit-learn's support vector regression of each goal."""
        gamma, kernel_MM = _own_kernel(feature_MF, config.kernel_width, scaled_by)
        dual_MG, intercept_G = np.zeros(goal_MG.shape), np.zeros(goal_MG.shape[1])
        for columns, rows in measured_alike(goal_MG):
            kernel_RR = kernel_MM[np.ix_(rows, rows)]
            for column in columns:
                check_stop(should_stop, f"{column} of {goal_MG.shape[1]} goals of a level 1 regressor")
                machine = SVR(kernel="precomputed", C=config.svr_c, epsilon=config.svr_epsilon)
                machine.fit(kernel_RR, goal_MG[rows, column], sample_weight=weight_M[rows])
                dual_MG[rows[machine.support_], column] = machine.dual_coef_[0]
                intercept_G[column] = machine.intercept_[0]
        return cls(feature_MF, dual_MG, intercept_G, gamma)

    def predict(self, feature_NF: FloatsOf32) -> FloatArray:
        return _kernel(feature_NF, self.feature_MF, float(self.gamma[0])) @ self.dual_MG + self.intercept_G

    def arrays(self) -> Arrays:
        return {
            "feature_MF": self.feature_MF,
            "dual_MG": self.dual_MG,
            "intercept_G": self.intercept_G,
            "gamma": self.gamma,
        }


def _own_kernel(feature_MF: FloatsOf32, width: float, scaled_by: Rows) -> tuple[FloatArray, FloatArray]:
    """gamma [1], by the spread of some rows, and the kernel [M, M] of the training rows."""
    variance = float(feature_MF[scaled_by].var(dtype=np.float64))
    gamma = width / (feature_MF.shape[1] * (variance if variance > 0 else 1.0))
    return np.array([gamma]), _kernel(feature_MF, feature_MF, gamma)


def _kernel(one_NF: FloatsOf32, other_MF: FloatsOf32, gamma: float) -> FloatArray:
    one, other = one_NF.astype(np.float64), other_MF.astype(np.float64)
    square_NM = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    kernel_NM: FloatArray = np.exp(-gamma * np.maximum(square_NM, 0.0))
    return kernel_NM
