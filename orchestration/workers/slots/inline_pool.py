"""A pool of one slot, which is this process: no Ray."""

from __future__ import annotations

from collections.abc import Iterator

from biomass_models.interrupt import OnProgress
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import Outcome
from orchestration.workers.pool import AnyJob, Priority
from orchestration.workers.runner import FoldRunner


class InlinePool:
    """Does each job at once, in the order in which they are handed in."""

    def __init__(self, context: WorkerContext, on_progress: OnProgress | None = None) -> None:
        """on_progress: of photographs that are encoded."""
        self._runner = FoldRunner(context, on_progress)
        self._dropped: set[str] = set()

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]:
        for job in jobs:
            dropped = job.attempt in self._dropped
            yield job, Outcome(status="stopped") if dropped else self._runner.run(job)

    def drop(self, attempt: str) -> None:
        self._dropped.add(attempt)
