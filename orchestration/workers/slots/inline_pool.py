"""A pool of one slot, which is this process: no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from biomass_models.backbones.devices import DeviceLostError, pick_device, threads
from biomass_models.interrupt import OnProgress
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import Job, Outcome
from orchestration.workers.pool import AnyJob, Priority
from orchestration.workers.resources import Resources
from orchestration.workers.runner import JobRunner


class InlinePool:
    """Does each job at once, in the order in which they are handed in."""

    def __init__(self, context: WorkerContext, on_progress: OnProgress | None = None) -> None:
        """on_progress: of photographs that are encoded."""
        self.context = context
        self._runner = JobRunner(context, on_progress)
        self._dropped: set[str] = set()

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]:
        for job in jobs:
            yield job, Outcome(status="stopped") if job.attempt in self._dropped else self._outcome(job)

    def drop(self, attempt: str) -> None:
        self._dropped.add(attempt)

    def _outcome(self, job: Job) -> Outcome:
        try:
            return self._runner.run(job)
        except DeviceLostError as error:  # on Ray another process takes the slot; here there is none
            return Outcome(status="blocked", reason=str(error))


@contextmanager
def inline_slot(
    context: WorkerContext, resources: Resources, on_progress: OnProgress | None = None
) -> Iterator[InlinePool]:
    """The pool that this process is, with the threads of a slot and the GPU where there is one."""
    gpus = resources.gpus_per_fold
    gpus = float(pick_device("auto").type == "cuda") if gpus is None else gpus
    with threads(max(1, int(resources.cpus_per_fold))):
        yield InlinePool(context.of_slot(resources, gpus), on_progress)
