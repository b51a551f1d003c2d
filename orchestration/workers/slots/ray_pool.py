"""The pool on Ray: its broker is started here, and jobs are handed to it from any process of the cluster.

Light to import: coordinators need no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray

from biomass_models.counted import counted
from orchestration.study.settings import StudyError
from orchestration.workers.address import is_cluster
from orchestration.workers.cluster import ON_HEAD, slot_limit
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import Outcome
from orchestration.workers.pool import AnyJob, Pool, Priority
from orchestration.workers.pulse import Pulse
from orchestration.workers.resources import Resources
from orchestration.workers.slots.actor import SlotWorker
from orchestration.workers.slots.broker import Broker
from orchestration.workers.slots.leases import Slots, gpus_of_a_slot, slots_of


def start_broker(context: WorkerContext, resources: Resources, worker_class: type = SlotWorker) -> tuple[Any, int]:
    """The broker actor and how many slots it has now. Raises StudyError when the machine can hold none."""
    gpus = gpus_of_a_slot(resources)
    slots = Slots(
        cpus=resources.cpus_per_fold,
        gpus=gpus,
        most=slot_limit(resources.slots, resources.cpus_per_fold, resources.address),
        grows=is_cluster(resources.address),
        fold_timeout=resources.fold_timeout,
    )
    has = ray.cluster_resources()
    if not slots.grows and slots_of(ray.nodes(), slots) < 1:
        raise StudyError(
            f"a slot needs {counted(slots.cpus, 'CPU')} and {counted(slots.gpus, 'GPU')}, this machine has "
            f"{has.get('CPU', 0):g} and "
            f"{has.get('GPU', 0):g}; lower --cpus-per-fold or --gpus-per-fold"
        )
    # A waiting job holds a call open. On the head: a worker node may leave at any time, and must not take the broker.
    actor = ray.remote(Broker).options(num_cpus=0, max_concurrency=100_000, resources=ON_HEAD)
    broker: Any = actor.remote(context.of_slot(resources, gpus), slots, worker_class)
    return broker, ray.get(broker.start.remote())


class RayPool:
    """Hands jobs to the broker actor from any process of the cluster."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]:
        waiting = {self._broker.run.remote(job, priority): job for job in jobs}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(ready[0]), ray.get(ready[0])

    def drop(self, attempt: str) -> None:
        ray.get(self._broker.drop.remote(attempt))


class GuardedPool:
    """A pool whose jobs are not waited for any more when Ray has died."""

    def __init__(self, pool: Pool, pulse: Pulse) -> None:
        self._pool, self._pulse = pool, pulse

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]:
        ended = self._pool.run(jobs, priority)
        while (pair := self._pulse.guard(lambda: next(ended, None))) is not None:
            yield pair

    def drop(self, attempt: str) -> None:
        self._pool.drop(attempt)
