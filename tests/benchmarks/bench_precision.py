"""What half precision does to scores: the same fits on features and prefixes computed or kept in fewer bits.

    python tests/benchmarks/bench_precision.py FOLDER [--seeds 3] [--images 357]

Generated pastures with `tf_efficientnet_lite0` at 224 px, folds by date. Frozen: a probe and the baseline's twin on
features computed in float32 and, where this machine has it, in bfloat16. Partly frozen: the last block trained for a
few epochs on prefixes computed in float32 and kept as float32 or float16. Weighted R2 of the pooled out-of-fold rows;
the difference is paired, by pasture. Prints a markdown table; a machine without native bfloat16 says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biomass_models.backbones.adapter import build_backbone
from biomass_models.backbones.devices import ENCODING, autocast, encoding_precision, pick_device
from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import assign_folds
from biomass_models.data.table import read_train
from biomass_models.families import registry
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS, weighted_r2_score

BACKBONE = "tf_efficientnet_lite0"
PROBE = ProbeConfig(backbone=BACKBONE, size=224, flips=8)
TWIN = BaselineConfig(backbone=BACKBONE, size=224, trained_blocks=0, head_lr=3e-4)
TAIL = replace(
    BaselineConfig(), backbone=BACKBONE, size=224, trained_blocks=1, epochs=6, flips=2, head_lr=1e-3, backbone_lr=1e-4,
    prefix_bank="float32",
)  # fmt: skip


def score(family: str, config: Any, data_dir: Path, cache: Path, seed: int) -> float:
    """Weighted R2 of the pooled out-of-fold rows of one configuration."""
    quadrats = read_train(data_dir)
    quadrats = quadrats.merge(assign_folds(quadrats, seed=seed), on="image_id")
    inputs = Inputs(ImageSet.from_table(data_dir, quadrats), cache_dir=cache, weights=WeightsSource(kind="auto"))
    fold_N, truth_NT = quadrats["fold"].to_numpy(), quadrats[list(TARGETS)].to_numpy()
    pred_NT = np.empty_like(truth_NT)
    for fold in np.unique(fold_N):
        result = registry.model(family).fit(config, quadrats, fold_N, fold, inputs, seed=seed)
        pred_NT[result.row_N] = result.pred_NT
    return weighted_r2_score(truth_NT, pred_NT)


def in_float32(family: str, config: Any, *where: Any) -> float:
    os.environ[ENCODING] = "float32"
    try:
        return score(family, config, *where)
    finally:
        del os.environ[ENCODING]


def encoding_ms(backbone: str, source: WeightsSource, half: torch.dtype, device: torch.device) -> float:
    """Milliseconds of a frozen pass of one picture of 224 px, in batches of 8; the best of five."""
    model, pictures = build_backbone(backbone, source).eval().to(device), torch.rand(8, 3, 224, 224, device=device)
    best = float("inf")
    with torch.inference_mode(), autocast(device, half):
        for _ in range(6):
            started = time.perf_counter()
            model(pictures).global_BD.sum().item()
            best = min(best, time.perf_counter() - started)
    return best / len(pictures) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=357)
    asked = parser.parse_args()
    device = pick_device("auto")
    half = encoding_precision(device)
    torch.set_num_threads(1)
    for name, source in ((BACKBONE, "auto"), ("vit_small_patch14_dinov2", "random")):
        whole, fewer = (encoding_ms(name, WeightsSource(kind=source), kind, device) for kind in (torch.float32, half))
        print(
            f"{name}: {whole:.1f} ms a picture in float32, {fewer:.1f} ms in {half} ({whole / fewer:.1f} x)", flush=True
        )
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in range(asked.seeds):
        data_dir = asked.folder / f"data-{seed}"
        if not (data_dir / "train.csv").exists():
            make_pasture(data_dir, images=asked.images, test_images=1, seed=seed)
        where = (data_dir, asked.folder / "cache", seed)
        if half is not torch.float32:
            for family, config in (("probe", PROBE), ("baseline", TWIN)):
                pair = in_float32(family, config, *where), score(family, config, *where)
                rows.setdefault(f"{family}, frozen: computed in {half}".replace("torch.", ""), []).append(pair)
        pair = (
            in_float32("baseline", TAIL, *where),
            in_float32("baseline", replace(TAIL, prefix_bank="float16"), *where),
        )
        rows.setdefault("baseline, 1 block trained: prefixes kept as float16", []).append(pair)
        print(f"pasture {seed}: {[(name, pairs[-1]) for name, pairs in rows.items()]}", flush=True)
    if half is torch.float32:
        print("This machine has no native half precision: features are computed in float32.")
    print("\n| | float32 | half | half minus float32 |\n|---|---|---|---|")
    for name, pairs in rows.items():
        whole, fewer = (statistics.mean(values) for values in zip(*pairs, strict=True))
        apart = ", ".join(f"{b - a:+.4f}" for a, b in pairs)
        print(f"| {name} | {whole:.4f} | {fewer:.4f} | {apart} |")


if __name__ == "__main__":
    main()
