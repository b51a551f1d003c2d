"""Model 1 (SPEC 4): a backbone, frozen but for its last blocks, and a small head that regresses five z-scores.

With no block trained the head learns on cached features (a bank of turned and jittered copies, drawn from at
random); otherwise pictures are decoded once per node and augmented on the device.
N images, C copies, D features, T = 5 targets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biomass_models.backbones import Backbone, parameter_groups, weightless
from biomass_models.configs import BaselineConfig
from biomass_models.devices import MicroBatch, autocast
from biomass_models.features import FeatureSpec
from biomass_models.fit import (
    FloatArray,
    FoldResult,
    IntArray,
    Schedule,
    as_arrays,
    as_tensors,
    generator_for,
    score_or_nan,
    seeded,
    split_rows,
    train_epochs,
)
from biomass_models.heads import baseline_head
from biomass_models.images import View, views_for
from biomass_models.inputs import Inputs
from biomass_models.interrupt import OnEpoch, ShouldStop
from biomass_models.losses import weighted_mse_loss
from biomass_models.scaling import TargetScaler
from biomass_models.sources import FeatureSource, PixelSource, Source
from biomass_models.targets import TARGETS


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


class BaselineNet(nn.Module):
    """Backbone (None when frozen: its features come from the cache) and head."""

    def __init__(self, backbone: Backbone | None, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, input_B: Tensor) -> Tensor:
        """Features [B, D] of a frozen backbone, else float pictures [B, 3, H, W] in [0, 1] -> z-scores [B, 5]."""
        return self.head(input_B if self.backbone is None else self.backbone(input_B).global_BD)

    def trained_tensors(self) -> dict[str, Tensor]:
        """What training changes: the head, and the freed part of the backbone. Live, not copies."""
        head = {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        free = {} if self.backbone is None else self.backbone.trained_state()
        return head | {f"backbone.{name}": tensor.detach() for name, tensor in free.items()}

    def trained_state(self) -> dict[str, Tensor]:
        """Copies of the trained tensors on the CPU, as they are stored."""
        return {name: tensor.cpu().clone().contiguous() for name, tensor in self.trained_tensors().items()}

    def load_trained_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `trained_state`."""
        for name, tensor in self.trained_tensors().items():
            tensor.copy_(tensors[name])


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

    quadrats: image_id and the five targets [grams]; its images are rows of `inputs`. The last weights (or their
    moving average) are scored unless config.select_best_epoch. Raises FitError, StopRequested.
    """
    started = time.perf_counter()
    train_M, valid_M = split_rows(fold_N, fold)
    image_N = inputs.images.rows(list(quadrats["image_id"]))
    mass_NT = quadrats[list(TARGETS)].to_numpy(np.float64)
    scaler = TargetScaler.fit(mass_NT[train_M], config.transform)
    goal_MT = torch.from_numpy(scaler.scale(mass_NT[train_M])).float().to(inputs.device)
    source, backbone, features = _open_source(config, inputs, should_stop)
    with seeded(seed, "initial weights", torch.device("cpu")):
        head = baseline_head(features, width=config.head_width, width_2=config.head_width_2, dropout=config.dropout)
    net = BaselineNet(backbone, head).to(inputs.device)
    draws = generator_for(seed, "augmentation")
    epochs: list[dict[str, float]] = []
    best = _Best()

    def loss_of(index_B: Tensor) -> Tensor:
        input_B = source.augmented(image_N[train_M[index_B.numpy()]], draws)
        with autocast(inputs.device):
            output_BT = net(input_B)
        return weighted_mse_loss(output_BT, goal_MT[index_B.to(inputs.device)])

    def after_epoch(record: dict[str, float], last: bool) -> None:
        # a pass over the held-out pictures costs as much as training on them, one over cached features nothing
        if last or backbone is None or config.select_best_epoch:
            pred_NT = _predict_rows(net, source, image_N[valid_M], scaler, inputs.device, config.batch_size)
            record["score"] = score_or_nan(mass_NT[valid_M], pred_NT)
            if not config.select_best_epoch or best.is_beaten_by(record["score"]):
                best.keep(record, pred_NT, net.trained_state() if last or config.select_best_epoch else {})
        epochs.append(record)
        if on_epoch is not None:
            on_epoch(dict(record))

    with seeded(seed, "dropout", inputs.device):
        micro = train_epochs(
            net,
            list(net.trained_tensors().values()),
            parameter_groups(
                backbone or nn.Identity(),
                head,
                backbone_lr=config.backbone_lr,
                head_lr=config.head_lr,
                weight_decay=config.weight_decay,
            ),
            len(train_M),
            Schedule(
                epochs=config.epochs,
                batch_size=config.batch_size,
                min_lr=config.min_lr,
                clip_norm=config.clip_norm,
                ema_decay=config.ema_decay,
            ),
            loss_of,
            after_epoch,
            device=inputs.device,
            seed=seed,
            should_stop=should_stop,
            stop_each_step=backbone is not None,
        )
    info = {
        "train_rows": len(train_M),
        "scored_epoch": best.epoch,
        "epoch_chosen_on_validation": config.select_best_epoch,
        "micro_batch": micro.size,
        "device": str(inputs.device),
        "weights": inputs.fingerprint(config.backbone),
        "seconds": time.perf_counter() - started,
    }
    return FoldResult(valid_M, best.pred_NT, best.tensors | as_tensors(scaler.arrays()), epochs, info)


def predict(config: BaselineConfig, tensors: Mapping[str, Tensor], inputs: Inputs) -> FloatArray:
    """Masses in grams [N, 5] of all images of `inputs`, from a fit's tensors; no metadata is needed."""
    scaler = TargetScaler.from_arrays(as_arrays(tensors, "scaler."), config.transform)
    source, backbone, features = _open_source(config, inputs, None, identity=True)
    head = baseline_head(features, width=config.head_width, width_2=config.head_width_2, dropout=config.dropout)
    net = BaselineNet(backbone, head)
    net.load_trained_state(tensors)
    net.to(inputs.device).eval()
    row_N = np.arange(len(inputs.images.paths))
    return _predict_rows(net, source, row_N, scaler, inputs.device, config.batch_size)


