"""Stack: regressors on embeddings of a frozen backbone, one for each size and layer, and a ridge on what they say.

No network is trained; numpy and scikit-learn on one core, once the features are there (levels.py).
N images, T = 5 targets.
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
from biomass_models.families.speed import Speed
from biomass_models.families.stack.config import StackConfig
from biomass_models.families.stack.levels import LEAST_TO_CHOOSE, TRANSFORMS_OF, Stack, fit_stack
from biomass_models.families.stack.scaling import FloatsOf32
from biomass_models.features.inputs import Inputs
from biomass_models.features.pooled import merge_views, pooled, pooled_specs, tap_layers
from biomass_models.features.spec import FeatureBank, FeatureSpec
from biomass_models.interrupt import ShouldStop
from biomass_models.targets import TARGETS, FloatArray
from biomass_models.training.fit import FoldResult, FoldRows, as_arrays, as_tensors, inner_folds

# Seconds of one fit on one CPU core, measured with 286 rows (tests/benchmarks/bench_stack.py): of a row and feature
# (sorted, scaled), of a row, row and feature (kernels), of a row, row and goal of an SVR, and of a row, tried feature
# and tree. A path of penalties takes as long as PATH fits.
SCALING_SECONDS, KERNEL_SECONDS, SVR_SECONDS, TREE_SECONDS, PATH = 1.2e-8, 4e-11, 2.5e-8, 9e-8, 1.5


def feature_specs(config: StackConfig) -> list[FeatureSpec]:
    """The banks that a fit and a prediction need, one a size."""
    return pooled_specs(config, tap_layers(config.backbone, taps_of(config.taps)))


def blocks(config: StackConfig, banks: Sequence[FeatureBank]) -> list[FloatsOf32]:
    """Features [N, F] of each size and layer: of averaged copies statistics and views side by side."""
    found = []
    for bank in banks:
        for layer in bank.spec.layers:
            feature_NVD = pooled(bank, bank.spec.outputs, layer)
            found.append(merge_views(feature_NVD, config.view_merge).astype(np.float32))
    return found


def fit(
    config: StackConfig,
    quadrats: pd.DataFrame,
    fold_N: NDArray[np.int64],
    fold: int,
    inputs: Inputs,
    *,
    seed: int,
    should_stop: ShouldStop | None = None,
) -> FoldResult:
    """Fit on the rows outside `fold`, predict those inside.

    quadrats: image_id, group and the five targets [grams]. Raises FitError (fewer than two groups in the training
    rows), StopRequested.
    """
    started = time.perf_counter()
    rows = FoldRows.of(quadrats, fold_N, fold, inputs.images.rows(list(quadrats["image_id"])))
    inner_M = inner_folds(quadrats["group"].to_numpy()[rows.labelled_M], config.inner_folds, seed)
    banks = [inputs.features(spec, should_stop=should_stop) for spec in feature_specs(config)]
    block_BNF = [block[rows.image_N] for block in blocks(config, banks)]
    parts = (rows.train_M, rows.valid_M)
    train_BMF, held_BNF = ([block[part] for block in block_BNF] for part in parts)
    stack, penalty_BS = fit_stack(
        config,
        train_BMF,
        rows.train_mass_MT,
        inner_M,
        rows.train_weight,
        rows.is_labelled_M,
        seed=seed,
        should_stop=should_stop,
    )
    pred_NT = stack.predict(held_BNF)
    notes = [note for bank in banks for note in bank.notes]
    if config.choose_penalty and len(np.unique(inner_M)) < LEAST_TO_CHOOSE:
        notes.append(f"penalty {config.penalty:g} was not chosen: the training rows have fewer than 3 groups")
    seconds = time.perf_counter() - started
    info = {
        "train_rows": len(rows.labelled_M),
        "features": sum(block.shape[1] for block in block_BNF),
        **({"penalty": penalty_BS.tolist()} if config.regressor == "ridge" else {}),
        "level2": stack.coefficient_GB.tolist(),
        "notes": list(dict.fromkeys(notes)),
        "weights": inputs.fingerprint(config.backbone),
        "seconds": seconds,
    }
    record = {"epoch": 1.0, "score": rows.held_out_score(pred_NT), "seconds": seconds}
    return FoldResult(rows.valid_M, pred_NT, as_tensors(stack.arrays()), [record], info)


def predict(
    config: StackConfig,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    *,
    flips: int = 1,
    should_stop: ShouldStop | None = None,
) -> FloatArray:
    """Masses in grams [N, 5] of all images of `inputs`, from a fit's tensors; no metadata is needed.

    flips: embeddings are averaged over this many turns and mirrors where the fit had fewer. Raises StopRequested.
    """
    specs = [spec.unchanged(max(flips, config.flips)) for spec in feature_specs(config)]
    banks = [inputs.features(spec, should_stop=should_stop) for spec in specs]
    return Stack.from_arrays(config, as_arrays(tensors)).predict(blocks(config, banks))


def _fold_seconds(config: StackConfig, n_train: int, speed: Speed) -> float:
    del speed  # numpy and scikit-learn on one core, counted
    fits, goals = config.inner_folds + 1.0, len(TRANSFORMS_OF[config.goals]) * len(TARGETS)
    if config.choose_penalty:
        fits += PATH * config.inner_folds * (config.inner_folds + 1) / 2
    seconds = 0.0
    for spec in feature_specs(config):
        widths = [costs.output_numbers(output, config.backbone, spec.views[0].height) for output in spec.outputs]
        features = sum(widths) * (1 if config.view_merge == "mean" else len(spec.views))
        one = n_train * features * (SCALING_SECONDS + KERNEL_SECONDS * n_train)
        if config.regressor == "svr":
            one += SVR_SECONDS * n_train**2 * goals
        if config.regressor == "trees":
            one += TREE_SECONDS * n_train * config.tree_features * features * config.trees
        seconds += fits * one * len(spec.layers)
    return seconds


MODEL = Model(
    fit=fit,
    predict=predict,
    feature_specs=feature_specs,
    views=lambda config: views_for(config.layout, config.size),
    fold_seconds=_fold_seconds,
)
