"""4 of 12 blocks trained: seconds an epoch with the frozen blocks' output cached, against the peer's way.

    python tests/benchmarks/bench_prefix.py FOLDER

ViT-S/14 with random weights (the time is the same), 224 px, one core, 48 photographs of 2000 x 1000 px, epochs of 38
images. The peer (peer_tune.fit_fold) decodes every epoch and runs all 12 blocks forward. Of 12 forward and 2 x 4
backward block passes, 12 remain: 1.67 x is what the frozen share allows, decoding comes on top.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from peer_tune import fit_fold

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import assign_folds
from biomass_models.data.table import read_train
from biomass_models.families.baseline import model as baseline
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.pasture.make import make_pasture

CONFIG = BaselineConfig(
    backbone="vit_small_patch14_dinov2", size=224, trained_blocks=4, batch_size=16, epochs=2, flips=1,
    colour_jitter=0.0, blur=0.0, head_lr=1e-4, backbone_lr=1e-5, prefix_bank="float16",
)  # fmt: skip
RANDOM = WeightsSource(kind="random")
REPEATS, ALLOWED = 3, 20 / 12  # block passes: 12 forward and 8 backward become 4 and 8


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if not (folder / "data" / "train.csv").exists():
        make_pasture(folder / "data", images=48, test_images=1, seed=0, width=2000, height=1000)
    quadrats = read_train(folder / "data")
    quadrats = quadrats.merge(assign_folds(quadrats), on="image_id")
    inputs = Inputs(ImageSet.from_table(folder / "data", quadrats), cache_dir=folder / "cache", weights=RANDOM)
    fold_N = quadrats["fold"].to_numpy()
    started = time.perf_counter()
    baseline.fit(replace(CONFIG, epochs=1), quadrats, fold_N, 0, inputs, seed=0)
    print(f"cache filled and one epoch: {time.perf_counter() - started:.1f} s")
    ways: dict[str, list[float]] = {"peer": [], "all blocks": [], "trained blocks on the cache": []}
    for _ in range(REPEATS):
        ways["peer"] += fit_fold(CONFIG, quadrats, 0, folder / "data", 0, RANDOM)["epoch_seconds"]
        for way, bank in (("all blocks", "none"), ("trained blocks on the cache", "float16")):
            fitted = baseline.fit(replace(CONFIG, prefix_bank=bank), quadrats, fold_N, 0, inputs, seed=0)
            ways[way] += [record["seconds"] for record in fitted.epochs]
    peer, whole, tail = (statistics.median(seconds) for seconds in ways.values())
    held = int((fold_N == 0).sum()) / int((fold_N != 0).sum())
    for way, seconds in ways.items():
        print(f"{way}: {statistics.median(seconds):.2f} s an epoch ({min(seconds):.2f} to {max(seconds):.2f})")
    gain = whole / tail
    print(f"The cache makes an epoch {gain:.2f} x as fast: {gain / ALLOWED:.0%} of what the frozen share allows.")
    print(
        f"Against the peer, who also decodes and predicts {held:.0%} held-out pictures each epoch: {peer / tail:.2f} x."
    )


if __name__ == "__main__":
    main()
