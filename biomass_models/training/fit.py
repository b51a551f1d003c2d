"""The training loop and what every family's fit returns. No ray, no files.

A fit sees the rows of its fold's training side only; `row_N` and `fold_N` index the rows of the quadrats table.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biomass_models.backbones.devices import MicroBatch, precision
from biomass_models.errors import UserError
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.targets import TARGETS, FloatArray, IntArray, weighted_r2_score, weighted_sst

Terms = dict[str, Tensor]  # of a loss, by name


class FitError(UserError):
    """A fit that cannot succeed: loss that is not finite, folds without rows."""


@dataclass(frozen=True)
class FoldResult:
    """One fold of one trial."""

    row_N: IntArray  # validation rows of the quadrats table
    pred_NT: FloatArray  # grams, [len(row_N), 5], all >= 0
    tensors: dict[str, Tensor]  # trained tensors only; with the config enough to predict
    epochs: list[dict[str, float]]  # one entry an epoch
    info: dict[str, Any] = field(default_factory=dict)  # JSON-able facts for the record
    maps: pd.DataFrame | None = None  # where the model looked (maps.MAP_COLUMNS), of the validation rows


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast; rates of the parameter groups fall from their own peak to min_lr along a cosine."""

    epochs: int
    batch_size: int
    min_lr: float
    clip_norm: float
    ema_decay: float


@dataclass(frozen=True)
class FoldRows:
    """Which rows of a table of N quadrats train and which are held out."""

    train_M: IntArray  # rows of the table
    valid_M: IntArray
    image_N: IntArray  # row of the image set, for each row of the table
    mass_NT: FloatArray  # grams

    @classmethod
    def of(cls, quadrats: pd.DataFrame, fold_N: NDArray[Any], fold: int, image_N: IntArray) -> FoldRows:
        """FitError if either side of the fold is empty."""
        return cls(*split_rows(fold_N, fold), image_N, quadrats[list(TARGETS)].to_numpy(np.float64))

    @property
    def train_mass_MT(self) -> FloatArray:
        return self.mass_NT[self.train_M]

    @property
    def held_out_mass_NT(self) -> FloatArray:
        return self.mass_NT[self.valid_M]

    @property
    def held_out_images(self) -> IntArray:
        """Rows of the image set."""
        return self.image_N[self.valid_M]


def split_rows(fold_N: NDArray[Any], fold: int) -> tuple[IntArray, IntArray]:
    """Training and validation rows of a fold; FitError if either side is empty."""
    held_out = np.asarray(fold_N) == fold
    if held_out.all() or not held_out.any():
        raise FitError(f"fold {fold} needs rows on both sides, got {held_out.sum()} of {len(held_out)} held out")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def seed_for(seed: int, purpose: str) -> int:
    """A seed with an address: independent streams for initial weights, order, augmentation, dropout."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=7).digest())


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator of its own for one purpose."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))


@contextmanager
def seeded(seed: int, purpose: str, device: torch.device) -> Iterator[None]:
    """Layers that draw from torch's global generators (initial weights, dropout) draw from this seed inside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_for(seed, purpose))
        yield


