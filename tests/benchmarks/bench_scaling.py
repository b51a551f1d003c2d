"""Seconds of one fold as images grow: 357, 3 570 and 35 700, on features that are there (repeated with noise).

    python tests/benchmarks/bench_scaling.py

Head of the frozen baseline (1280 features, 10 epochs), and ridge probe (13 penalties, 4 inner folds); one core.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import torch

from biomass_models.families.probe.config import ProbeConfig
from biomass_models.ridge.chosen import inner_errors
from biomass_models.ridge.solve import Ridge
from biomass_models.training.fit import FoldRows
from biomass_models.training.heads import mlp_head
from biomass_models.training.loop import Schedule
from biomass_models.training.many_heads import HeadFold, train_heads
from biomass_models.training.sources import FeatureSource

FEATURES, FOLDS, EPOCHS, DATES = 1280, 5, 10, 30


def head_seconds(images: int) -> float:
    rng, fold_N = np.random.default_rng(0), np.arange(images) % FOLDS
    source = FeatureSource(torch.randn(images, 1, FEATURES))
    train, held = np.flatnonzero(fold_N != 0), np.flatnonzero(fold_N == 0)
    rows = FoldRows(train, held, np.arange(images), rng.random((images, 5)))
    started = time.process_time()
    train_heads(
        [mlp_head(FEATURES, width=256, width_2=128, dropout=0.4)],
        source,
        [HeadFold(rows, 0, rng.standard_normal((len(train), 5)))],
        Schedule(epochs=EPOCHS, batch_size=32, min_lr=1e-6, clip_norm=5.0, ema_decay=0.0),
        head_lr=3e-4,
        weight_decay=0.05,
        after_epoch=lambda *_: None,
        should_stop=None,
    )
    return time.process_time() - started


def probe_seconds(images: int) -> float:
    rng = np.random.default_rng(0)
    feature_NF, mass_NT = rng.standard_normal((images, FEATURES)), rng.gamma(2, 20, (images, 5))
    group_N = np.array([f"date{row % DATES}" for row in range(images)], dtype=object)
    config = ProbeConfig(transform="sqrt")
    started = time.process_time()
    inner_errors(config, feature_NF, mass_NT, group_N, seed=0)
    Ridge.fit(feature_NF, np.sqrt(mass_NT), np.full(5, 0.01))
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    print("| images | head, 10 epochs | a row and epoch | ridge probe | peak memory |\n|---|---|---|---|---|")
    for images in (357, 3_570, 35_700):
        head, probe = head_seconds(images), probe_seconds(images * 4 // 5)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        a_row = head / EPOCHS / (images * 4 // 5) * 1e6
        print(f"| {images} | {head:.2f} s | {a_row:.0f} us | {probe:.1f} s | {memory:.1f} GB |", flush=True)


if __name__ == "__main__":
    main()
