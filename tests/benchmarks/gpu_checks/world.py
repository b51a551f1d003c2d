"""What the checks run on: a small drawn pasture, random weights, a device; sizes for a GPU or for a quick rehearsal."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from gpu_checks.drawn import FOLDS, data_of

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import assign_folds
from biomass_models.data.table import read_train
from biomass_models.families import registry
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.training.fit import FloatArray, FoldResult

RANDOM = WeightsSource(kind="random")
REPEATS = 3


class Card:
    """Memory of the GPU, as this process uses it."""

    def peak(self) -> int:
        """Most bytes that tensors took since `forget`."""
        return torch.cuda.max_memory_allocated()

    def forget(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def total(self) -> int:
        return torch.cuda.get_device_properties(0).total_memory

    @contextmanager
    def limited(self, limit: int) -> Iterator[None]:
        """Inside, this process gets no more than so many bytes."""
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(limit / self.total())
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


@dataclass(frozen=True)
class World:
    """One folder for all checks; each runs in a process of its own."""

    folder: Path
    device: str  # cuda or cpu
    tiny: bool = False  # a rehearsal: what it measures says nothing
    card: Card = field(default_factory=Card)

    @property
    def data(self) -> Path:
        return data_of(self.folder)

    @property
    def folds(self) -> int:
        return FOLDS[self.tiny]

    @cached_property
    def quadrats(self) -> pd.DataFrame:
        """The table, with folds by date."""
        table = read_train(self.data)
        return table.merge(assign_folds(table, n_folds=self.folds), on="image_id")

    def inputs(self, cache: str, *, compile: bool = False) -> Inputs:
        """cache: folder of the features, so that a check can have its own."""
        return Inputs(
            ImageSet.from_table(self.data, self.quadrats),
            cache_dir=self.folder / "cache" / cache,
            weights=RANDOM,
            device=self.device,
            compile=compile,
        )

    @property
    def backbone(self) -> str:
        return "test_vit.r160_in1k" if self.tiny else "vit_small_patch14_dinov2.lvd142m"

    @property
    def trained(self) -> BaselineConfig:
        """The last blocks train, and nothing is drawn at random: the way it is computed is all that differs."""
        return BaselineConfig(
            backbone=self.backbone,
            size=64 if self.tiny else 224,
            trained_blocks=2 if self.tiny else 4,
            batch_size=8 if self.tiny else 32,
            epochs=2 if self.tiny else 4,
            dropout=0.0,
            flips=1,
            colour_jitter=0.0,
            blur=0.0,
            head_lr=1e-3,
            backbone_lr=1e-4,
        )

    @property
    def large(self) -> BaselineConfig:
        """Pictures of which the activations, and not the weights, take the memory."""
        return replace(self.trained, size=96 if self.tiny else 448)

    @property
    def frozen(self) -> BaselineConfig:
        """Only the head trains, on cached features."""
        return replace(self.trained, trained_blocks=0, epochs=4 if self.tiny else 30)

    def fit(self, config: Any, inputs: Inputs, fold: int = 0, family: str = "baseline") -> FoldResult:
        fold_N = self.quadrats["fold"].to_numpy()
        return registry.model(family).fit(config, self.quadrats, fold_N, fold, inputs, seed=0)

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int = REPEATS) -> list[float]:
        """Of each repeat of some work that has been done once before."""
        work()
        found = []
        for _ in range(1 if self.tiny else repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - start)
        return found

    def compiler(self) -> AbstractContextManager[Any]:
        """Inside, torch.compile compiles; in a rehearsal it only traces, for compilers take minutes on a CPU."""
        return _tracing() if self.tiny else nullcontext()


@contextmanager
def _tracing() -> Iterator[None]:
    whole = torch.compile
    torch.compile = lambda module, **options: whole(module, **{**options, "backend": "aot_eager"})  # type: ignore
    try:
        yield
    finally:
        torch.compile = whole


def later_epochs(result: FoldResult) -> list[float]:
    """Seconds of all epochs but the first, which loads kernels."""
    return [record["seconds"] for record in result.epochs[1:]]


def apart(pred_NT: FloatArray, other_NT: FloatArray) -> float:
    """Mean distance of two predictions, in % of the mean mass."""
    return float(100 * np.abs(pred_NT - other_NT).mean() / np.abs(other_NT).mean())


def ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(slow) / statistics.median(fast)
