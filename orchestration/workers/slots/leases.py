"""What a pool may lease: how many slots the nodes hold, what one of them has, and how busy they were."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray

from orchestration.workers.resources import Resources

LIFE_SECONDS = 5.0  # between two signs of life, or a quarter of the timeout


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What a pool may lease, and how patient it is."""

    cpus: float  # of one slot
    gpus: float  # of one slot: 1, a fraction, or 0
    most: int | None = None  # use at most so many slots
    grows: bool = False  # ask the cluster for more slots while jobs queue; an autoscaler sees the demand
    fold_timeout: float | None = None  # seconds without a sign of life after which a job's worker counts as hanging

    @property
    def life_seconds(self) -> float | None:
        """Between two signs of life of a worker; None where no timeout waits for them."""
        return None if self.fold_timeout is None else min(LIFE_SECONDS, self.fold_timeout / 4)


def slots_of(nodes: list[dict[str, Any]], slots: Slots) -> int:
    """How many slots the nodes that are alive can hold together; a slot never spans two nodes, nor a share two GPUs."""
    count = 0
    for node in nodes:
        has = node["Resources"] if node["Alive"] else {}
        by_cpu = has.get("CPU", 0.0) / slots.cpus if slots.cpus else float("inf")
        by_gpu = has.get("GPU", 0.0) / slots.gpus if slots.gpus else float("inf")
        if 0 < slots.gpus < 1:
            by_gpu = int(has.get("GPU", 0.0)) * int(1 / slots.gpus + 1e-9)
        count += int(min(by_cpu, by_gpu) + 1e-9)
    return count


def gpus_of_a_slot(resources: Resources) -> float:
    """As asked for, else one where Ray has any; needs Ray."""
    if resources.gpus_per_fold is not None:
        return resources.gpus_per_fold
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


class BusyShare:
    """Share of the slots' time in which they worked, between the first job and the last change."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._running = self._slots = 0
        self._busy_seconds = self._slot_seconds = 0.0

    def note(self, running: int, slots: int) -> None:
        """The numbers that hold from now on."""
        now = time.monotonic()
        if self._since is not None:
            self._busy_seconds += self._running * (now - self._since)
            self._slot_seconds += self._slots * (now - self._since)
        if running or self._since is not None:
            self._since = now
        self._running, self._slots = running, slots

    def share(self) -> float | None:
        self.note(self._running, self._slots)
        return self._busy_seconds / self._slot_seconds if self._slot_seconds else None
