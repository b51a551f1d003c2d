"""Model 1 (SPEC 4): a backbone, frozen but for its last blocks, and a small head that regresses five z-scores.

With no block trained the head learns on cached features (a bank of turned and jittered copies, drawn from at
random); otherwise pictures are decoded once per node and augmented on the device.
N images, C copies, D features, T = 5 targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biomass_models.backbones import Backbone, weightless
from biomass_models.configs import BaselineConfig
from biomass_models.features import FeatureSpec, fitted
from biomass_models.fit import FloatArray, FoldResult, FoldRows, as_arrays, seeded
from biomass_models.heads import mlp_head
from biomass_models.images import views_for
from biomass_models.inputs import Inputs
from biomass_models.interrupt import OnEpoch, ShouldStop
from biomass_models.losses import weighted_mse_loss
from biomass_models.network import Network, Terms, predict_rows, train_network
from biomass_models.scaling import TargetScaler
from biomass_models.sources import FeatureSource, Source, open_pixels


def feature_specs(config: BaselineConfig) -> list[FeatureSpec]:
    """The bank that a fit draws from; empty when the backbone trains."""
    if config.trained_blocks > 0:
        return []
    return [
        FeatureSpec(
            backbone=config.backbone,
            views=views_for("whole", config.size),
            flips=config.flips,
            jittered=config.jittered,
            colour_jitter=config.colour_jitter,
            blur=config.blur,
            bank_seed=config.bank_seed,
            stamp=config.stamp,  # type: ignore[arg-type]
        )
    ]


class BaselineNet(Network):
    """Backbone and head."""

    def __init__(self, backbone: Backbone | None, head: nn.Module) -> None:
        super().__init__(backbone)
        self.head = head

    def forward(self, input_B: Tensor) -> Tensor:
        """Features [B, D] of a frozen backbone, else float pictures [B, 3, H, W] in [0, 1] -> z-scores [B, 5]."""
        return self.head(input_B if self.backbone is None else self.backbone(input_B).global_BD)


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
    on_epoch: OnEpoch | None = None,
    should_stop: ShouldStop | None = None,
) -> FoldResult:
    """Train on the rows outside `fold`, predict those inside; nothing is fitted on the latter.

    quadrats: image_id and the five targets [grams]; its images are rows of `inputs`. Raises FitError, StopRequested.
    """
    rows = FoldRows.of(quadrats, fold_N, fold, inputs.images.rows(list(quadrats["image_id"])))
    scaler = TargetScaler.fit(rows.train_mass_MT, config.transform)
    goal_MT = torch.from_numpy(scaler.scale(rows.train_mass_MT)).float().to(inputs.device)
    opened = _open(config, inputs, should_stop)
    with seeded(seed, "initial weights", torch.device("cpu")):
        net = BaselineNet(opened.backbone, head_of(config, opened.features))

    def losses(output_BT: Tensor, index_B: Tensor) -> Terms:
        return {"mse": weighted_mse_loss(output_BT, goal_MT[index_B])}

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
        on_epoch=on_epoch,
        should_stop=should_stop,
    )


def predict(config: BaselineConfig, tensors: Mapping[str, Tensor], inputs: Inputs, *, flips: int = 1) -> FloatArray:
    """Masses in grams [N, 5] of all images of `inputs`, from a fit's tensors; no metadata is needed.

    flips: predictions are averaged over the first 1, 2, 4 or 8 turns and mirrors.
    """
    scaler = TargetScaler.from_arrays(as_arrays(tensors, "scaler."), config.transform)
    opened = _open(config, inputs, None, flips=flips)
    net = BaselineNet(opened.backbone, head_of(config, opened.features))
    net.load_trained_state(tensors)
    return predict_rows(
        net.to(inputs.device),
        opened.source,
        np.arange(len(inputs.images.paths)),
        lambda output_BT: scaler.grams(output_BT.double().cpu().numpy()),
        inputs.device,
        config.batch_size,
        flips=flips,
    )


@dataclass(frozen=True)
class _Opened:
    source: Source
    backbone: Backbone | None  # if some of it trains
    features: int  # D of the global vector
    notes: tuple[str, ...]


def _open(
    config: BaselineConfig, inputs: Inputs, should_stop: ShouldStop | None, *, flips: int | None = None
) -> _Opened:
    """Inputs of the net; flips: of pictures that are only predicted, None while training."""
    if config.trained_blocks == 0:
        spec = feature_specs(config)[0]
        bank = inputs.features(spec if flips is None else spec.unchanged(flips), should_stop=should_stop)
        feature_NCD = bank.stack("global")[:, :, 0]
        return _Opened(FeatureSource(feature_NCD.to(inputs.device)), None, feature_NCD.shape[-1], bank.notes)
    (view,), notes = fitted(views_for("whole", config.size), weightless(config.backbone))
    backbone = inputs.backbone(config.backbone)
    backbone.train_last(config.trained_blocks)
    features = weightless(config.backbone).features(view.height, view.width)
    return _Opened(open_pixels(config, inputs, view, should_stop), backbone, features, notes)
