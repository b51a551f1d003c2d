"""What random folds promise and what they keep: the same models under random and date folds, and on other dates.

    python tests/benchmarks/bench_folds.py FOLDER [--seeds 3]

Generated pastures, `tf_efficientnet_lite0` at 224 px, frozen: a ridge probe and the baseline's twin, five folds. The
true score is that of the five folds' mean prediction on 120 test images of dates that training never saw. Weighted R2,
mean over pastures ± their standard deviation. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import assign_folds
from biomass_models.data.table import read_masses, read_test, read_train
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.families.registry import model
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS, weighted_r2_score

BACKBONE, WEIGHTS = "tf_efficientnet_lite0", WeightsSource(kind="auto")
MODELS: dict[str, Any] = {
    "probe": ProbeConfig(backbone=BACKBONE, layout="halves", view_merge="mean", pooling="mean+std", transform="sqrt"),
    "baseline": BaselineConfig(backbone=BACKBONE, size=224, trained_blocks=0, head_lr=3e-4),
}


def scores(family: str, scheme: str, data_dir: Path, truth: Path, cache: Path, seed: int) -> tuple[float, float]:
    """Out-of-fold and true score of one model under one scheme."""
    quadrats, test, measured = read_train(data_dir), read_test(data_dir), read_masses(truth)
    quadrats = quadrats.merge(assign_folds(quadrats, scheme=scheme, seed=seed), on="image_id")
    own = Inputs(ImageSet.from_table(data_dir, quadrats), cache_dir=cache, weights=WEIGHTS)
    unseen = Inputs(ImageSet.from_table(data_dir, test), cache_dir=cache, weights=WEIGHTS)
    fold_N, truth_NT = quadrats["fold"].to_numpy(), quadrats[list(TARGETS)].to_numpy()
    oof_NT, test_FNT = np.empty_like(truth_NT), []
    for fold in np.unique(fold_N):
        result = model(family).fit(MODELS[family], quadrats, fold_N, fold, own, seed=seed)
        oof_NT[result.row_N] = result.pred_NT
        test_FNT.append(model(family).predict(MODELS[family], result.tensors, unseen))
    true_NT = measured.loc[list(unseen.images.image_ids), list(TARGETS)].to_numpy()
    return weighted_r2_score(truth_NT, oof_NT), weighted_r2_score(true_NT, np.mean(test_FNT, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in range(asked.seeds):
        data_dir, truth = asked.folder / f"data-{seed}", asked.folder / f"truth-{seed}.csv"
        if not truth.exists():
            make_pasture(data_dir, truth_path=truth, seed=seed)
        for family in MODELS:
            for scheme in ("random", "date"):
                pair = scores(family, scheme, data_dir, truth, asked.folder / "cache", seed)
                found.setdefault((family, scheme), []).append(pair)
        print(f"pasture {seed}: { {key: tuple(round(x, 3) for x in pairs[-1]) for key, pairs in found.items()} }")
    print("\n| model | folds | out of fold | true, other dates | promised too much |\n|---|---|---|---|---|")
    for (family, scheme), pairs in found.items():
        parts = ([oof for oof, _ in pairs], [true for _, true in pairs], [oof - true for oof, true in pairs])
        cells = (f"{statistics.mean(part):.3f} ± {statistics.stdev(part):.3f}" for part in parts)
        print(f"| {family} | {scheme} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
