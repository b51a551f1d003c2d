"""The process of one slot. Light to import: the broker hands the class on, and its process loads the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestration.workers.jobs import Job, Outcome

if TYPE_CHECKING:
    from orchestration.workers.context import WorkerContext


class SignOfLife:
    """A `should_stop` that also reports life: whatever looks at it between epochs and batches is not hanging."""

    def __init__(self, is_stopped: Callable[[], bool], report: Callable[[], object], seconds: float | None) -> None:
        """seconds: between two reports, so that a look costs nothing; None never reports."""
        self._is_stopped, self._report, self._seconds = is_stopped, report, seconds
        self._next = 0.0

    def __call__(self) -> bool:
        if self._seconds is not None and (now := time.monotonic()) >= self._next:
            self._next = now + self._seconds
            self._report()
        return self._is_stopped()


class SlotWorker:
    """One slot: a long-lived process with its CPUs or its share of a GPU. `run` works, the others answer at once."""

    def __init__(
        self, context: WorkerContext, threads: int, slot: int, broker: Any, life_seconds: float | None
    ) -> None:
        """life_seconds: between two signs of life; None where nobody waits for them."""
        import torch

        from orchestration.workers.runner import JobRunner

        logging.getLogger("timm").setLevel(logging.ERROR)
        if 0 < context.gpus < 1 and torch.cuda.is_available():  # Ray shares a GPU out, but not its memory
            torch.cuda.set_per_process_memory_fraction(context.gpus)
        self._threads, self._slot, self._broker, self._life_seconds = threads, slot, broker, life_seconds
        self._stopped: set[int] = set()
        self._job_lock = threading.Lock()

        def report(done: int, total: int) -> None:
            broker.note_progress.remote(slot, done, total)

        self._runner = JobRunner(context, on_progress=report)

    def ready(self) -> bool:
        return True

    def run(self, job: Job, number: int) -> Outcome:
        """number: under which the broker stops this job. Whatever it raises ends this worker: another takes the job."""
        import torch

        def report() -> None:
            self._broker.note_life.remote(self._slot)

        with self._job_lock:
            torch.set_num_threads(self._threads)  # OpenMP's count belongs to the calling thread
            return self._runner.run(job, SignOfLife(lambda: number in self._stopped, report, self._life_seconds))

    def stop(self, number: int) -> None:
        """A running job stops at its next epoch or batch; one that is on its way here never begins."""
        self._stopped.add(number)
