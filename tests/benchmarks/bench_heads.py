"""Folds of a head-only trial in one batch, against one fold: milliseconds an epoch on one core, and their ratio.

    python tests/benchmarks/bench_heads.py

286 training rows of 357, batch 32, head D-256-128-5; D as of ViT-S (384), ViT-B (768) and EfficientNet-lite0 (1280).
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from biomass_models.fit import FoldRows, Schedule
from biomass_models.heads import mlp_head
from biomass_models.many_heads import HeadFold, train_heads
from biomass_models.sources import FeatureSource

IMAGES, FOLDS, EPOCHS, REPEATS = 357, 5, 20, 5


def milliseconds_an_epoch(features: int, folds: int) -> float:
    rng, fold_N = np.random.default_rng(0), np.arange(IMAGES) % FOLDS
    source = FeatureSource(torch.randn(IMAGES, 8, features))
    parts = []
    for fold in range(folds):
        train, held = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        rows = FoldRows(train, held, np.arange(IMAGES), rng.random((IMAGES, 5)))
        parts.append(HeadFold(rows, fold, rng.standard_normal((len(train), 5))))
    heads = [mlp_head(features, width=256, width_2=128, dropout=0.4) for _ in range(folds)]
    started = time.process_time()
    train_heads(
        heads,
        source,
        parts,
        Schedule(epochs=EPOCHS, batch_size=32, min_lr=1e-6, clip_norm=5.0, ema_decay=0.0),
        head_lr=3e-4,
        weight_decay=0.05,
        after_epoch=lambda *_: None,
        should_stop=None,
    )
    return (time.process_time() - started) / EPOCHS * 1e3


def main() -> None:
    torch.set_num_threads(1)
    print("| D | one fold | five in a batch | ratio |\n|---|---|---|---|")
    for features in (384, 768, 1280):
        one = statistics.median(milliseconds_an_epoch(features, 1) for _ in range(REPEATS))
        five = statistics.median(milliseconds_an_epoch(features, FOLDS) for _ in range(REPEATS))
        print(f"| {features} | {one:.1f} ms | {five:.1f} ms | {five / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