class _Best:
    """The epoch whose predictions and weights are handed back."""

    epoch = 0
    score = -np.inf
    pred_NT: FloatArray
    tensors: dict[str, Tensor]

    def is_beaten_by(self, score: float) -> bool:
        return self.epoch == 0 or score > self.score

    def keep(self, record: Mapping[str, float], pred_NT: FloatArray, tensors: dict[str, Tensor]) -> None:
        self.epoch, self.score, self.pred_NT, self.tensors = (
            int(record["epoch"]),
            record["score"],
            pred_NT,
            tensors,
        )


def _open_source(
    config: BaselineConfig, inputs: Inputs, should_stop: ShouldStop | None, *, identity: bool = False
) -> tuple[Source, Backbone | None, int]:
    """Inputs of the net, the backbone if some of it trains, and the number of features D of its global vector."""
    if config.trained_blocks == 0:
        spec = feature_specs(config)[0]
        bank = inputs.features(spec.identity() if identity else spec, should_stop=should_stop)
        feature_NCD = bank.stack("global")[:, :, 0]
        return FeatureSource(feature_NCD.to(inputs.device)), None, feature_NCD.shape[-1]
    backbone = inputs.backbone(config.backbone)
    height, width, _ = backbone.fit_size(config.size, config.size)
    view = View(name="whole", box=(0, 0, 1, 1), height=height, width=width)
    pixel_NHWC = inputs.pixels(view, stamp=config.stamp, should_stop=should_stop)  # type: ignore[arg-type]
    backbone.train_last(config.trained_blocks)
    return (
        PixelSource(pixel_NHWC, inputs.device, flips=config.flips, colour=config.colour_jitter, blur=config.blur),
        backbone,
        weightless(config.backbone).features(height, width),
    )


@torch.inference_mode()
def _predict_rows(
    net: BaselineNet, source: Source, row_N: IntArray, scaler: TargetScaler, device: torch.device, batch_size: int
) -> FloatArray:
    outputs: list[Tensor] = []
    micro = MicroBatch(batch_size if net.backbone is not None else max(1, len(row_N)))

    def work() -> None:
        outputs.clear()
        for part in micro.slices(len(row_N)):
            with autocast(device):
                outputs.append(net(source.plain(row_N[part])).double().cpu())

    micro.attempts(work)
    return scaler.grams(torch.cat(outputs).numpy())
