"""A pool of one slot, which is this process: no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from biomass_models.backbones.devices import pick_device, threads
from biomass_models.interrupt import OnProgress
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import Outcome
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
            dropped = job.attempt in self._dropped
            yield job, Outcome(status="stopped") if dropped else self._runner.run(job)

    def drop(self, attempt: str) -> None:
        self._dropped.add(attempt)


@contextmanager
def inline_slot(
    context: WorkerContext, resources: Resources, on_progress: OnProgress | None = None
) -> Iterator[InlinePool]:
    """The pool that this process is, with the threads of a slot and the GPU where there is one."""
    gpus = resources.gpus_per_fold
    gpus = float(pick_device("auto").type == "cuda") if gpus is None else gpus
    with threads(max(1, int(resources.cpus_per_fold))):
        yield InlinePool(context.of_slot(resources, gpus), on_progress)
