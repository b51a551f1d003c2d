"""Model 2 (SPEC 5): a student that sees the photograph and learns from labels and from a metadata teacher.

It predicts from images alone; metadata weigh the rows and teach while it trains. With no block trained it learns on
cached tokens of every view, otherwise pictures are decoded once per node and all views pass the shared backbone.
N images, T = 5 targets, V views: the whole image, then the local ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomass_models.attention import attention_table, coarse_map
from biomass_models.backbones import Backbone, weightless
from biomass_models.configs import DistilledConfig
from biomass_models.features import FeatureSpec, fitted
from biomass_models.fit import FloatArray, FoldResult, FoldRows, IntArray, as_arrays, seed_for, seeded
from biomass_models.images import View, views_for
from biomass_models.inputs import Inputs
from biomass_models.interrupt import OnEpoch, ShouldStop
from biomass_models.losses import distillation_losses, ratio_terms
from biomass_models.network import Terms, outputs_of, predict_rows, train_network
from biomass_models.ratios import reconstruct
from biomass_models.scaling import TargetScaler
from biomass_models.sources import Source, TokenSource, ViewSource, open_pixels
from biomass_models.student import Student, StudentOutput
from biomass_models.teacher import Taught, fit_teacher, sample_weights


def view_parts(config: DistilledConfig) -> tuple[tuple[View, ...], ...]:
    """The whole image, then the local views if the layout has any."""
    whole = views_for("whole", config.size)
    if config.layout == "none":
        return (whole,)
    local = views_for(config.layout, config.local_size)
    return whole, tuple(view for view in local if view.name != "whole")


def feature_specs(config: DistilledConfig) -> list[FeatureSpec]:
    """A bank for each part of the views; empty when the backbone trains."""
    if config.trained_blocks > 0:
        return []
    return [
        FeatureSpec(
            backbone=config.backbone,
            views=views,
            flips=config.flips,
            jittered=config.jittered,
            colour_jitter=config.colour_jitter,
            blur=config.blur,
            bank_seed=config.bank_seed,
            stamp=config.stamp,  # type: ignore[arg-type]
            outputs=("global", f"grid-{config.grid}"),
        )
        for views in view_parts(config)
    ]


def fit(
    config: DistilledConfig,
    quadrats: pd.DataFrame,
    fold_N: NDArray[np.int64],
    fold: int,
    inputs: Inputs,
    *,
    seed: int,
    taught: Taught | None = None,
    on_epoch: OnEpoch | None = None,
    should_stop: ShouldStop | None = None,
) -> FoldResult:
    """Train on the rows outside `fold`, predict those inside; nothing is fitted on the latter.

    quadrats: image_id, group, metadata and the five targets [grams]. taught: by `fit_teacher` for this fold; None
    fits it here where the configuration distils. Raises FitError, StopRequested.
    """
    rows = FoldRows.of(quadrats, fold_N, fold, inputs.images.rows(list(quadrats["image_id"])))
    teacher = config.teacher_config()
    if teacher is not None and taught is None:
        taught = fit_teacher(teacher, quadrats, fold_N, fold, seed=seed_for(seed, "teacher"), should_stop=should_stop)
    scaler = TargetScaler.fit(rows.train_mass_MT, "log1p")
    weight = sample_weights(quadrats.iloc[rows.train_M]) if config.group_weights else np.ones(len(rows.train_M))
    mass_MT, weight_M = _on(inputs.device, rows.train_mass_MT), _on(inputs.device, weight)
    taught_MT = _on(inputs.device, taught.mass_MT) if teacher is not None and taught is not None else None
    opened = _open(config, inputs, should_stop)
    with seeded(seed, "initial weights", torch.device("cpu")):
        net = opened.student(config)

    def losses(output: StudentOutput, index_B: Tensor) -> Terms:
        terms = ratio_terms(
            output.output_BT,
            mass_MT[index_B],
            weight_M[index_B],
            scaler,
            total=config.total_weight,
            ratio=config.ratio_weight,
            delta=config.huber_delta,
        )
        if taught_MT is not None:
            apart_B = distillation_losses(output.output_BT, taught_MT[index_B], scaler, delta=config.huber_delta)
            terms["distillation"] = config.distillation_weight * (weight_M[index_B] * apart_B).mean()
        return terms

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
        on_epoch=on_epoch,
        should_stop=should_stop,
    )
    if taught_MT is not None and taught is not None:
        result.info["teacher_score"] = None if np.isnan(taught.score) else taught.score
    held_out = [str(quadrats["image_id"].iloc[row]) for row in rows.valid_M]
    attention = _attention(config, net, opened, inputs, rows.held_out_images, held_out)
    return replace(result, attention=attention)


def predict(config: DistilledConfig, tensors: Mapping[str, Tensor], inputs: Inputs, *, flips: int = 1) -> FloatArray:
    """Masses in grams [N, 5] of all images of `inputs`, from a fit's tensors; no metadata is needed.

    flips: predictions are averaged over the first 1, 2, 4 or 8 turns and mirrors.
    """
    scaler = TargetScaler.from_arrays(as_arrays(tensors, "scaler."), "log1p")
    opened, net = _restored(config, tensors, inputs, flips)
    return predict_rows(
        net,
        opened.source,
        np.arange(len(inputs.images.paths)),
        lambda output: _grams(output, scaler),
        inputs.device,
        config.batch_size,
        flips=flips,
    )


def attention(config: DistilledConfig, tensors: Mapping[str, Tensor], inputs: Inputs) -> pd.DataFrame:
    """Which views mattered and where the model looked, for all images of `inputs`: attention.ATTENTION_COLUMNS."""
    opened, net = _restored(config, tensors, inputs, 1)
    return _attention(config, net, opened, inputs, np.arange(len(inputs.images.paths)), inputs.images.image_ids)


@dataclass(frozen=True)
class _Opened:
    source: Source
    backbone: Backbone | None  # if some of it trains
    global_width: int
    patch_width: int
    grids: tuple[tuple[int, int], ...]  # rows and columns of patch tokens, for each part of the views
    notes: tuple[str, ...]

    def student(self, config: DistilledConfig) -> Student:
        return Student(config, self.backbone, global_width=self.global_width, patch_width=self.patch_width)


def _open(
    config: DistilledConfig, inputs: Inputs, should_stop: ShouldStop | None, *, flips: int | None = None
) -> _Opened:
    """Inputs of the student; flips: of pictures that are only predicted, None while training."""
    if config.trained_blocks == 0:
        specs = [spec if flips is None else spec.unchanged(flips) for spec in feature_specs(config)]
        banks = tuple(inputs.features(spec, should_stop=should_stop) for spec in specs)
        return _Opened(
            TokenSource(banks, config.grid, inputs.device),
            None,
            banks[0].width("global"),
            banks[0].width(f"grid-{config.grid}"),
            ((config.grid, config.grid),) * len(banks),
            tuple(dict.fromkeys(chain.from_iterable(bank.notes for bank in banks))),
        )
    shape = weightless(config.backbone)
    parts, notes = zip(*(fitted(views, shape) for views in view_parts(config)), strict=True)
    tokens = [shape(torch.empty(1, 3, part[0].height, part[0].width, device="meta")) for part in parts]
    backbone = inputs.backbone(config.backbone)
    backbone.train_last(config.trained_blocks)
    return _Opened(
        ViewSource(tuple(tuple(open_pixels(config, inputs, view, should_stop) for view in part) for part in parts)),
        backbone,
        tokens[0].global_BD.shape[-1],
        tokens[0].patch_BPD.shape[-1],
        tuple((config.grid, config.grid) if config.grid else token.grid for token in tokens),
        tuple(dict.fromkeys(chain.from_iterable(notes))),
    )


def _restored(
    config: DistilledConfig, tensors: Mapping[str, Tensor], inputs: Inputs, flips: int
) -> tuple[_Opened, Student]:
    opened = _open(config, inputs, None, flips=flips)
    net = opened.student(config)
    net.load_trained_state(tensors)
    return opened, net.to(inputs.device)


def _grams(output: StudentOutput, scaler: TargetScaler) -> FloatArray:
    return reconstruct(output.output_BT.double(), scaler).cpu().numpy()


def _attention(
    config: DistilledConfig, net: Student, opened: _Opened, inputs: Inputs, row_N: IntArray, image_ids: Sequence[str]
) -> pd.DataFrame:
    parts = view_parts(config)
    maps: list[list[Tensor]] = [[] for _ in parts]
    weights = []
    for output in outputs_of(net, opened.source, row_N, inputs.device, config.batch_size):
        weights.append(output.weight_BL.cpu())
        for kept, look_BVP, grid in zip(maps, output.look_BVP, opened.grids, strict=True):
            kept.append(torch.stack([coarse_map(look_BP, grid) for look_BP in look_BVP.cpu().unbind(1)], dim=1))
    map_VNHW = [map_NHW.numpy() for kept in maps for map_NHW in torch.cat(kept).unbind(1)]
    return attention_table(image_ids, list(chain.from_iterable(parts)), map_VNHW, torch.cat(weights).numpy())


def _on(device: torch.device, array: FloatArray) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=device)
