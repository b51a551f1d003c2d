"""Fold work on slots: a broker that leases slots in priority order, and one warm worker process per slot.

Coordinators hand in jobs and wait. The broker holds no state that matters: what is finished is in the ledger, and a
job that was lost is handed in again by the next run. Light to import: coordinators need no torch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import ray
from ray.exceptions import RayError

from orchestration.jobs import Job, Outcome
from orchestration.records import SearchFacts

if TYPE_CHECKING:
    from orchestration.context import WorkerContext

Priority = tuple[int, float]  # smaller goes first
# DESIGN: what a dead worker left, then folds of trials that are under way (best first), then new trials.
RETRY: Priority = (0, 0.0)
UNDER_WAY: Priority = (1, 0.0)
PILOT: Priority = (2, 0.0)
PREDICT: Priority = (1, 0.0)
MAX_ATTEMPTS = 3
GROWTH_SECONDS = 2.0  # between two looks at what the cluster has
STOP_SECONDS = 5.0  # a worker that does not acknowledge a stop by then is left alone

AnyJob = TypeVar("AnyJob", bound=Job)


class Pool(Protocol):
    """Runs jobs and yields (job, outcome) as they end, in any order."""

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]: ...

    def drop(self, trial_id: str) -> None:
        """Forget the queued jobs of a trial and ask its running ones to stop; afterwards none of them starts."""


class InlinePool:
    """The same work in this process, without Ray: for unit tests and debugging."""

    def __init__(self, context: WorkerContext) -> None:
        from orchestration.worker import FoldRunner

        self._runner = FoldRunner(context)
        self._dropped: set[str] = set()

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]:
        for job in jobs:
            dropped = job.trial_id in self._dropped
            yield job, Outcome(status="stopped") if dropped else self._runner.run(job)

    def drop(self, trial_id: str) -> None:
        self._dropped.add(trial_id)


class RayPool:
    """Hands jobs to the broker actor from any process of the cluster."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]:
        waiting = {self._broker.run.remote(job, priority): job for job in jobs}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(ready[0]), ray.get(ready[0])

    def drop(self, trial_id: str) -> None:
        ray.get(self._broker.drop.remote(trial_id))