def cosine_lr(step: int, steps: int, peak: float, floor: float) -> float:
    """Learning rate of step 0 .. steps - 1: `peak` at the first, just above `floor` at the last."""
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Ema:
    """Moving average of parameters and buffers; the first steps weigh more, or the start would linger."""

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.live = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
        self.mean = [tensor.clone() for tensor in self.live]

    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        for mean, live in zip(self.mean, self.live, strict=True):
            mean.lerp_(live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the modules hold the averages (nothing happens when the average is off, decay 0)."""
        if self.decay == 0:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for mean, live in zip(self.mean, self.live, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)


def train_epochs(
    module: nn.Module,
    trained: Sequence[Tensor],
    groups: list[dict[str, Any]],
    rows: int,
    schedule: Schedule,
    loss_of: Callable[[Tensor], Terms],
    after_epoch: Callable[[dict[str, float], bool], None],
    *,
    device: torch.device,
    seed: int,
    should_stop: ShouldStop | None,
    last_resort: Callable[[], bool] = lambda: False,
) -> MicroBatch:
    """AdamW over `rows` training rows; returns the micro-batch that fitted into memory.

    trained                     live parameters and buffers that training changes, for their moving average
    loss_of(index_B)            terms of the mean loss of the training rows with these positions; their sum is
                                minimised, and each is in the records as "loss/<name>"
    last_resort()               see MicroBatch
    after_epoch(record, last)   called with the EMA's weights in place; may add to the record
    Raises FitError for a loss that is not finite, StopRequested.
    """
    optimiser = torch.optim.AdamW(groups, fused=True)
    peaks = [group["lr"] for group in optimiser.param_groups]
    trainable = [tensor for group in optimiser.param_groups for tensor in group["params"]]
    scaler = torch.amp.GradScaler(device.type, enabled=precision(device) is torch.float16)
    ema = Ema(trained if schedule.ema_decay > 0 else (), schedule.ema_decay)
    order = generator_for(seed, "order")
    micro = MicroBatch(schedule.batch_size, last_resort)
    steps_an_epoch = math.ceil(rows / schedule.batch_size)
    steps = steps_an_epoch * schedule.epochs

    def accumulate(index_B: Tensor, sums: Terms) -> None:
        of_batch: Terms = {}

        def work() -> None:
            optimiser.zero_grad(set_to_none=True)
            of_batch.clear()
            for part in micro.slices(len(index_B)):
                rows_in = part.stop - part.start
                terms = loss_of(index_B[part])
                scaler.scale(torch.stack(list(terms.values())).sum() * (rows_in / len(index_B))).backward()
                for name, term in terms.items():
                    of_batch[name] = of_batch.get(name, 0) + term.detach() * rows_in

        micro.attempts(work)
        for name, total in of_batch.items():
            sums[name] = sums.get(name, 0) + total

    for epoch in range(schedule.epochs):
        start = time.perf_counter()
        module.train()
        sums: Terms = {}
        for place, index_B in enumerate(torch.randperm(rows, generator=order).split(schedule.batch_size)):
            check_stop(should_stop, f"{epoch} of {schedule.epochs} epochs")
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = cosine_lr(epoch * steps_an_epoch + place, steps, peak, schedule.min_lr)
            accumulate(index_B, sums)
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(trainable, schedule.clip_norm)
            scaler.step(optimiser)
            scaler.update()
            if schedule.ema_decay > 0:
                ema.update()
        terms = {f"loss/{name}": float(total) / rows for name, total in sums.items()}
        loss_value = sum(terms.values())
        if not math.isfinite(loss_value):
            raise FitError(
                f"the loss must stay finite, got {loss_value} in epoch {epoch + 1} of {schedule.epochs}; "
                "choose lower learning rates or a smaller clip_norm"
            )
        record = {"epoch": float(epoch + 1), "loss": loss_value, "lr": optimiser.param_groups[-1]["lr"], **terms}
        module.eval()
        with ema.applied():
            last = epoch + 1 == schedule.epochs
            record["seconds"] = time.perf_counter() - start
            after_epoch(record, last)
    return micro


def score_or_nan(truth_NT: FloatArray, pred_NT: FloatArray) -> float:
    """The metric on one fold's rows; NaN where a tiny fold has no spread, so that a log never fails a fit."""
    if weighted_sst(truth_NT) <= 0:
        return math.nan
    return weighted_r2_score(truth_NT, pred_NT)


def as_tensors(arrays: dict[str, FloatArray]) -> dict[str, Tensor]:
    """float64 arrays -> tensors that safetensors stores."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def as_arrays(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, FloatArray]:
    """Inverse of `as_tensors`, for the tensors whose names begin with `prefix`."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items() if name.startswith(prefix)}
