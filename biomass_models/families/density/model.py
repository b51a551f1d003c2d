"""Density: for each patch of the photograph what a quadrat like it would hold, and the mean of that.

The areal density of a pasture is the same for any part of a picture, so a token is enough to say it. With no
block trained the tokens of every view are cached on a grid; otherwise pictures are decoded once per node.
N images, T = 5 targets, V views that tile the photograph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomass_models.data.images import View, views_for
from biomass_models.families import costs
from biomass_models.families.base import Model
from biomass_models.families.density.config import DensityConfig
from biomass_models.families.density.network import (
    DensityNet,
    DensityOutput,
    component_means,
    density_loss,
    five_masses,
    grid_of,
)
from biomass_models.families.speed import Speed
from biomass_models.features.inputs import Inputs
from biomass_models.features.outputs import GLOBAL, Grid
from biomass_models.features.spec import FeatureSpec
from biomass_models.interrupt import ShouldStop
from biomass_models.targets import CLOVER, DEAD, GREEN, TARGETS, IntArray, norm_of
from biomass_models.training.fit import FloatArray, FoldResult, FoldRows, as_arrays, seeded
from biomass_models.training.loop import Terms
from biomass_models.training.maps import mass_maps
from biomass_models.training.mixup import BatchRows
from biomass_models.training.network import outputs_of, predict_rows, train_network
from biomass_models.training.scaling import TargetScaler
from biomass_models.training.sources import OpenedViews, ViewTokens, bank_of, open_views


def views(config: DensityConfig) -> tuple[View, ...]:
    """Views that tile the photograph."""
    return views_for(config.layout, config.size)


def feature_specs(config: DensityConfig) -> list[FeatureSpec]:
    """The bank that a fit draws from; empty when the backbone trains on pictures."""
    bank = bank_of(config, views(config), GLOBAL, Grid(config.grid), stamped=config.stamped, dtype=config.token_bank)
    return [bank] if bank else []


def fit(
    config: DensityConfig,
    quadrats: pd.DataFrame,
    fold_N: NDArray[np.int64],
    fold: int,
    inputs: Inputs,
    *,
    seed: int,
    should_stop: ShouldStop | None = None,
) -> FoldResult:
    """Train on the rows outside `fold`, predict those inside; nothing is fitted on the latter.

    quadrats: image_id and the five targets [grams]; its images are rows of `inputs`. Raises FitError, StopRequested.
    """
    rows = FoldRows.of(quadrats, fold_N, fold, inputs.images.rows(list(quadrats["image_id"])))
    scaler = TargetScaler.fit(rows.labelled_mass_MT, "none")
    goal_MT = torch.from_numpy(rows.train_mass_MT).float().to(inputs.device)
    weight = torch.from_numpy(rows.train_weight).float().to(inputs.device)
    mean_C = component_means(rows.labelled_mass_MT, rows.labelled_weight)
    opened = _open(config, inputs, should_stop)
    with seeded(seed, "initial weights", torch.device("cpu")):
        net = DensityNet(config, opened.backbone, patch_width=opened.patch_width, mean_C=mean_C)
        net.adapt(config)

    def losses(output: DensityOutput, batch: BatchRows) -> Terms:
        goal_BT, weight_B = batch.of(goal_MT), batch.weights(weight)
        return {"smooth_l1": density_loss(output.mass_BC, goal_BT, weight_B, beta=config.beta)}

    result = train_network(
        config,
        net,
        opened.source,
        scaler,
        rows,
        inputs,
        losses=losses,
        grams=lambda output: _grams(output, scaler),
        notes=opened.notes,
        seed=seed,
        should_stop=should_stop,
        mixup_alpha=config.mixup_alpha,
    )
    held_out = [str(quadrats["image_id"].iloc[row]) for row in rows.valid_M]
    drawn = drawn_targets(norm_of(rows.labelled_weight))
    maps = _maps(config, net, opened, inputs, drawn, rows.held_out_images, held_out, should_stop)
    return replace(result, tensors=result.tensors | {"drawn": torch.tensor(drawn)}, maps=maps)


def predict(
    config: DensityConfig,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    *,
    flips: int = 1,
    should_stop: ShouldStop | None = None,
) -> FloatArray:
    """Masses in grams [N, 5] of all images of `inputs`, from a fit's tensors; no metadata is needed.

    flips: predictions are averaged over the first 1, 2, 4 or 8 turns and mirrors. Raises StopRequested.
    """
    scaler = TargetScaler.from_arrays(as_arrays(tensors, "scaler."), "none")
    opened, net = _restored(config, tensors, inputs, flips, should_stop)
    return predict_rows(
        net,
        opened.source,
        np.arange(len(inputs.images.paths)),
        lambda output: _grams(output, scaler),
        inputs.device,
        config.batch_size,
        flips=flips,
        should_stop=should_stop,
    )


def maps(config: DensityConfig, tensors: Mapping[str, Tensor], inputs: Inputs) -> pd.DataFrame:
    """Densities of green, clover and dead mass of all images of `inputs`: training.maps.MASS_MAP_COLUMNS."""
    opened, net = _restored(config, tensors, inputs, 1, None)
    row_N, drawn = np.arange(len(inputs.images.paths)), tensors["drawn"].tolist()
    return _maps(config, net, opened, inputs, drawn, row_N, inputs.images.image_ids, None)


def drawn_targets(norm_T: FloatArray) -> list[int]:
    """Targets whose densities are drawn: green, clover and dead; where one was never measured, all that were.

    norm_T: targets.norm_of. What the densities of components say is nothing where only their sum was measured.
    """
    components = [GREEN, CLOVER, DEAD]
    return components if (norm_T[components] > 0).all() else np.flatnonzero(norm_T > 0).tolist()


def _open(
    config: DensityConfig, inputs: Inputs, should_stop: ShouldStop | None, *, flips: int | None = None
) -> OpenedViews:
    specs = feature_specs(config)
    return open_views(config, grid_of(config), [views(config)], specs, inputs, should_stop, flips=flips)


def _restored(
    config: DensityConfig,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    flips: int,
    should_stop: ShouldStop | None,
) -> tuple[OpenedViews, DensityNet]:
    opened = _open(config, inputs, should_stop, flips=flips)
    net = DensityNet(config, opened.backbone, patch_width=opened.patch_width)
    net.restore(config, tensors)
    return opened, net.to(inputs.device)


def _grams(output: DensityOutput, scaler: TargetScaler) -> FloatArray:
    """No component is above twice the heaviest training mass: a density is not bounded, a photograph is."""
    mass_BC = output.mass_BC.double().cpu().clamp(max=float(scaler.cap_T.max()))
    return five_masses(mass_BC).numpy()


def _maps(
    config: DensityConfig,
    net: DensityNet,
    opened: OpenedViews,
    inputs: Inputs,
    drawn: Sequence[int],
    row_N: IntArray,
    image_ids: Sequence[str],
    should_stop: ShouldStop | None,
) -> pd.DataFrame:
    outputs = outputs_of(net, opened.source, row_N, inputs.device, config.batch_size, should_stop=should_stop)
    density_NVPT = five_masses(torch.cat([output.density_BVPC.cpu() for output in outputs]))[..., list(drawn)]
    names = [TARGETS[target] for target in drawn]
    return mass_maps(image_ids, views(config), density_NVPT.unflatten(2, opened.grids[0]), names)


def _fold_seconds(config: DensityConfig, n_train: int, speed: Speed) -> float:
    parts = views(config)
    if config.trained_blocks > 0:
        return costs.trained_fold_seconds(config, parts, n_train, speed)
    whole, token = costs.feature_widths(config.backbone, config.size)

    def tokens_of(count: int) -> tuple[ViewTokens, ...]:
        shapes = (count, len(parts), whole), (count, len(parts), config.grid**2, token)
        return (ViewTokens(*(torch.zeros(shape, device="meta") for shape in shapes)),)

    with torch.device("meta"):
        net = DensityNet(config, None, patch_width=token)
    return costs.head_fold_seconds(config, net, tokens_of, n_train, speed)


MODEL = Model(
    fit=fit,
    predict=predict,
    feature_specs=feature_specs,
    views=views,
    fold_seconds=_fold_seconds,
    maps=maps,
)
