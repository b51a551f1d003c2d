"""Fold work on slots: a broker that leases slots in priority order, and one warm worker process per slot.

Coordinators hand in jobs and wait. The broker holds no state that matters: what is finished is in the ledger, and a
job that was lost is handed in again by the next run.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError

from orchestration.worker import FoldRunner, WorkerContext

# Smaller goes first (DESIGN): what a dead worker left, then folds of trials that are under way, then new trials.
RETRY, UNDER_WAY, PILOT, PREDICT = 0, 1, 2, 1
MAX_ATTEMPTS = 3
GROWTH_SECONDS = 5.0

Job = dict[str, Any]
Outcome = dict[str, Any]


class Pool(Protocol):
    """Runs jobs and yields (job, outcome) as they end, in any order."""

    def run(self, jobs: list[Job], priority: int) -> Iterator[tuple[Job, Outcome]]: ...

    def drop(self, trial_id: str) -> None:
        """Forget the queued jobs of a trial and ask its running ones to stop."""


class InlinePool:
    """The same work in this process, without Ray: for unit tests and debugging."""

    def __init__(self, context: WorkerContext) -> None:
        self._runner = FoldRunner(context)
        self._dropped: set[str] = set()

    def run(self, jobs: list[Job], priority: int) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            dropped = job["trial_id"] in self._dropped
            yield job, {"status": "stopped"} if dropped else self._runner.run(job)

    def drop(self, trial_id: str) -> None:
        self._dropped.add(trial_id)


class RayPool:
    """Hands jobs to the broker actor from any process of the cluster."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    def run(self, jobs: list[Job], priority: int) -> Iterator[tuple[Job, Outcome]]:
        waiting = {self._broker.run.remote(job, priority): job for job in jobs}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(ready[0]), ray.get(ready[0])

    def drop(self, trial_id: str) -> None:
        ray.get(self._broker.drop.remote(trial_id))


class FoldWorker:
    """One slot: a long-lived process with its CPUs or its share of a GPU. `run` works, the others answer at once."""

    def __init__(self, context: WorkerContext, threads: int, slot: int, broker: Any) -> None:
        logging.getLogger("timm").setLevel(logging.ERROR)
        self._threads, self._stop = threads, threading.Event()
        self._job_lock = threading.Lock()

        def report(done: int, total: int) -> None:
            broker.note_progress.remote(slot, done, total)

        self._runner = FoldRunner(context, on_progress=report)

    def ready(self) -> bool:
        return True

    def run(self, job: Job) -> Outcome:
        import torch

        with self._job_lock:
            torch.set_num_threads(self._threads)  # OpenMP's count belongs to the calling thread
            self._stop.clear()
            return self._runner.run(job, self._stop.is_set)

    def stop(self) -> None:
        self._stop.set()


class Broker:
    """Leases slots to jobs in priority order, replaces dead workers, and grows with the cluster."""

    def __init__(self, context: WorkerContext, cpus: float, gpus: float, max_slots: int | None) -> None:
        self._context, self._cpus, self._gpus, self._max_slots = context, cpus, gpus, max_slots
        self._queue: asyncio.PriorityQueue[tuple[int, int, Job, asyncio.Future[Outcome], int]] = asyncio.PriorityQueue()
        self._order = 0
        self._dropped: set[str] = set()
        self._running: dict[int, tuple[Job, Any]] = {}
        self._progress: dict[int, tuple[int, int]] = {}
        self._done = self._workers_lost = 0
        self._slots: list[asyncio.Task[None]] = []
        self._grower: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Begin leasing; returns how many slots there are now."""
        self._me = ray.get_runtime_context().current_actor
        self._add_slots()
        self._grower = asyncio.create_task(self._grow())
        return len(self._slots)

    async def run(self, job: Job, priority: int) -> Outcome:
        """Queue one job and wait for its outcome."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._put(priority, job, future, attempt=1)
        return await future

    async def drop(self, trial_id: str) -> None:
        self._dropped.add(trial_id)
        for job, worker in self._running.values():
            if job["trial_id"] == trial_id:
                worker.stop.remote()

    async def note_progress(self, slot: int, done: int, total: int) -> None:
        self._progress[slot] = (done, total)

    async def status(self) -> dict[str, Any]:
        """Counts for the progress display: slots, running and queued jobs, jobs done, images being encoded."""
        # workers share one bank's images: the one that is furthest knows most
        encoding = max((self._progress[slot] for slot in self._running if slot in self._progress), default=(0, 0))
        return {
            "slots": len(self._slots),
            "running": len(self._running),
            "queued": self._queue.qsize(),
            "done": self._done,
            "workers_lost": self._workers_lost,
            "encoding": encoding,
        }

    def _put(self, priority: int, job: Job, future: asyncio.Future[Outcome], attempt: int) -> None:
        self._order += 1
        self._queue.put_nowait((priority, self._order, job, future, attempt))

    def _add_slots(self) -> None:
        total = ray.cluster_resources()
        by_gpu = total.get("GPU", 0) / self._gpus if self._gpus else float("inf")
        wanted = max(1, int(min(by_gpu, total.get("CPU", 0) / self._cpus if self._cpus else float("inf"))))
        wanted = min(wanted, self._max_slots or wanted)
        for slot in range(len(self._slots), wanted):
            self._slots.append(asyncio.create_task(self._lease(slot)))

    async def _grow(self) -> None:
        while True:
            await asyncio.sleep(GROWTH_SECONDS)
            self._add_slots()

    async def _new_worker(self, slot: int) -> Any:
        threads = max(1, int(self._cpus))
        # beside the job, a call that stops it or asks whether the worker is there must get through
        slot_actor = ray.remote(FoldWorker).options(num_cpus=self._cpus, num_gpus=self._gpus, max_concurrency=4)
        while True:
            worker: Any = slot_actor.remote(self._context, threads, slot, self._me)
            try:
                await worker.ready.remote()
                return worker
            except RayActorError:
                self._workers_lost += 1
                await asyncio.sleep(1.0)

    async def _lease(self, slot: int) -> None:
        worker = await self._new_worker(slot)
        while True:
            _, _, job, future, attempt = await self._queue.get()
            if job["trial_id"] in self._dropped:
                future.set_result({"status": "stopped"})
                continue
            self._running[slot] = (job, worker)
            self._progress.pop(slot, None)
            try:
                outcome = await worker.run.remote(job)
            except RayActorError as error:
                self._workers_lost += 1
                if attempt < MAX_ATTEMPTS:
                    self._put(RETRY, job, future, attempt + 1)
                else:
                    reason = f"its worker died {attempt} times: {str(error).splitlines()[0]}"
                    future.set_result({"status": "failed", "reason": reason})
                worker = await self._new_worker(slot)
                continue
            finally:
                self._running.pop(slot, None)
            self._done += outcome["status"] == "done"
            future.set_result(outcome)
