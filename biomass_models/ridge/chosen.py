"""A ridge whose penalty is chosen by inner folds of the training rows that keep groups together."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biomass_models.data.cell_weights import row_weights
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.ridge.solve import Ridge, ridge_path, standardiser
from biomass_models.targets import TARGETS, FloatArray, IntArray, norm_of, weight_T, weighted_square, weights_in
from biomass_models.training.fit import FoldRows, inner_folds
from biomass_models.training.scaling import TargetScaler


class RidgeSettings(Protocol):
    """Part of a configuration (families/probe/config.py)."""

    @property
    def transform(self) -> str: ...
    @property
    def log10_alpha_low(self) -> float: ...
    @property
    def log10_alpha_high(self) -> float: ...
    @property
    def alphas(self) -> int: ...
    @property
    def inner_folds(self) -> int: ...
    @property
    def alpha_per_target(self) -> bool: ...


def fit_rows(
    config: RidgeSettings,
    feature_NF: FloatArray,
    rows: FoldRows,
    group_N: NDArray[np.object_],
    *,
    seed: int,
    should_stop: ShouldStop | None = None,
) -> tuple[Ridge, TargetScaler, FloatArray, IntArray]:
    """The ridge of the training rows and the scaler of its masses; inner errors [A, T] and the penalties chosen [T].

    feature_NF and group_N: of the table's rows. Raises FitError, StopRequested.
    """
    train_M, labelled_M, mass_NT = rows.train_M, rows.labelled_M, rows.mass_NT
    error_AT = inner_errors(
        config,
        feature_NF[labelled_M],
        mass_NT[labelled_M],
        group_N[labelled_M],
        seed=seed,
        weight=rows.labelled_weight,
        should_stop=should_stop,
    )
    alpha_A, measured_T = alpha_grid(config), norm_of(rows.labelled_weight) > 0
    chosen_T = np.full(len(TARGETS), error_AT.sum(1).argmin())
    if config.alpha_per_target:
        chosen_T = np.where(measured_T, error_AT.argmin(0), chosen_T)
    scaler = TargetScaler.fit(mass_NT[labelled_M], config.transform)
    weight_M = None if rows.weight.ndim == 1 else rows.train_row_weight_M
    ridge = Ridge.fit(
        feature_NF[train_M],
        scaler.scale(mass_NT[train_M]),
        alpha_A[chosen_T],
        weight_M,
        standardiser(feature_NF[labelled_M]),
    )
    return ridge, scaler, error_AT, chosen_T


def alpha_grid(config: RidgeSettings) -> FloatArray:
    """Penalties [A] of the grid, ascending."""
    return np.logspace(config.log10_alpha_low, config.log10_alpha_high, config.alphas)


def inner_errors(
    config: RidgeSettings,
    feature_NF: FloatArray,
    mass_NT: FloatArray,
    group_N: NDArray[np.object_],
    *,
    seed: int,
    weight: FloatArray = weight_T,
    should_stop: ShouldStop | None = None,
) -> FloatArray:
    """Weighted squared error [A, T] in g^2 of the training rows' own out-of-fold predictions, for each penalty.

    Everything is fitted anew inside each inner fold, scalers included. weight: of the cells, [5] or [N, 5].
    """
    inner_N = inner_folds(group_N, config.inner_folds, seed)
    alpha_A = alpha_grid(config)
    error_AT = np.zeros((len(alpha_A), len(TARGETS)))
    weight_N = None if weight.ndim == 1 else row_weights(weight, len(mass_NT))
    folds = int(inner_N.max()) + 1
    for fold in range(folds):
        check_stop(should_stop, f"{fold} of {folds} inner folds")
        inner, outer = np.flatnonzero(inner_N != fold), np.flatnonzero(inner_N == fold)
        scaler = TargetScaler.fit(mass_NT[inner], config.transform)
        weight_M = None if weight_N is None else weight_N[inner]
        path_ANT = ridge_path(feature_NF[inner], scaler.scale(mass_NT[inner]), feature_NF[outer], alpha_A, weight_M)
        error_AT += weighted_square(scaler.grams(path_ANT) - mass_NT[outer], weights_in(weight, outer)).sum(1)
    return error_AT
