"""The published student (Kunwar 2026): it sees the photograph and learns from labels and from a metadata teacher.

It predicts from images alone; metadata weigh the rows and teach while it trains. With no block trained it learns on
cached tokens of every view, otherwise pictures are decoded once per node and all views pass the shared backbone.
N images, T = 5 targets, V views: the whole image, then the local ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomass_models.data.images import View, views_for
from biomass_models.families import costs
from biomass_models.families.base import Artefact, Model, Shared
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.families.distilled.student import Student, StudentOutput
from biomass_models.families.distilled.teacher import fit_teacher, sample_weights
from biomass_models.families.speed import Speed
from biomass_models.features.inputs import Inputs
from biomass_models.features.outputs import GLOBAL, Grid
from biomass_models.features.spec import FeatureSpec
from biomass_models.fold_rows import labelled_rows
from biomass_models.interrupt import ShouldStop
from biomass_models.targets import TARGETS
from biomass_models.training.auxiliary import Auxiliary
from biomass_models.training.fit import FloatArray, FoldResult, FoldRows, IntArray, as_arrays, seed_for, seeded
from biomass_models.training.loop import Terms
from biomass_models.training.losses import distillation_losses, ratio_terms
from biomass_models.training.maps import coarse_map, map_table
from biomass_models.training.mixup import BatchRows
from biomass_models.training.network import outputs_of, predict_rows, train_network
from biomass_models.training.ratios import reconstruct
from biomass_models.training.scaling import TargetScaler
from biomass_models.training.sources import OpenedViews, ViewTokens, bank_of, open_views

PHOTOGRAPH = (2000, 1000)  # px, of the competition


def view_parts(config: DistilledConfig) -> tuple[tuple[View, ...], ...]:
    """The whole image, then the local views if the layout has any."""
    whole = views_for("whole", config.size)
    if config.layout == "none":
        return (whole,)
    # corners are cut at native resolution of the competition's photographs: larger views show more
    crop = (min(0.5, config.local_size / PHOTOGRAPH[0]), min(0.5, config.local_size / PHOTOGRAPH[1]))
    local = views_for(config.layout, config.local_size, crop=crop)
    return whole, tuple(view for view in local if view.name != "whole")


def feature_specs(config: DistilledConfig) -> list[FeatureSpec]:
    """A bank for each part of the views; empty when the backbone trains on pictures."""
    outputs = (GLOBAL, *([Grid(config.grid)] if config.grid else []))
    banks = (bank_of(config, views, *outputs, stamped=config.stamped) for views in view_parts(config))
    return [bank for bank in banks if bank]


def fit(
    config: DistilledConfig,
    quadrats: pd.DataFrame,
    fold_N: NDArray[np.int64],
    fold: int,
    inputs: Inputs,
    *,
    seed: int,
    shared: Artefact | None = None,
    should_stop: ShouldStop | None = None,
) -> FoldResult:
    """Train on the rows outside `fold`, predict those inside; nothing is fitted on the latter.

    quadrats: image_id, group, metadata and the five targets [grams]. shared: by `fit_teacher` for this fold; None
    fits it here where the configuration distils. Raises FitError, StopRequested.
    """
    rows = FoldRows.of(quadrats, fold_N, fold, inputs.images.rows(list(quadrats["image_id"])))
    teacher = config.teacher_config()
    if teacher is not None and shared is None:
        weighed = labelled_rows(quadrats)
        shared = fit_teacher(
            teacher, quadrats[weighed], fold_N[weighed], fold, seed=seed_for(seed, "teacher"), should_stop=should_stop
        )
    if shared is not None and len(shared.table) != len(rows.labelled_M):
        raise ValueError(f"a teacher's rows are the {len(rows.labelled_M)} training rows, got {len(shared.table)}")
    scaler = TargetScaler.fit(rows.labelled_mass_MT, "log1p")
    weight = np.ones(len(rows.train_M))  # whatever models have labelled has no date, state and species
    if config.group_weights:
        weight[rows.is_labelled_M] = sample_weights(quadrats.iloc[rows.labelled_M])
    weight = weight * rows.train_row_weight_M
    mass_MT, weight_M = _on(inputs.device, rows.train_mass_MT), _on(inputs.device, weight)
    taught_MT = None
    if teacher is not None and shared is not None:
        taught_MT = _on(inputs.device, rows.of_training(shared.table[list(TARGETS)].to_numpy(np.float64)))
    auxiliary = Auxiliary.of(config, quadrats, rows, weight_M, mass_weight=config.total_weight, seed=seed)
    opened = _open(config, inputs, should_stop)
    with seeded(seed, "initial weights", torch.device("cpu")):
        net = _student(config, opened)
        net.learn_beside(auxiliary)
        net.adapt(config)

    def losses(output: StudentOutput, batch: BatchRows) -> Terms:
        taught_BT = None if taught_MT is None else batch.of(taught_MT)
        return student_terms(config, output.output_BT, batch.of(mass_MT), batch.of(weight_M), taught_BT, scaler)

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
        auxiliary=auxiliary,
    )
    held_out = [str(quadrats["image_id"].iloc[row]) for row in rows.valid_M]
    return replace(result, maps=_maps(config, net, opened, inputs, rows.held_out_images, held_out, should_stop))


def student_terms(
    config: DistilledConfig,
    output_BT: Tensor,
    mass_BT: Tensor,
    weight_B: Tensor,
    taught_BT: Tensor | None,
    scaler: TargetScaler,
) -> Terms:
    """The student's loss by term: weighted by sample, averaged over the batch, times the term's weight.

    mass_BT, taught_BT: labels and the teacher's masses in grams, NaN where unknown; None where nothing is distilled.
    """
    delta = config.huber_delta
    terms = ratio_terms(
        output_BT, mass_BT, weight_B, scaler, total=config.total_weight, ratio=config.ratio_weight, delta=delta
    )
    if taught_BT is not None:
        apart_B = distillation_losses(output_BT, taught_BT, scaler, delta=delta)
        terms["distillation"] = config.distillation_weight * (weight_B * apart_B).mean()
    return terms


def predict(
    config: DistilledConfig,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    *,
    flips: int = 1,
    should_stop: ShouldStop | None = None,
) -> FloatArray:
    """Masses in grams [N, 5] of all images of `inputs`, from a fit's tensors; no metadata is needed.

    flips: predictions are averaged over the first 1, 2, 4 or 8 turns and mirrors. Raises StopRequested.
    """
    scaler = TargetScaler.from_arrays(as_arrays(tensors, "scaler."), "log1p")
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


def maps(config: DistilledConfig, tensors: Mapping[str, Tensor], inputs: Inputs) -> pd.DataFrame:
    """Which views mattered and where the attention lay, for all images of `inputs`: training.maps.MAP_COLUMNS."""
    opened, net = _restored(config, tensors, inputs, 1, None)
    return _maps(config, net, opened, inputs, np.arange(len(inputs.images.paths)), inputs.images.image_ids, None)


def _open(
    config: DistilledConfig, inputs: Inputs, should_stop: ShouldStop | None, *, flips: int | None = None
) -> OpenedViews:
    """Inputs of the student; flips: of pictures that are only predicted, None while training."""
    parts, specs = view_parts(config), feature_specs(config)
    return open_views(config, config.grid, parts, specs, inputs, should_stop, flips=flips)


def _student(config: DistilledConfig, opened: OpenedViews) -> Student:
    return Student(config, opened.backbone, global_width=opened.global_width, patch_width=opened.patch_width)


def _restored(
    config: DistilledConfig,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    flips: int,
    should_stop: ShouldStop | None,
) -> tuple[OpenedViews, Student]:
    opened = _open(config, inputs, should_stop, flips=flips)
    net = _student(config, opened)
    net.restore(config, tensors)
    return opened, net.to(inputs.device)


def _grams(output: StudentOutput, scaler: TargetScaler) -> FloatArray:
    return reconstruct(output.output_BT.double(), scaler).cpu().numpy()


def _maps(
    config: DistilledConfig,
    net: Student,
    opened: OpenedViews,
    inputs: Inputs,
    row_N: IntArray,
    image_ids: Sequence[str],
    should_stop: ShouldStop | None,
) -> pd.DataFrame:
    parts = view_parts(config)
    maps_V: list[list[Tensor]] = [[] for _ in parts]
    weights = []
    for output in outputs_of(net, opened.source, row_N, inputs.device, config.batch_size, should_stop=should_stop):
        weights.append(output.weight_BL.cpu())
        for kept, look_BVP, grid in zip(maps_V, output.look_BVP, opened.grids, strict=True):
            kept.append(torch.stack([coarse_map(look_BP, grid) for look_BP in look_BVP.cpu().unbind(1)], dim=1))
    map_VNHW = [map_NHW.numpy() for kept in maps_V for map_NHW in torch.cat(kept).unbind(1)]
    return map_table(image_ids, list(chain.from_iterable(parts)), map_VNHW, torch.cat(weights).numpy())


def _on(device: torch.device, array: FloatArray) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=device)


def _fold_seconds(config: DistilledConfig, n_train: int, speed: Speed) -> float:
    """The teacher's second or two, paid by the first trial that asks for it, are left out."""
    parts = view_parts(config)
    if config.trained_blocks > 0:
        return costs.trained_fold_seconds(config, list(chain.from_iterable(parts)), n_train, speed)
    whole, token = costs.feature_widths(config.backbone, config.size)

    def tokens_of(count: int) -> tuple[ViewTokens, ...]:
        shapes = [((count, len(part), whole), (count, len(part), config.grid**2, token)) for part in parts]
        return tuple(ViewTokens(*(torch.zeros(shape, device="meta") for shape in pair)) for pair in shapes)

    with torch.device("meta"):
        net = Student(config, None, global_width=whole, patch_width=token)
    return costs.head_fold_seconds(config, net, tokens_of, n_train, speed)


MODEL = Model(
    fit=fit,
    predict=predict,
    feature_specs=feature_specs,
    views=lambda config: list(chain.from_iterable(view_parts(config))),
    fold_seconds=_fold_seconds,
    shared=Shared(name="teacher", settings=DistilledConfig.teacher_config, fit=fit_teacher),
    maps=maps,
)
