"""Probe: ridge regression on embeddings of a frozen backbone. numpy only, once the features are there.

N images, F features (sizes, layers, statistics and views side by side), T = 5 targets, A penalties of the grid.
feature_NF   embeddings, standardised by the training rows' mean and spread, then divided by sqrt(F)
alpha        penalty: mean squared error + alpha * |coefficient|^2, so its scale depends neither on N nor on F
goal_NT      z-scored masses, NaN where not measured: each target is fitted on the rows in which it was
weight_N     of the rows: photographs of one quadrat count as one. None: all alike
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from biomass_models.config_rules import taps_of
from biomass_models.data.cell_weights import measured_alike, row_weights
from biomass_models.data.images import views_for
from biomass_models.families import costs
from biomass_models.families.base import Model
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.families.speed import Speed
from biomass_models.features.inputs import Inputs
from biomass_models.features.pooled import merge_views, pooled, pooled_specs, tap_layers
from biomass_models.features.spec import FeatureBank, FeatureSpec
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.targets import TARGETS, IntArray, norm_of, weight_T, weighted_square, weighted_sst, weights_in
from biomass_models.training.fit import (
    FloatArray,
    FoldResult,
    FoldRows,
    as_arrays,
    as_tensors,
    inner_folds,
)
from biomass_models.training.scaling import TargetScaler

FURTHEST = 5.0  # spreads from the mean at which a standardised feature is cut off
RIDGE_SECONDS = 4e-10  # of one SVD per row, row and feature on one CPU core
CONSTANT = 1e-6  # spread below which a feature says nothing (a dead unit) and is left at 0


def feature_specs(config: ProbeConfig) -> list[FeatureSpec]:
    """The banks that a fit and a prediction need, one a size."""
    taps = taps_of(config.taps)
    return pooled_specs(config, tap_layers(config.backbone, taps) if taps else tuple(range(config.layers)))


def fit(
    config: ProbeConfig,
    quadrats: pd.DataFrame,
    fold_N: NDArray[np.int64],
    fold: int,
    inputs: Inputs,
    *,
    seed: int,
    should_stop: ShouldStop | None = None,
) -> FoldResult:
    """Fit on the rows outside `fold`, predict those inside.

    quadrats: image_id, group and the five targets [grams]. The penalty is chosen by inner folds of the training
    rows that keep groups together, without rows that models have labelled. Raises FitError (fewer than two groups in
    the training rows), StopRequested.
    """
    started = time.perf_counter()
    rows = FoldRows.of(quadrats, fold_N, fold, inputs.images.rows(list(quadrats["image_id"])))
    valid_M, labelled_M, mass_NT = rows.valid_M, rows.labelled_M, rows.mass_NT
    banks = [inputs.features(spec, should_stop=should_stop) for spec in feature_specs(config)]
    feature_NF = embeddings(config, banks)[rows.image_N]
    ridge, scaler, error_AT, chosen_T = fit_rows(
        config, feature_NF, rows, quadrats["group"].to_numpy(), seed=seed, should_stop=should_stop
    )
    alpha_A = alpha_grid(config)
    pred_NT = scaler.grams(ridge.predict(feature_NF[valid_M]))
    chosen_error = float(error_AT[chosen_T, np.arange(len(TARGETS))].sum())
    sst = weighted_sst(mass_NT[labelled_M], rows.labelled_weight)
    record = {
        "epoch": 1.0,
        "inner_score": 1 - chosen_error / sst if sst > 0 else np.nan,
        "score": rows.held_out_score(pred_NT),
        "seconds": time.perf_counter() - started,
    }
    info = {
        "train_rows": len(labelled_M),
        "features": feature_NF.shape[1],
        "alpha": alpha_A[chosen_T].tolist(),
        "alpha_at_edge": bool(np.isin(chosen_T, (0, len(alpha_A) - 1)).any() and len(alpha_A) > 1),
        "notes": list(dict.fromkeys(note for bank in banks for note in bank.notes)),
        "weights": inputs.fingerprint(config.backbone),
        "seconds": record["seconds"],
    }
    return FoldResult(valid_M, pred_NT, as_tensors(ridge.arrays() | scaler.arrays()), [record], info)


def fit_rows(
    config: ProbeConfig,
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


def predict(
    config: ProbeConfig,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    *,
    flips: int = 1,
    should_stop: ShouldStop | None = None,
) -> FloatArray:
    """Masses in grams [N, 5] of all images of `inputs`, from a fit's tensors; no metadata is needed.

    flips: embeddings are averaged over this many turns and mirrors where the fit had fewer. Raises StopRequested.
    """
    arrays = as_arrays(tensors)
    specs = [spec.unchanged(max(flips, config.flips)) for spec in feature_specs(config)]
    feature_NF = embeddings(config, [inputs.features(spec, should_stop=should_stop) for spec in specs])
    ridge = Ridge(*(arrays[f"ridge.{part}"] for part in ("mean", "scale", "coefficient", "intercept")))
    return TargetScaler.from_arrays(arrays, config.transform).grams(ridge.predict(feature_NF))


def embeddings(config: ProbeConfig, banks: Sequence[FeatureBank]) -> FloatArray:
    """Embeddings of all images, float64 [N, F]: of averaged copies sizes, layers, statistics and views side by side."""
    parts = []
    for bank in banks:
        for layer in bank.spec.layers:
            for output in bank.spec.outputs:
                parts.append(merge_views(pooled(bank, (output,), layer), config.view_merge))
    return np.concatenate(parts, axis=1)


def alpha_grid(config: ProbeConfig) -> FloatArray:
    """Penalties [A] of the grid, ascending."""
    return np.logspace(config.log10_alpha_low, config.log10_alpha_high, config.alphas)


def inner_errors(
    config: ProbeConfig,
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


def _fold_seconds(config: ProbeConfig, n_train: int, speed: Speed) -> float:
    del speed  # numpy on one core, counted
    features = 0
    for spec in feature_specs(config):
        widths = [costs.output_numbers(output, config.backbone, spec.views[0].height) for output in spec.outputs]
        views = 1 if config.view_merge == "mean" else len(spec.views)
        features += sum(widths) * len(spec.layers) * views
    return (config.inner_folds + 1) * RIDGE_SECONDS * n_train * n_train * features


MODEL = Model(
    fit=fit,
    predict=predict,
    feature_specs=feature_specs,
    views=lambda config: views_for(config.layout, config.size),
    fold_seconds=_fold_seconds,
)
