"""Fold work on slots: leases in priority order, one warm worker process per slot, and an end that nothing outwaits.

The broker holds no state that matters: what is finished is in the ledger, and a job that was lost is handed in again
by the next run. Light to import: it needs no torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from biomass_models.counted import counted
from orchestration.study.records import SearchFacts
from orchestration.workers.jobs import Job, Outcome
from orchestration.workers.pool import RETRY, Priority
from orchestration.workers.ray_errors import innermost_cause, where
from orchestration.workers.slots.actor import SlotWorker
from orchestration.workers.slots.leases import BusyShare, Slots, slots_of

if TYPE_CHECKING:
    from orchestration.workers.context import WorkerContext

MAX_ATTEMPTS = 3  # of a job whose worker dies
MAX_STARTS = 3  # failed ones in a row on each slot, then the pool gives up
START_SECONDS = 300.0  # for a worker to come up where nobody else takes the resources
START_PAUSES = (1.0, 60.0)  # seconds after a failed start; doubled each time, up to the second
GROWTH_SECONDS = 2.0  # between two looks at what the cluster has
STOP_SECONDS = 5.0  # a worker that does not acknowledge a stop by then is left alone
STOPPED = Outcome(status="stopped")


@dataclass(eq=False)
class _Entry:
    """A job that waits or runs, until its outcome is there."""

    number: int
    job: Job
    attempt: str  # at the trial, of the coordinator that waits for it now
    outcome: asyncio.Future[Outcome]
    tries: int = 0
    dropped: bool = False


def _work(job: Job) -> Job:
    """What a job does, whichever coordinator of its trial has handed it in."""
    return replace(job, attempt="")


class Broker:
    """Leases slots to jobs in priority order, replaces dead and hanging workers, and grows with the cluster."""

    def __init__(self, context: WorkerContext, slots: Slots, worker_class: type = SlotWorker) -> None:
        self._context, self._slots, self._worker_class = context, slots, worker_class
        self._queue: asyncio.PriorityQueue[tuple[Priority, int, _Entry]] = asyncio.PriorityQueue()
        self._entries: dict[int, _Entry] = {}  # by number; without an outcome as yet
        self._same: dict[Job, list[_Entry]] = {}  # the same by their work, whoever waits for it
        self._next_number = self._next_slot = 0
        self._dropped: set[str] = set()  # attempts
        self._ended: Outcome | None = None  # what every job gets from now on
        self._running: dict[int, tuple[_Entry, Any]] = {}  # by slot, with the worker
        self._progress: dict[int, tuple[int, int]] = {}
        self._alive_at: dict[int, float] = {}  # last sign of life of a slot's job
        self._done = self._workers_lost = 0
        self._have = 0  # slots that the cluster could hold when it was last looked at
        self._leases: dict[int, asyncio.Task[None]] = {}
        self._ready: set[int] = set()
        self._failed_starts: dict[int, int] = {}  # by slot, in a row since the last worker of any slot came up
        self._cannot_start: dict[int, str] = {}  # why, by slot
        self._busy = BusyShare()

    async def start(self) -> int:
        """Begin leasing; returns how many slots the cluster has now."""
        self._me = ray.get_runtime_context().current_actor
        self._adjust()
        self._grower = self._task(self._grow())
        return self._have

    async def run(self, job: Job, priority: Priority) -> Outcome:
        """Queue one job and wait for its outcome.

        What an earlier attempt at the trial has left queued or running is taken over: its coordinator is dead, and the
        work is the same.
        """
        if self._ended is not None:
            return self._ended
        if job.attempt in self._dropped:
            return STOPPED
        same = self._same.setdefault(_work(job), [])
        entry = next((one for one in same if not one.dropped and one.attempt != job.attempt), None)
        if entry is None:
            self._next_number += 1
            outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            entry = self._entries[self._next_number] = _Entry(self._next_number, job, job.attempt, outcome)
            same.append(entry)
            self._queue.put_nowait((priority, entry.number, entry))
        entry.attempt = job.attempt
        return await asyncio.shield(entry.outcome)  # a caller that dies takes no other one's answer along

    async def drop(self, attempt: str) -> None:
        """Forget an attempt's queued jobs; returns when the workers of its running ones know that they must stop."""
        self._dropped.add(attempt)
        dropped = [entry for entry in self._entries.values() if entry.attempt == attempt]
        for entry in dropped:
            entry.dropped = True
        self._answer_queued(dropped, STOPPED)
        await self._stop([pair for pair in self._running.values() if pair[0] in dropped])

    async def close(self) -> None:
        """Start nothing more and stop all that runs: every job ends as "stopped", its trial stays open.

        What waits is answered at once, what runs when it has stopped or STOP_SECONDS after it should have.
        """
        running = list(self._running.values())
        self._end(STOPPED)
        await self._stop(running)
        if running:
            await asyncio.wait([entry.outcome for entry, _ in running], timeout=STOP_SECONDS)
        for entry, _ in running:
            self._answer(entry, STOPPED)

    async def note_progress(self, slot: int, done: int, total: int) -> None:
        self._progress[slot] = (done, total)
        await self.note_life(slot)

    async def note_life(self, slot: int) -> None:
        self._alive_at[slot] = time.monotonic()

    async def status(self) -> SearchFacts:
        """Counts for the progress display: slots, jobs running, queued and done, busy share, images being encoded."""
        # workers share one bank's images: the one that is furthest knows most
        encoding = max((self._progress[slot] for slot in self._running if slot in self._progress), default=(0, 0))
        return SearchFacts(
            slots=len(self._ready),
            slots_pending=len(self._leases) - len(self._ready),
            running=len(self._running),
            queued=len(self._queued()),
            done=self._done,
            busy=self._busy.share(),
            workers_lost=self._workers_lost,
            encoding=encoding,
            cannot_start=len(self._cannot_start),
            start_failure=next(reversed(self._cannot_start.values()), None),
        )

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def _queued(self) -> list[_Entry]:
        running = {entry.number for entry, _ in self._running.values()}
        return [entry for number, entry in self._entries.items() if number not in running]

    def _answer(self, entry: _Entry, outcome: Outcome) -> None:
        if self._entries.pop(entry.number, None) is not None:
            same = self._same[_work(entry.job)]
            same.remove(entry)
            if not same:
                del self._same[_work(entry.job)]
        if not entry.outcome.done():
            entry.outcome.set_result(outcome)

    def _answer_queued(self, entries: Iterable[_Entry], outcome: Outcome) -> None:
        queued = set(self._queued())
        for entry in entries:
            if entry in queued:
                self._answer(entry, outcome)

    def _end(self, outcome: Outcome) -> None:
        """Answer all that waits, now and later; workers that are not there yet are not waited for."""
        if self._ended is not None:
            return
        self._ended = outcome
        self._answer_queued(list(self._entries.values()), outcome)
        for slot in set(self._leases) - self._ready:
            self._leases.pop(slot).cancel()

    async def _stop(self, running: list[tuple[_Entry, Any]]) -> None:
        stops = [asyncio.wrap_future(worker.stop.remote(entry.number).future()) for entry, worker in running]
        if stops:
            await asyncio.wait(stops, timeout=STOP_SECONDS)

    def _task(self, work: Any) -> asyncio.Task[None]:
        """A task whose unforeseen end ends the pool: jobs must not wait for what has stopped working."""

        def over(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._end(Outcome(status="blocked", reason=f"the pool of workers broke off: {innermost_cause(error)}"))

        task = asyncio.create_task(work)
        task.add_done_callback(over)
        return task

    # -- slots ---------------------------------------------------------------------------------------------------------

    def _adjust(self) -> None:
        """As many leases as there are slots, and where the cluster can grow one more for each job that waits.

        A lease without a slot is an actor that Ray cannot place: the demand that an autoscaler sees. It ends with the
        driver, and takes up work as soon as a node joins.
        """
        if self._ended is not None:
            return
        have = slots_of(ray.nodes(), self._slots)
        most = self._slots.most
        self._have = have if most is None else min(have, most)
        wanted = have + (len(self._queued()) if self._slots.grows else 0)
        wanted = max(1, wanted if most is None else min(wanted, most))
        for slot in sorted(set(self._leases) - self._ready, reverse=True):
            if len(self._leases) > wanted:
                self._leases.pop(slot).cancel()
                self._forget_failures(slot)
        while len(self._leases) < wanted:
            self._next_slot += 1
            self._leases[self._next_slot] = self._task(self._lease(self._next_slot))

    async def _grow(self) -> None:
        while True:
            await asyncio.sleep(GROWTH_SECONDS)
            with contextlib.suppress(RayError):  # the control store does not answer: the driver sees to that
                self._adjust()

    async def _new_worker(self, slot: int) -> Any:
        threads = max(1, int(self._slots.cpus))
        # beside the job, a call that stops it or asks whether the worker is there must get through
        slot_actor: Any = ray.remote(self._worker_class).options(
            num_cpus=self._slots.cpus, num_gpus=self._slots.gpus, max_concurrency=4
        )
        pause, longest = START_PAUSES
        while True:
            worker = slot_actor.remote(self._context, threads, slot, self._me, self._slots.life_seconds)
            try:
                # on a cluster a worker may wait for others' jobs or for a new node, as long as that takes
                patience = None if self._slots.grows else START_SECONDS
                await asyncio.wait_for(asyncio.wrap_future(worker.ready.remote().future()), patience)
                self._forget_failures(slot)
                self._failed_starts.clear()
                return worker
            except (RayError, TimeoutError) as error:
                ray.kill(worker)
                self._note_failed_start(slot, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
            except asyncio.CancelledError:
                ray.kill(worker)
                raise

    def _forget_failures(self, slot: int) -> None:
        self._failed_starts.pop(slot, None)
        self._cannot_start.pop(slot, None)

    def _note_failed_start(self, slot: int, error: BaseException) -> None:
        """One bad node beside good ones is only shown; where no slot comes up, the pool ends with the reason."""
        self._workers_lost += 1
        reason = innermost_cause(error)
        if isinstance(error, TimeoutError):
            reason = f"its process did not come up within {START_SECONDS:.0f} s"
        self._cannot_start.pop(slot, None)
        self._cannot_start[slot] = f"{reason} (on {node})" if (node := where(error)) else reason
        self._failed_starts[slot] = self._failed_starts.get(slot, 0) + 1
        # leases beyond the slots that are there wait for nodes to join
        needed = max(1, min(self._have, len(self._leases)))
        hopeless = sum(count >= MAX_STARTS for count in self._failed_starts.values())
        if not self._ready and hopeless >= needed:
            each = "" if needed == 1 else f" on each of {counted(needed, 'slot')}"
            reason = f"no worker can start, tried {MAX_STARTS} times{each}: {self._cannot_start[slot]}"
            self._end(Outcome(status="blocked", reason=f"{reason}; mend that (biomass doctor looks at every node)"))

    async def _lease(self, slot: int) -> None:
        while True:
            worker = await self._new_worker(slot)
            self._ready.add(slot)
            self._busy.note(len(self._running), len(self._ready))
            while (entry := await self._next(worker)) is not None and await self._serve(slot, worker, entry):
                pass
            ray.kill(worker)  # it is dead, out of reach or hanging: whichever, it must not hold the slot
            self._ready.discard(slot)
            self._busy.note(len(self._running), len(self._ready))

    async def _next(self, worker: Any) -> _Entry | None:
        """The first of the queue that still waits for its outcome; None when the worker is lost.

        An idle worker may have died unnoticed, with its node say. The job that finds out keeps its place and its tries.
        """
        while True:
            place = await self._queue.get()
            entry = place[2]
            if entry.number not in self._entries:
                continue
            if not await self._answers(worker):
                self._workers_lost += 1
                self._queue.put_nowait(place)
                return None
            if entry.number in self._entries:  # nobody has dropped it meanwhile
                return entry

    async def _answers(self, worker: Any) -> bool:
        """Whether a worker is there; one out of reach has as long as a job that gives no sign of life."""
        try:
            await asyncio.wait_for(asyncio.wrap_future(worker.ready.remote().future()), self._slots.fold_timeout)
        except (RayError, TimeoutError):
            return False
        return True

    async def _serve(self, slot: int, worker: Any, entry: _Entry) -> bool:
        """One job on a slot; False when the worker is lost."""
        self._running[slot] = (entry, worker)
        self._progress.pop(slot, None)
        self._alive_at[slot] = time.monotonic()
        self._busy.note(len(self._running), len(self._ready))
        entry.tries += 1
        try:
            outcome = await self._outcome(slot, worker, entry)
        except RayError as error:
            self._workers_lost += 1
            self._lost(entry, innermost_cause(error))
            return False
        finally:
            self._running.pop(slot)
            self._busy.note(len(self._running), len(self._ready))
        if outcome is None:
            self._workers_lost += 1
            if entry.dropped:
                self._answer(entry, STOPPED)
                return False
            reason = f"no sign of life for {self._slots.fold_timeout:.0f} s (--fold-timeout); its worker was ended"
            self._answer(entry, Outcome(status="failed", reason=reason))
            return False
        self._done += outcome.status == "done"
        self._answer(entry, outcome)
        return True

    def _lost(self, entry: _Entry, reason: str) -> None:
        """A job whose worker died: again on another slot, unless nobody waits for it any more."""
        if self._ended is not None or entry.dropped:
            self._answer(entry, self._ended or STOPPED)
        elif entry.tries >= MAX_ATTEMPTS:
            self._answer(entry, Outcome(status="failed", reason=f"its worker died {entry.tries} times: {reason}"))
        else:
            self._queue.put_nowait((RETRY, entry.number, entry))

    async def _outcome(self, slot: int, worker: Any, entry: _Entry) -> Outcome | None:
        """What the worker answers, or None when it hangs: epochs, batches and features are its signs of life."""
        answer: asyncio.Future[Outcome] = asyncio.wrap_future(worker.run.remote(entry.job, entry.number).future())
        if self._slots.fold_timeout is None:
            return await answer
        while (left := self._alive_at[slot] + self._slots.fold_timeout - time.monotonic()) > 0:
            done, _ = await asyncio.wait([answer], timeout=left)
            if done:
                return answer.result()
        return None
