"""The published baseline (Kunwar 2026): a backbone, frozen but for its last blocks, and a head for five z-scores.

With no block trained the head learns on cached features (a bank of turned and jittered copies, drawn from at
random); otherwise pictures are decoded once per node and augmented on the device.
N images, C copies, D features, T = 5 targets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biomass_models.backbones.adapter import Backbone, weightless
from biomass_models.backbones.trunk import BackboneTail
from biomass_models.data.images import views_for
from biomass_models.families import costs
from biomass_models.families.base import Model
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.speed import Speed
from biomass_models.features.inputs import Inputs
from biomass_models.features.outputs import GLOBAL
from biomass_models.features.spec import FeatureSpec, fitted
from biomass_models.fold_rows import labelled_rows
from biomass_models.interrupt import ShouldStop
from biomass_models.training.auxiliary import Auxiliary
from biomass_models.training.fit import FloatArray, FoldResult, FoldRows, as_arrays, seeded
from biomass_models.training.heads import mlp_head
from biomass_models.training.loop import Terms
from biomass_models.training.losses import weighted_mse_loss
from biomass_models.training.many_heads import HeadFold, train_heads
from biomass_models.training.mixup import BatchRows
from biomass_models.training.network import Best, Network, predict_rows, schedule_of, train_network
from biomass_models.training.scaling import TargetScaler
from biomass_models.training.sources import FeatureSource, Prefix, PrefixSource, Source, bank_of, open_pixels


def feature_specs(config: BaselineConfig) -> list[FeatureSpec]:
    """The bank that a fit draws from; empty when the backbone trains on pictures."""
    bank = bank_of(config, views_for("whole", config.size), GLOBAL, stamped=config.stamped)
    return [bank] if bank else []


class BaselineNet(Network):
    """Backbone and head."""

    def __init__(self, backbone: Backbone | BackboneTail | None, head: nn.Sequential) -> None:
        super().__init__(backbone)
        self.head = head

    def embed(self, given: Tensor | tuple[Prefix, ...]) -> tuple[Tensor, None]:
        """Features [B, D] of a frozen backbone, else float pictures [B, 3, H, W] in [0, 1] or what the frozen blocks
        say of them -> features [B, D], of which the head makes z-scores [B, 5]."""
        if self.backbone is None:
            return given, None  # type: ignore[return-value]
        if isinstance(given, tuple):
            (part,) = given
            return self.backbone(part.value_BV[:, 0], part.size).global_BD, None
        return self.backbone(given).global_BD, None


def head_of(config: BaselineConfig, features: int) -> nn.Sequential:
    """The head for features [B, D]."""
    return mlp_head(features, width=config.head_width, width_2=config.head_width_2, dropout=config.dropout)


def fit(
    config: BaselineConfig,
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
    scaler = TargetScaler.fit(rows.labelled_mass_MT, config.transform)
    mass_MT = torch.from_numpy(rows.train_mass_MT).to(inputs.device)
    goal_MT = _goals(mass_MT, scaler, inputs)
    weight = torch.from_numpy(rows.train_weight).float().to(inputs.device)
    row_weight_M = torch.from_numpy(rows.train_row_weight_M).float().to(inputs.device)
    auxiliary = Auxiliary.of(config, quadrats, rows, row_weight_M, seed=seed)
    opened = _open(config, inputs, should_stop)
    with seeded(seed, "initial weights", torch.device("cpu")):
        net = BaselineNet(opened.backbone, head_of(config, opened.features))
        net.learn_beside(auxiliary)
        net.adapt(config)

    def losses(output_BT: Tensor, batch: BatchRows) -> Terms:
        goal_BT = goal_MT[batch.index_B] if batch.mixture is None else _goals(batch.of(mass_MT), scaler, inputs)
        return {"mse": weighted_mse_loss(output_BT, goal_BT, batch.weights(weight))}

    return train_network(
        config,
        net,
        opened.source,
        scaler,
        rows,
        inputs,
        losses=losses,
        grams=lambda output_BT: scaler.grams(output_BT.double().cpu().numpy()),
        notes=opened.notes,
        seed=seed,
        should_stop=should_stop,
        mixup_alpha=config.mixup_alpha,
        auxiliary=auxiliary,
    )


def _goals(mass_BT: Tensor, scaler: TargetScaler, inputs: Inputs) -> Tensor:
    """z-scores of masses in grams, on the device."""
    return torch.from_numpy(scaler.scale(mass_BT.cpu().numpy())).float().to(inputs.device)


def fit_folds(
    config: BaselineConfig,
    quadrats: pd.DataFrame,
    fold_N: NDArray[np.int64],
    folds: Sequence[int],
    inputs: Inputs,
    *,
    seeds: Sequence[int],
    should_stop: ShouldStop | None = None,
) -> list[FoldResult]:
    """`fit` for several folds at once, each with its seed: the same results but for rounding, in about half the time.

    The backbone is frozen (trained_blocks = 0), and the masses are all that is learned. Raises FitError,
    StopRequested.
    """
    started = time.perf_counter()
    if not labelled_rows(quadrats).all():
        raise ValueError("folds whose rows models have labelled learn from different masses: fit each alone")
    image_N = inputs.images.rows(list(quadrats["image_id"]))
    rows_K = [FoldRows.of(quadrats, fold_N, fold, image_N) for fold in folds]
    scalers = [TargetScaler.fit(rows.train_mass_MT, config.transform) for rows in rows_K]
    opened = _open(config, inputs, should_stop)
    if not isinstance(opened.source, FeatureSource):
        raise ValueError(f"folds are trained together when no block is, got trained_blocks={config.trained_blocks}")
    heads = []
    for seed in seeds:
        with seeded(seed, "initial weights", torch.device("cpu")):
            heads.append(head_of(config, opened.features))
    best_K = [Best(choose=config.select_best_epoch) for _ in folds]
    epochs_K: list[list[dict[str, float]]] = [[] for _ in folds]

    def after_epoch(k: int, record: dict[str, float], z_VT: Tensor, last: bool) -> None:
        pred_NT = scalers[k].grams(z_VT.double().cpu().numpy())
        record["score"] = rows_K[k].held_out_score(pred_NT)
        best_K[k].take(record, pred_NT, BaselineNet(None, heads[k]).trained_state, last)
        epochs_K[k].append(record)

    train_heads(
        heads,
        opened.source,
        [
            HeadFold(rows, seed, scaler.scale(rows.train_mass_MT))
            for rows, seed, scaler in zip(rows_K, seeds, scalers, strict=True)
        ],
        schedule_of(config),
        head_lr=config.head_lr,
        weight_decay=config.weight_decay,
        after_epoch=after_epoch,
        should_stop=should_stop,
    )
    seconds = (time.perf_counter() - started) / len(folds)
    return [
        best.result(
            config, rows, scaler, inputs, epochs, notes=list(opened.notes), seconds=seconds, folds_together=len(folds)
        )
        for best, rows, scaler, epochs in zip(best_K, rows_K, scalers, epochs_K, strict=True)
    ]


def predict(
    config: BaselineConfig,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    *,
    flips: int = 1,
    should_stop: ShouldStop | None = None,
) -> FloatArray:
    """Masses in grams [N, 5] of all images of `inputs`, from a fit's tensors; no metadata is needed.

    flips: predictions are averaged over the first 1, 2, 4 or 8 turns and mirrors. Raises StopRequested.
    """
    scaler = TargetScaler.from_arrays(as_arrays(tensors, "scaler."), config.transform)
    opened = _open(config, inputs, should_stop, flips=flips)
    net = BaselineNet(opened.backbone, head_of(config, opened.features))
    net.restore(config, tensors)
    return predict_rows(
        net.to(inputs.device),
        opened.source,
        np.arange(len(inputs.images.paths)),
        lambda output_BT: scaler.grams(output_BT.double().cpu().numpy()),
        inputs.device,
        config.batch_size,
        flips=flips,
        should_stop=should_stop,
    )


@dataclass(frozen=True)
class _Opened:
    source: Source
    backbone: Backbone | BackboneTail | None  # if some of it trains
    features: int  # D of the global vector
    notes: tuple[str, ...]


def _open(
    config: BaselineConfig, inputs: Inputs, should_stop: ShouldStop | None, *, flips: int | None = None
) -> _Opened:
    """Inputs of the net; flips: of pictures that are only predicted, None while training."""
    for spec in feature_specs(config):
        bank = inputs.features(spec if flips is None else spec.unchanged(flips), should_stop=should_stop)
        if config.trained_blocks == 0:
            feature_NCD = bank.stack(GLOBAL)[:, :, 0]
            return _Opened(FeatureSource(feature_NCD.to(inputs.device)), None, feature_NCD.shape[-1], bank.notes)
        features, _ = weightless(config.backbone).widths(bank.spec.views[0].height, bank.spec.views[0].width)
        tail = BackboneTail(inputs.backbone(config.backbone), config.trained_blocks)
        return _Opened(PrefixSource((bank,), inputs.device), tail, features, bank.notes)
    (view,), notes = fitted(views_for("whole", config.size), weightless(config.backbone))
    backbone = inputs.backbone(config.backbone)
    backbone.train_last(config.trained_blocks)
    features, _ = weightless(config.backbone).widths(view.height, view.width)
    return _Opened(open_pixels(config, inputs, view, should_stop), backbone, features, notes)


def _fold_seconds(config: BaselineConfig, n_train: int, speed: Speed) -> float:
    if config.trained_blocks > 0:
        return costs.trained_fold_seconds(config, views_for("whole", config.size), n_train, speed)
    features, _ = costs.feature_widths(config.backbone, config.size)
    with torch.device("meta"):
        net = BaselineNet(None, head_of(config, features))
    return costs.head_fold_seconds(
        config, net, lambda count: torch.zeros(count, features, device="meta"), n_train, speed
    )


MODEL = Model(
    fit=fit,
    predict=predict,
    feature_specs=feature_specs,
    views=lambda config: views_for("whole", config.size),
    fold_seconds=_fold_seconds,
    fit_folds=fit_folds,
)
