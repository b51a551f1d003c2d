"""Configurations per hour, side by side with the peer (peer_tune.py), and where the product's time goes.

    python tests/benchmarks/bench_speed.py FOLDER [--configs 40] [--repeats 3] [--images 357]

Same machine, same photographs (2000 x 1000 px, as the competition's), same folds, same list of configurations, 2 slots;
product and peer take turns. The product starts from an empty study and an empty cache each time. The peer's epochs are
all alike: PEER_EPOCHS of each fold of two configurations are measured in each run, the rest of its 50 is extrapolated,
and its start-up is not counted. Scores are compared at PEER_EPOCHS epochs, configuration by configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import assign_folds
from biomass_models.data.table import read_train
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.pasture.make import make_pasture
from orchestration.search.start import run_search
from orchestration.study.ledger import Ledger
from orchestration.study.seeds import derive_seed
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources
from orchestration.workers.weights_here import available_backbones
from search_spaces.domain import Choice, LogUniform, SearchSpace, Uniform

BACKBONE, SLOTS, FOLDS, EPOCHS = "tf_efficientnet_lite0", 2, 5, 50
PEER_EPOCHS = 2


def configurations(count: int) -> list[BaselineConfig]:
    """Frozen heads at 224 px that differ in what a search would vary."""
    rng = np.random.default_rng(0)
    twin = BaselineConfig(backbone=BACKBONE, size=224, trained_blocks=0, head_lr=3e-4, epochs=EPOCHS)
    return [
        replace(twin, head_lr=float(10 ** rng.uniform(-4, -2.5)), dropout=float(rng.uniform(0, 0.6)))
        for _ in range(count)
    ]


def product(folder: Path, data_dir: Path, configs: list[BaselineConfig]) -> dict[str, Any]:
    """A whole search over the list, cache and study made anew."""
    study, cache = folder / "product", folder / "cache"
    for path in (study, cache):
        shutil.rmtree(path, ignore_errors=True)
    fingerprints = available_backbones((BACKBONE,), WeightsSource(kind="auto"), print)
    (backbone,) = fingerprints
    varied = ("head_lr", "dropout", "backbone")
    listed = [{**asdict(config), "backbone": backbone} for config in configs]
    space = SearchSpace(
        family="baseline",
        config_class=BaselineConfig,
        domains={"head_lr": LogUniform(1e-5, 1e-1), "dropout": Uniform(0.0, 0.9), "backbone": Choice((backbone,))},
        fixed={name: value for name, value in listed[0].items() if name not in varied},
        first_trials=tuple({name: config[name] for name in varied} for config in listed),
    )
    started = time.time()
    run_search(
        str(study),
        data_dir,
        StudySettings(families=("baseline",), backbones=(backbone,)),
        weights=WeightsSource(kind="auto"),
        fingerprints=fingerprints,
        resources=Resources(cache=cache, slots=SLOTS),
        max_trials=len(configs),
        hours=None,
        say=lambda text: None,
        prune="off",
        spaces={"baseline": space},
    )
    ended = time.time()
    ledger = Ledger(Storage(study))
    trials, results = ledger.trials(), ledger.results()
    found = [ledger.fold_metrics(trial.trial_id, fold) for trial in trials for fold in range(FOLDS)]
    folds = [metrics for metrics in found if metrics is not None]
    first, last = (pick(getattr(m, name) for m in folds) for pick, name in ((min, "started_at"), (max, "finished_at")))
    return {
        "seconds": ended - started,
        "scores": {configs[trial.number].head_lr: results[trial.trial_id].score for trial in trials},
        "memory_mb": max(metrics.peak_memory_mb for metrics in folds),
        "cache_mb": sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e6,
        "before": first - started,
        "features": sum(metrics.seconds - metrics.info["seconds"] for metrics in folds) / SLOTS,
        "training": sum(metrics.info["seconds"] for metrics in folds) / SLOTS,
        "between": last - first - sum(metrics.seconds for metrics in folds) / SLOTS,
        "after": ended - last,
    }


def peer(folder: Path, data_dir: Path, table: Path, configs: list[BaselineConfig], **asked: Any) -> dict[str, Any]:
    """peer_tune.py in a process of its own."""
    listed, out = folder / "configs.json", folder / "peer.json"
    listed.write_text(json.dumps([asdict(config) for config in configs]))
    options = [f"--{name}={value}" for name, value in {"configs": listed, "out": out, "table": table, **asked}.items()]
    script = Path(__file__).with_name("peer_tune.py")
    subprocess.run([sys.executable, str(script), str(data_dir), *options], check=True, env=os.environ)
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=357)
    asked = parser.parse_args()
    folder, data_dir, table = asked.folder, asked.folder / "data", asked.folder / "folds.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    if not (data_dir / "train.csv").exists():
        make_pasture(data_dir, images=asked.images, test_images=1, seed=0, width=2000, height=1000)
    quadrats = read_train(data_dir)
    folds = assign_folds(quadrats, n_folds=FOLDS, seed=derive_seed(0, "folds"))  # as a search with seed 0 draws them
    quadrats.merge(folds, on="image_id").to_parquet(table)
    configs = configurations(asked.configs)
    ours, theirs = [], []
    for repeat in range(asked.repeats):
        ours.append(product(folder, data_dir, configs))
        print(f"product, run {repeat + 1}: {ours[-1]['seconds']:.0f} s", flush=True)
        pair = configs[SLOTS * repeat : SLOTS * (repeat + 1)]
        theirs.append(peer(folder, data_dir, table, pair, epochs=PEER_EPOCHS, folds=FOLDS, slots=SLOTS))
        print(f"peer, run {repeat + 1}: {statistics.median(theirs[-1]['epoch_seconds']):.2f} s an epoch", flush=True)
    compared = [replace(config, epochs=PEER_EPOCHS) for config in configs[: SLOTS * asked.repeats]]
    short = product(folder, data_dir, compared)["scores"]
    apart = [
        short[compared[SLOTS * repeat + int(number)].head_lr] - score
        for repeat, run in enumerate(theirs)
        for number, score in run["scores"].items()
    ]
    print(report(ours, theirs, apart, asked.configs))


def report(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], apart: list[float], configs: int) -> str:
    """The markdown tables; medians over runs, with the smallest and the largest."""

    def of(runs: list[dict[str, Any]], name: str) -> float:
        return statistics.median(run[name] for run in runs)

    epoch_R = [statistics.median(run["epoch_seconds"]) for run in theirs]
    rate_R = [3600 * configs / run["seconds"] for run in ours]
    peer_R = [3600 * SLOTS / (epoch * EPOCHS * FOLDS) for epoch in epoch_R]
    ratio_R = [own / other for own, other in zip(rate_R, peer_R, strict=True)]
    parts = ("before", "features", "training", "between", "after")
    memory, peer_memory, cache = of(ours, "memory_mb"), of(theirs, "memory_mb"), of(ours, "cache_mb")
    spread = f" ± {statistics.stdev(apart):.4f} (standard deviation)" if len(apart) > 1 else ""
    return "\n".join(
        (
            "",
            "| | configurations an hour | runs | peak memory of a worker | cache |",
            "|---|---|---|---|---|",
            f"| peer, from seconds an epoch: {_runs(epoch_R)} | {statistics.median(peer_R):.2f} | {_runs(peer_R)} "
            f"| {peer_memory:.0f} MB | none |",
            f"| product | {statistics.median(rate_R):.0f} | {_runs(rate_R)} | {memory:.0f} MB | {cache:.0f} MB |",
            f"| **ratio** | **{statistics.median(ratio_R):.0f} x** | {_runs(ratio_R)} | | |",
            "",
            f"Score, product minus peer, {len(apart)} configurations at {PEER_EPOCHS} epochs: "
            f"{statistics.mean(apart):+.4f}{spread}.",
            "",
            f"Seconds of the product's run ({configs} configurations, {SLOTS} slots; work of slots over their number):",
            "",
            "| to the first fold | filling the bank | training | Ray, search, ledger between folds | after the last |",
            "|---|---|---|---|---|",
            "| " + " | ".join(f"{of(ours, part):.1f}" for part in parts) + " |",
        )
    )


def _runs(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


if __name__ == "__main__":
    main()
