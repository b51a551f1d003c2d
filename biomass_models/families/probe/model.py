"""Probe: ridge regression on embeddings of a frozen backbone. numpy only, once the features are there.

N images, F features (sizes, layers, statistics and views side by side), T = 5 targets; the rest as ridge/solve.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from biomass_models.config_rules import taps_of
from biomass_models.data.images import views_for
from biomass_models.families import costs
from biomass_models.families.base import Model
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.families.speed import Speed
from biomass_models.features.inputs import Inputs
from biomass_models.features.pooled import merge_views, pooled, pooled_specs, tap_layers
from biomass_models.features.spec import FeatureBank, FeatureSpec
from biomass_models.interrupt import ShouldStop
from biomass_models.ridge.chosen import alpha_grid, fit_rows
from biomass_models.ridge.solve import Ridge
from biomass_models.targets import TARGETS, weighted_sst
from biomass_models.training.fit import (
    FloatArray,
    FoldResult,
    FoldRows,
    as_arrays,
    as_tensors,
)
from biomass_models.training.scaling import TargetScaler

RIDGE_SECONDS = 4e-10  # of one SVD per row, row and feature on one CPU core


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