class FoldWorker:
    """One slot: a long-lived process with its CPUs or its share of a GPU. `run` works, the others answer at once."""

    def __init__(self, context: WorkerContext, threads: int, slot: int, broker: Any) -> None:
        import torch

        from orchestration.worker import FoldRunner

        logging.getLogger("timm").setLevel(logging.ERROR)
        if 0 < context.gpus < 1 and torch.cuda.is_available():  # Ray shares a GPU out, but not its memory
            torch.cuda.set_per_process_memory_fraction(context.gpus)
        self._threads = threads
        self._stopped: set[str] = set()
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
            return self._runner.run(job, lambda: job.trial_id in self._stopped)

    def stop(self, trial_id: str) -> None:
        """A trial's running job stops at its next epoch or batch; one that is on its way here never begins."""
        self._stopped.add(trial_id)


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What a pool may lease, and how patient it is."""

    cpus: float  # of one slot
    gpus: float  # of one slot: 1, a fraction, or 0
    most: int | None = None  # use at most so many slots
    grows: bool = False  # ask the cluster for more slots while jobs queue; an autoscaler sees the demand
    timeout: float | None = None  # seconds without a sign of life after which a job's worker counts as hanging


def slots_of(nodes: list[dict[str, Any]], slots: Slots) -> int:
    """How many slots the nodes that are alive can hold together; a slot never spans two nodes."""
    count = 0
    for node in nodes:
        has = node["Resources"] if node["Alive"] else {}
        by_cpu = has.get("CPU", 0.0) / slots.cpus if slots.cpus else float("inf")
        by_gpu = has.get("GPU", 0.0) / slots.gpus if slots.gpus else float("inf")
        count += int(min(by_cpu, by_gpu) + 1e-9)
    return count


class Broker:
    """Leases slots to jobs in priority order, replaces dead and hanging workers, and grows with the cluster."""

    def __init__(self, context: WorkerContext, slots: Slots, worker_class: type = FoldWorker) -> None:
        self._context, self._rules, self._worker_class = context, slots, worker_class
        self._queue: asyncio.PriorityQueue[tuple[Priority, int, Job, asyncio.Future[Outcome], int]]
        self._queue = asyncio.PriorityQueue()
        self._order = self._next_slot = 0
        self._dropped: set[str] = set()
        self._closed = False
        self._running: dict[int, tuple[Job, Any]] = {}
        self._progress: dict[int, tuple[int, int]] = {}
        self._alive_at: dict[int, float] = {}  # last sign of life of a slot's job
        self._done = self._workers_lost = 0
        self._leases: dict[int, asyncio.Task[None]] = {}
        self._ready: set[int] = set()
        self._busy = _Busy()

    async def start(self) -> int:
        """Begin leasing; returns how many slots the cluster has now."""
        self._me = ray.get_runtime_context().current_actor
        self._adjust()
        self._grower = asyncio.create_task(self._grow())
        have = slots_of(ray.nodes(), self._rules)
        return min(have, self._rules.most or have)

    async def run(self, job: Job, priority: Priority) -> Outcome:
        """Queue one job and wait for its outcome."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._put(priority, job, future, attempt=1)
        return await future

    async def drop(self, trial_id: str) -> None:
        """Forget a trial's queued jobs; returns when the workers of its running ones know that they must stop."""
        self._dropped.add(trial_id)
        await self._stop([pair for pair in self._running.values() if pair[0].trial_id == trial_id])

    async def close(self) -> None:
        """Stop all that runs and start nothing more: every job ends as "stopped", its trial stays open."""
        self._closed = True
        await self._stop(list(self._running.values()))

    async def note_progress(self, slot: int, done: int, total: int) -> None:
        self._progress[slot] = (done, total)
        self._alive_at[slot] = time.monotonic()

    async def status(self) -> SearchFacts:
        """Counts for the progress display: slots, jobs running, queued and done, busy share, images being encoded."""
        # workers share one bank's images: the one that is furthest knows most
        encoding = max((self._progress[slot] for slot in self._running if slot in self._progress), default=(0, 0))
        return SearchFacts(
            slots=len(self._ready),
            slots_pending=len(self._leases) - len(self._ready),
            running=len(self._running),
            queued=self._queue.qsize(),
            done=self._done,
            busy=self._busy.share(),
            workers_lost=self._workers_lost,
            encoding=encoding,
        )

    def _put(self, priority: Priority, job: Job, future: asyncio.Future[Outcome], attempt: int) -> None:
        self._order += 1
        self._queue.put_nowait((priority, self._order, job, future, attempt))

    async def _stop(self, running: list[tuple[Job, Any]]) -> None:
        stops = [asyncio.wrap_future(worker.stop.remote(job.trial_id).future()) for job, worker in running]
        if stops:
            await asyncio.wait(stops, timeout=STOP_SECONDS)

    def _adjust(self) -> None:
        """As many leases as there are slots, and where the cluster can grow one more for each job that waits.

        A lease without a slot is an actor that Ray cannot place: the demand that an autoscaler sees. It ends with the
        driver, and takes up work as soon as a node joins.
        """
        wanted = slots_of(ray.nodes(), self._rules) + (self._queue.qsize() if self._rules.grows else 0)
        wanted = max(1, min(wanted, self._rules.most or wanted))
        for slot in sorted(set(self._leases) - self._ready, reverse=True):
            if len(self._leases) > wanted:
                self._leases.pop(slot).cancel()
        while len(self._leases) < wanted:
            self._next_slot += 1
            self._leases[self._next_slot] = asyncio.create_task(self._lease(self._next_slot))

    async def _grow(self) -> None:
        while True:
            await asyncio.sleep(GROWTH_SECONDS)
            self._adjust()

    async def _new_worker(self, slot: int) -> Any:
        threads = max(1, int(self._rules.cpus))
        # beside the job, a call that stops it or asks whether the worker is there must get through
        slot_actor: Any = ray.remote(self._worker_class).options(
            num_cpus=self._rules.cpus, num_gpus=self._rules.gpus, max_concurrency=4
        )
        while True:
            worker = slot_actor.remote(self._context, threads, slot, self._me)
            try:
                await worker.ready.remote()
                return worker
            except RayError:
                self._workers_lost += 1
                await asyncio.sleep(1.0)
            except asyncio.CancelledError:
                ray.kill(worker)
                raise

    async def _lease(self, slot: int) -> None:
        while True:
            worker = await self._new_worker(slot)
            self._ready.add(slot)
            self._busy.note(len(self._running), len(self._ready))
            while await self._serve(slot, worker, *(await self._queue.get())[2:]):
                pass
            ray.kill(worker)  # it is dead, out of reach or hanging: whichever, it must not hold the slot
            self._ready.discard(slot)
            self._busy.note(len(self._running), len(self._ready))

    async def _serve(self, slot: int, worker: Any, job: Job, future: asyncio.Future[Outcome], attempt: int) -> bool:
        """One job on a slot; False when the worker is lost."""
        if self._closed or job.trial_id in self._dropped:
            future.set_result(Outcome(status="stopped"))
            return True
        self._running[slot] = (job, worker)
        self._progress.pop(slot, None)
        self._alive_at[slot] = time.monotonic()
        self._busy.note(len(self._running), len(self._ready))
        try:
            outcome = await self._outcome(slot, worker, job)
        except RayError as error:
            self._workers_lost += 1
            if attempt < MAX_ATTEMPTS:
                self._put(RETRY, job, future, attempt + 1)
            else:
                reason = f"its worker died {attempt} times: {str(error).splitlines()[0]}"
                future.set_result(Outcome(status="failed", reason=reason))
            return False
        finally:
            self._running.pop(slot)
            self._busy.note(len(self._running), len(self._ready))
        if outcome is None:
            self._workers_lost += 1
            reason = f"no sign of life for {self._rules.timeout:.0f} s (--fold-timeout); its worker was ended"
            future.set_result(Outcome(status="failed", reason=reason))
            return False
        self._done += outcome.status == "done"
        future.set_result(outcome)
        return True

    async def _outcome(self, slot: int, worker: Any, job: Job) -> Outcome | None:
        """What the worker answers, or None when it hangs. A fold's features report progress and may take their time."""
        answer = asyncio.wrap_future(worker.run.remote(job).future())
        if self._rules.timeout is None:
            return await answer
        while (left := self._alive_at[slot] + self._rules.timeout - time.monotonic()) > 0:
            done, _ = await asyncio.wait([answer], timeout=left)
            if done:
                return answer.result()
        return None


class _Busy:
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
