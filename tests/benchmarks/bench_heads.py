"""Folds of a head-only trial in one batch, against one fold: milliseconds an epoch on one core, and their ratio.

    python tests/benchmarks/bench_heads.py

286 training rows of 357, batch 32, head D-256-128-5; D as of ViT-S (384), ViT-B (768) and EfficientNet-lite0 (1280).
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from torch import nn

from biomass_models.backbones.adapter import parameter_groups
from biomass_models.families.baseline.model import BaselineNet
from biomass_models.training.fit import FoldRows
from biomass_models.training.heads import mlp_head
from biomass_models.training.loop import Schedule, train_epochs
from biomass_models.training.losses import weighted_mse_loss
from biomass_models.training.many_heads import HeadFold, train_heads
from biomass_models.training.sources import FeatureSource

IMAGES, FOLDS, REPEATS = 357, 5, 5
SCHEDULE = Schedule(epochs=20, batch_size=32, min_lr=1e-6, clip_norm=5.0, ema_decay=0.0)


def problem(features: int, folds: int) -> tuple[FeatureSource, list[HeadFold]]:
    rng, fold_N = np.random.default_rng(0), np.arange(IMAGES) % FOLDS
    parts = []
    for fold in range(folds):
        train, held = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        rows = FoldRows(train, held, np.arange(IMAGES), rng.random((IMAGES, 5)))
        parts.append(HeadFold(rows, fold, rng.standard_normal((len(train), 5))))
    return FeatureSource(torch.randn(IMAGES, 8, features)), parts


def one_fold(features: int) -> float:
    """Milliseconds an epoch as a fold alone is fitted (loop.train_epochs)."""
    source, (fold,) = problem(features, 1)
    net = BaselineNet(None, mlp_head(features, width=256, width_2=128, dropout=0.4))
    goal_MT, draws = torch.from_numpy(fold.goal_MT).float(), torch.Generator().manual_seed(0)

    def loss_of(index_B: torch.Tensor) -> dict[str, torch.Tensor]:
        output_BT = net(source.augmented(fold.rows.image_N[fold.rows.train_M[index_B.numpy()]], draws))
        return {"mse": weighted_mse_loss(output_BT, goal_MT[index_B])}

    groups = parameter_groups(nn.Identity(), net.head, backbone_lr=0.0, head_lr=3e-4, weight_decay=0.05)
    started = time.process_time()
    train_epochs(
        net, [], groups, len(fold.rows.train_M), SCHEDULE, loss_of, lambda *_: None,
        device=torch.device("cpu"), seed=0, should_stop=None,
    )  # fmt: skip
    return (time.process_time() - started) / SCHEDULE.epochs * 1e3


def together(features: int) -> float:
    """Milliseconds an epoch of five folds in one batch."""
    source, folds = problem(features, FOLDS)
    heads = [mlp_head(features, width=256, width_2=128, dropout=0.4) for _ in folds]
    started = time.process_time()
    train_heads(
        heads, source, folds, SCHEDULE, head_lr=3e-4, weight_decay=0.05, after_epoch=lambda *_: None, should_stop=None
    )
    return (time.process_time() - started) / SCHEDULE.epochs * 1e3


def main() -> None:
    torch.set_num_threads(1)
    print("| D | one fold alone | five in a batch | ratio |\n|---|---|---|---|")
    for features in (384, 768, 1280):
        one = statistics.median(one_fold(features) for _ in range(REPEATS))
        five = statistics.median(together(features) for _ in range(REPEATS))
        print(f"| {features} | {one:.1f} ms | {five:.1f} ms | {five / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
