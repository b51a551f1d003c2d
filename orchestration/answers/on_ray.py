"""Shards of photographs by a pool of actors, as a Ray Data pipeline: streaming, with back-pressure.

An actor opens the blend once and predicts one shard after the other; the driver takes the shards as they are done, and
keeps them (parts.py). A worker that dies is replaced, and its shard predicted again; a driver that dies goes on with
the parts that it has kept. Photographs must be reachable from every node under the same paths, the study or bundle too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import ray
import ray.data
import torch

from biomass_models.errors import UserError
from orchestration.answers.opened import BlendPlace, open_blend
from orchestration.answers.parts import part_bytes, part_of
from orchestration.answers.predict import Work
from orchestration.answers.shard import predict_shard
from orchestration.progress import Say
from orchestration.workers.cluster import ray_cluster
from orchestration.workers.ray_errors import innermost_cause
from orchestration.workers.resources import Resources

IN_FLIGHT = 2  # shards that an actor is given at once: one is worked on, one waits
FIRST, LAST, PATHS, PART = "first", "last", "paths", "part"


class ShardPredictor:
    """An actor of the pool."""

    def __init__(self, place: BlendPlace, cache: str, cache_gb: float | None, threads: int) -> None:
        torch.set_num_threads(threads)
        self._blend = open_blend(BlendPlace(*place))
        self._cache, self._cache_gb, self._threads = Path(cache).expanduser(), cache_gb, threads

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One shard a row."""
        torch.set_num_threads(self._threads)  # OpenMP's count belongs to the calling thread
        parts = [
            part_bytes(
                predict_shard(self._blend, list(map(os.fsdecode, paths)), cache=self._cache, cache_gb=self._cache_gb)
            )
            for paths in batch[PATHS]
        ]
        return {FIRST: batch[FIRST], LAST: batch[LAST], PART: parts}


def on_ray(place: BlendPlace, resources: Resources, *, threads: int, say: Say) -> Work:
    """On the cluster of `resources`, or on an embedded Ray that has this machine's cores."""

    def work(missing: list[tuple[tuple[int, int], list[str]]]) -> Iterable[tuple[tuple[int, int], pd.DataFrame]]:
        if not missing:
            return
        with ray_cluster(resources.address, say=say):
            yield from _streamed(place, resources, threads, missing)

    return work


def _streamed(
    place: BlendPlace, resources: Resources, threads: int, missing: list[tuple[tuple[int, int], list[str]]]
) -> Iterable[tuple[tuple[int, int], pd.DataFrame]]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    total = ray.cluster_resources()
    most = min(len(missing), max(1, int(total.get("CPU", 1) // threads)))
    gpus = resources.gpus_per_fold if resources.gpus_per_fold is not None else float(total.get("GPU", 0) >= 1)
    if gpus:
        most = min(most, max(1, int(total.get("GPU", 0) / gpus)))
    rows = [  # Arrow holds no name that is not UTF-8
        {FIRST: first, LAST: last, PATHS: [os.fsencode(path) for path in paths]} for (first, last), paths in missing
    ]
    shards = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ShardPredictor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=IN_FLIGHT),
        fn_constructor_args=(tuple(place), str(resources.cache), resources.cache_gb, threads),
        num_cpus=threads,
        num_gpus=gpus,
    )
    try:
        for row in shards.iter_rows():
            yield (int(row[FIRST]), int(row[LAST])), part_of(row[PART])
    except ray.exceptions.RayError as error:
        raise UserError(
            f"photographs are predicted by actors on Ray, got {innermost_cause(error)}; finished parts stay for the "
            "next run"
        ) from error
