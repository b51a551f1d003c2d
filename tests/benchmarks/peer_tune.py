"""The peer: what people write today. Ray Tune + OptunaSearch, each trial loops over its folds, a DataLoader reads the
JPEGs every epoch, the whole backbone runs forward on every step.

Fair to it: reused actors, one thread a worker, DataLoader workers where there are cores for them, inference mode for
what is frozen, the project's own network, loss, scaler, folds and configurations, so that scores are comparable.

    python tests/benchmarks/peer_tune.py DATA --table T.parquet --configs C.json --epochs N --folds K --out RESULT.json
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from biomass_models.backbones.adapter import Backbone, build_backbone, parameter_groups, weightless
from biomass_models.backbones.weights import WeightsSource
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.baseline.model import head_of
from biomass_models.targets import TARGETS, weighted_r2_score
from biomass_models.training.loop import cosine_lr
from biomass_models.training.losses import weighted_mse_loss
from biomass_models.training.scaling import TargetScaler


class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """Decoded anew each time: resize, a random turn and mirror where it trains."""

    def __init__(self, paths: list[Path], goal_NT: np.ndarray, size: int, train: bool) -> None:
        self.paths, self.goal, self.size, self.train = paths, torch.from_numpy(goal_NT).float(), size, train

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.paths[row]) as picture:
            small = picture.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        image = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255
        if self.train:
            turn = int(torch.randint(8, ()))
            image = torch.rot90(image, turn % 4, (1, 2))
            image = image.flip(2) if turn >= 4 else image
        return image, self.goal[row]


def fit_fold(
    config: BaselineConfig, table: pd.DataFrame, fold: int, data_dir: Path, workers: int, weights: WeightsSource
) -> dict[str, Any]:
    """One fold as a notebook does it; seconds of each epoch beside the predictions."""
    torch.manual_seed(fold)
    held = (table["fold"] == fold).to_numpy()
    mass_NT = table[list(TARGETS)].to_numpy(np.float64)
    paths = np.array([data_dir / path for path in table["image_path"]])
    scaler = TargetScaler.fit(mass_NT[~held], config.transform)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = build_backbone(config.backbone, weights).to(device)
    backbone.train_last(config.trained_blocks)
    height, width, _ = backbone.fit_size(config.size, config.size)
    head = head_of(config, weightless(config.backbone).widths(height, width)[0]).to(device)
    optimiser = torch.optim.AdamW(
        parameter_groups(
            backbone, head, backbone_lr=config.backbone_lr, head_lr=config.head_lr, weight_decay=config.weight_decay
        ),
        fused=True,
    )
    peaks = [group["lr"] for group in optimiser.param_groups]
    goal_NT = scaler.scale(mass_NT)
    common: dict[str, Any] = {
        "batch_size": config.batch_size,
        "num_workers": workers,
        "persistent_workers": workers > 0,
    }
    train = DataLoader(Photographs(list(paths[~held]), goal_NT[~held], config.size, True), shuffle=True, **common)
    valid = DataLoader(Photographs(list(paths[held]), goal_NT[held], config.size, False), **common)
    steps, epochs = len(train) * config.epochs, []
    pred_NT = np.empty((int(held.sum()), len(TARGETS)))
    for epoch in range(config.epochs):
        started = time.perf_counter()
        backbone.train()
        head.train()
        for place, (image, goal) in enumerate(train):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = cosine_lr(epoch * len(train) + place, steps, peak, config.min_lr)
            optimiser.zero_grad(set_to_none=True)
            output = head(features(backbone, image.to(device), config))
            weighted_mse_loss(output, goal.to(device)).backward()
            torch.nn.utils.clip_grad_norm_([*backbone.parameters(), *head.parameters()], config.clip_norm)
            optimiser.step()
        backbone.eval()
        head.eval()
        with torch.inference_mode():
            outputs = [head(backbone(image.to(device)).global_BD).double().cpu() for image, _ in valid]
        pred_NT = scaler.grams(torch.cat(outputs).numpy())
        epochs.append(time.perf_counter() - started)
    return {"held": np.flatnonzero(held).tolist(), "pred": pred_NT.tolist(), "epoch_seconds": epochs}


def features(backbone: Backbone, image: Tensor, config: BaselineConfig) -> Tensor:
    """The global vector; no graph is built where all blocks are frozen."""
    if config.trained_blocks > 0:
        return backbone(image).global_BD
    with torch.no_grad():
        return backbone(image).global_BD


def main() -> None:
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--table", type=Path, required=True, help="parquet: image_id, image_path, fold, targets")
    parser.add_argument("--configs", type=Path, required=True, help="JSON list of BaselineConfig fields")
    parser.add_argument("--epochs", type=int, required=True, help="instead of each configuration's own")
    parser.add_argument("--folds", type=int, required=True, help="of each trial, the first ones")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers of each slot")
    parser.add_argument("--weights", default="auto", help="auto, or random")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    configs = [
        replace(BaselineConfig(**fields), epochs=asked.epochs) for fields in json.loads(asked.configs.read_text())
    ]
    table, data_dir = pd.read_parquet(asked.table), asked.data.resolve()

    def trial(given: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        config = configs[given["number"]]
        folds = [
            fit_fold(config, table, fold, data_dir, asked.workers, WeightsSource(asked.weights))
            for fold in range(asked.folds)
        ]
        held = np.concatenate([fold["held"] for fold in folds])
        truth_NT = table[list(TARGETS)].to_numpy()[held]
        score = weighted_r2_score(truth_NT, np.concatenate([fold["pred"] for fold in folds]))
        seconds = [s for fold in folds for s in fold["epoch_seconds"]]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        tune.report({"number": given["number"], "score": score, "epoch_seconds": seconds, "memory_mb": memory})

    ray.init(address="local", num_cpus=asked.slots, include_dashboard=False, log_to_driver=False)
    search = OptunaSearch(
        {"number": optuna.distributions.CategoricalDistribution(range(len(configs)))},
        metric="score",
        mode="max",
        points_to_evaluate=[{"number": number} for number in range(len(configs))],
    )
    started = time.perf_counter()
    results: Any = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=len(configs), reuse_actors=True, max_concurrent_trials=asked.slots
        ),
        run_config=tune.RunConfig(storage_path=str(asked.out.parent.resolve()), name="peer", verbose=0),
    ).fit()
    measured = {
        "seconds": time.perf_counter() - started,
        "scores": {result.metrics["number"]: result.metrics["score"] for result in results},
        "memory_mb": max(result.metrics["memory_mb"] for result in results),
        "epoch_seconds": [s for result in results for s in result.metrics["epoch_seconds"]],
    }
    asked.out.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
