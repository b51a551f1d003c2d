"""When memory runs out: batches are halved, and two workers keep to their shares of one card."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from gpu_checks.records import Findings
from gpu_checks.searches import search
from gpu_checks.world import World, apart

from biomass_models.data.images import views_for
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.features.encoding import batch_size
from biomass_models.features.outputs import GLOBAL
from biomass_models.features.spec import FeatureSpec
from orchestration.study.records import FoldMetrics
from orchestration.workers.resources import Resources
from search_spaces.domain import LogUniform, SearchSpace

LEFT = 0.6  # of the memory that a fit took: what it gets the second time
SHARE_BYTES = 1.5 * 2**30  # of each of two workers
CLOSE = 10.0  # % of the mean mass


def out_of_memory(world: World, found: Findings) -> None:
    """A fit, and a bank, with less memory than their batches take: smaller ones at once, and the same result."""
    halved_fit(world, found)
    halved_bank(world, found)


def halved_fit(world: World, found: Findings) -> None:
    inputs, config = world.inputs("pixels"), world.large
    world.fit(replace(config, epochs=1), inputs)  # loads what stays
    world.card.forget()
    whole = world.fit(config, inputs)
    taken = world.card.peak()
    with world.card.limited(int(LEFT * taken)):
        less = world.fit(config, inputs)
    found.number("memory of a fit", "MiB", taken / 2**20)
    found.number("pictures at once, whole", "", whole.info["micro_batch"])
    micro = found.number(f"pictures at once in {LEFT:.0%} of the memory", "", less.info["micro_batch"])
    found.require(micro.median < config.batch_size, "less memory must halve the batch", less.info["micro_batch"])
    steps = config.epochs * math.ceil(whole.info["train_rows"] / config.batch_size)
    found.note(f"the optimiser made {steps} steps of {config.batch_size} pictures both times")
    away = found.number("from the whole batch", "% of a mass", apart(less.pred_NT, whole.pred_NT))
    found.require(away.median < CLOSE, f"a halved batch must lie within {CLOSE:g} % of the whole one", away.median)


def halved_bank(world: World, found: Findings) -> None:
    spec = FeatureSpec(backbone=world.backbone, views=views_for("whole", world.trained.size))
    world.card.forget()
    whole = world.inputs("whole").features(spec).stack(GLOBAL).numpy()
    taken = world.card.peak()
    inputs = world.inputs("halved")
    with world.card.limited(int(LEFT * taken)):
        less = inputs.features(spec).stack(GLOBAL).numpy()
    sizes = [json.loads(file.read_text())["batch"] for file in inputs.store.root.glob("*/bank.json")]
    found.number("encoded at once", "", min(sizes))
    usual = batch_size(spec.views, inputs.device)
    found.require(min(sizes) < usual, f"less memory must halve batches of {usual} that are encoded", sizes)
    away = found.number("features from the whole batch", "%", 100 * np.abs(less - whole).mean() / np.abs(whole).mean())
    found.require(away.median < CLOSE, f"features must lie within {CLOSE:g} % of those of whole batches", away.median)


def two_workers(world: World, found: Findings) -> None:
    """Two Ray workers on one card, each with a share that is too small for its batch."""
    share = math.ceil(1e4 * SHARE_BYTES / world.card.total()) / 1e4  # Ray's finest
    config = replace(world.large, batch_size=48, epochs=2)
    resources = Resources(gpus_per_fold=share, cpus_per_fold=0.5, slots=2, cache=world.folder / "cache" / "shared")
    metrics = search(world, "two-workers", resources, families=("baseline",), space=only(config))
    found.number("share of the card", "%", 100 * share)
    require_shares(found, metrics, share * world.card.total() / 2**20, config.batch_size)


def require_shares(found: Findings, metrics: Sequence[FoldMetrics], share_mb: float, batch: int) -> None:
    """What folds of two workers record when each has kept to its share; share_mb: MiB."""
    found.number("peak memory of a fold", "MiB", *(one.peak_gpu_memory_mb for one in metrics))
    found.number("pictures at once", "", *(one.info["micro_batch"] for one in metrics))
    most = max(one.peak_gpu_memory_mb for one in metrics)
    found.require(most <= share_mb, f"a worker keeps to {share_mb:.0f} MiB", f"{most:.0f} MiB")
    workers = {one.pid for one in metrics}
    found.require(len(workers) == 2, "two workers share the card", f"{len(workers)}")
    whole = [one.fold for one in metrics if one.info["micro_batch"] >= batch]
    found.require(not whole, f"batches of {batch} do not fit and are halved", f"whole ones in the folds {whole}")


def only(config: BaselineConfig) -> SearchSpace:
    """A space whose first trial is this configuration."""
    values: dict[str, Any] = asdict(config)
    rate = values.pop("head_lr")
    return SearchSpace(
        family="baseline",
        config_class=BaselineConfig,
        domains={"head_lr": LogUniform(rate / 10, rate * 10)},
        fixed=values,
        first_trials=({"head_lr": rate},),
    )
