"""Epochs of AdamW: one loop for a network, and for many heads side by side (many_heads)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from biomass_models.backbones.devices import MicroBatch, precision
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.training.fit import FitError, generator_for

Terms = dict[str, Tensor]  # of a loss, by name
Records = list[dict[str, float]]  # of an epoch, one for each model
Batch = TypeVar("Batch")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast; rates of the parameter groups fall from their own peak to min_lr along a cosine."""

    epochs: int
    batch_size: int
    min_lr: float
    clip_norm: float
    ema_decay: float


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


def run_epochs(
    optimiser: torch.optim.Optimizer,
    averaged: Sequence[Tensor],
    schedule: Schedule,
    steps_an_epoch: int,
    *,
    batches: Callable[[], Iterable[Batch]],
    step: Callable[[Batch], None],
    losses: Callable[[], Sequence[Mapping[str, float]]],
    after_epoch: Callable[[Records, bool], None],
    should_stop: ShouldStop | None,
) -> None:
    """Epochs of an optimiser, whose groups' rates fall from where they are to schedule.min_lr along a cosine.

    averaged                     live tensors of which a moving average is kept
    batches()                    of the next epoch, steps_an_epoch of them
    step(batch)                  gradients, clipping and the optimiser's step
    losses()                     the epoch's mean terms by name, for each model that the optimiser trains
    after_epoch(records, last)   called with the averages in place; may add to the records, one for each model
    Raises FitError for a loss that is not finite, StopRequested.
    """
    peaks = [group["lr"] for group in optimiser.param_groups]
    ema = Ema(averaged if schedule.ema_decay > 0 else (), schedule.ema_decay)
    steps = steps_an_epoch * schedule.epochs
    for epoch in range(schedule.epochs):
        start = time.perf_counter()
        for place, batch in enumerate(batches()):
            check_stop(should_stop, f"{epoch} of {schedule.epochs} epochs")
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = cosine_lr(epoch * steps_an_epoch + place, steps, peak, schedule.min_lr)
            step(batch)
            if schedule.ema_decay > 0:
                ema.update()
        ended, rate = losses(), optimiser.param_groups[-1]["lr"]
        seconds = (time.perf_counter() - start) / len(ended)
        records = [
            {"epoch": epoch + 1.0, "loss": sum(terms.values()), "lr": rate}
            | {f"loss/{name}": value for name, value in terms.items()}
            | {"seconds": seconds}
            for terms in ended
        ]
        for record in records:
            if not math.isfinite(record["loss"]):
                raise FitError(
                    f"the loss must stay finite, got {record['loss']} in epoch {epoch + 1} of {schedule.epochs}; "
                    "choose lower learning rates or a smaller clip_norm"
                )
        with ema.applied():
            after_epoch(records, epoch + 1 == schedule.epochs)


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
    trainable = [tensor for group in optimiser.param_groups for tensor in group["params"]]
    scaler = torch.amp.GradScaler(device.type, enabled=precision(device) is torch.float16)
    order = generator_for(seed, "order")
    micro = MicroBatch(schedule.batch_size, last_resort)
    sums: Terms = {}

    def batches() -> Iterable[Tensor]:
        module.train()
        sums.clear()
        return torch.randperm(rows, generator=order).split(schedule.batch_size)

    def step(index_B: Tensor) -> None:
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
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(trainable, schedule.clip_norm)
        scaler.step(optimiser)
        scaler.update()

    def ended(records: Records, last: bool) -> None:
        module.eval()
        after_epoch(records[0], last)

    run_epochs(
        optimiser,
        trained,
        schedule,
        math.ceil(rows / schedule.batch_size),
        batches=batches,
        step=step,
        losses=lambda: [{name: float(total) / rows for name, total in sums.items()}],
        after_epoch=ended,
        should_stop=should_stop,
    )
    return micro
