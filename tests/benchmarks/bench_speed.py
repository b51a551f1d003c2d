"""Trials per hour, side by side with the peer (peer_tune.py), and where the time goes.

    python tests/benchmarks/bench_speed.py FOLDER [--configs 40] [--repeats 3] [--images 357]

Same machine, same photographs, same folds, same list of configurations, 2 slots, everything from a cold cache. The
peer's epochs are all alike: two are measured in each of three runs, the rest is extrapolated. Prints a markdown table.
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

from biomass_models.configs import BaselineConfig, baseline_twin
from biomass_models.folds import assign_folds
from biomass_models.pasture import make_pasture
from biomass_models.table import read_train
from biomass_models.weights import WeightsSource
from orchestration.ledger import Ledger
from orchestration.search import Resources, available_backbones, run_search
from orchestration.storage import Storage
from orchestration.study import StudySettings
from search_spaces.domain import Choice, LogUniform, SearchSpace, Uniform

BACKBONE, SLOTS, FOLDS, EPOCHS = "tf_efficientnet_lite0", 2, 5, 50
PEER_EPOCHS = 2


def configurations(count: int) -> list[BaselineConfig]:
    """Frozen heads at 224 px that differ in what a search would vary."""
    rng = np.random.default_rng(0)
    twin = replace(baseline_twin(BACKBONE), epochs=EPOCHS)
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
    fixed = asdict(configs[0]) | {"backbone": backbone}
    space = SearchSpace(
        family="baseline",
        config_class=BaselineConfig,
        domains={"head_lr": LogUniform(1e-5, 1e-1), "dropout": Uniform(0.0, 0.9), "backbone": Choice((backbone,))},
        fixed={name: value for name, value in fixed.items() if name not in ("head_lr", "dropout", "backbone")},
        first_trials=tuple({"head_lr": c.head_lr, "dropout": c.dropout, "backbone": backbone} for c in configs),
    )
    started = time.time()
    run_search(
        str(study),
        data_dir,
        StudySettings(families=("baseline",), backbones=(backbone,)),
        weights=WeightsSource(kind="auto"),
        fingerprints=fingerprints,
        resources=Resources(cache_dir=cache, max_slots=SLOTS),
        max_trials=len(configs),
        hours=None,
        say=print,
        spaces={"baseline": space},
    )
    seconds = time.time() - started
    ledger = Ledger(Storage(study))
    results = ledger.results().values()
    folds = [m for t in ledger.trials() for fold in range(FOLDS) if (m := ledger.fold_metrics(t.trial_id, fold))]
    first = min(start["started_at"] for t in ledger.trials() for start in ledger.fold_starts(t.trial_id, 0))
    trained = sum(metrics["info"]["seconds"] for metrics in folds)
    heads = [metrics for metrics in folds if metrics["started_at"] > first + 60]
    return {
        "seconds": seconds,
        "scores": [result["score"] for result in results],
        "memory_mb": max(metrics["peak_memory_mb"] for metrics in folds),
        "cache_mb": sum(path.stat().st_size for path in cache.rglob("*.npy")) / 1e6,
        "to_first_fold": first - started,
        "trained": trained,
        "heads": len(heads),
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
        make_pasture(data_dir, images=asked.images, test_images=1, seed=0, width=1000, height=500)
    quadrats = read_train(data_dir)
    quadrats = quadrats.merge(assign_folds(quadrats, n_folds=FOLDS), on="image_id")
    quadrats.to_parquet(table)
    configs = configurations(asked.configs)
    ours = [product(folder, data_dir, configs) for _ in range(asked.repeats)]
    theirs = [
        peer(folder, data_dir, table, configs[:SLOTS], epochs=PEER_EPOCHS, folds=1, slots=SLOTS)
        for _ in range(asked.repeats)
    ]
    epoch = statistics.median(second for run in theirs for second in run["epoch_seconds"])
    seconds = statistics.median(run["seconds"] for run in ours)
    per_hour = 3600 * asked.configs / seconds
    peer_per_hour = 3600 * SLOTS / (epoch * EPOCHS * FOLDS)
    print(f"peer: {epoch:.1f} s an epoch, {peer_per_hour:.3f} configurations an hour (extrapolated)")
    print(f"product: {seconds:.0f} s for {asked.configs}, {per_hour:.0f} an hour, {per_hour / peer_per_hour:.0f} x")
    print(
        f"runs: {[round(run['seconds']) for run in ours]}; memory {ours[0]['memory_mb']:.0f} MB a worker, peer "
        f"{theirs[0]['memory_mb']:.0f} MB; cache {ours[0]['cache_mb']:.0f} MB; "
        f"first fold after {ours[0]['to_first_fold']:.0f} s; training itself {ours[0]['trained']:.0f} s of slots"
    )


if __name__ == "__main__":
    main()
