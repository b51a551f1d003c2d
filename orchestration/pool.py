"""How coordinators and predictions hand in work: a pool of slots, on Ray or in this process.

Light to import: coordinators need no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import ray

from orchestration.jobs import Job, Outcome

if TYPE_CHECKING:
    from orchestration.context import WorkerContext

Priority = tuple[int, float]  # smaller goes first
# DESIGN: what a dead worker left, then folds of trials that are under way (best first), then new trials.
RETRY: Priority = (0, 0.0)
UNDER_WAY: Priority = (1, 0.0)
PILOT: Priority = (2, 0.0)
PREDICT: Priority = (1, 0.0)

AnyJob = TypeVar("AnyJob", bound=Job)


class Pool(Protocol):
    """Runs jobs and yields (job, outcome) as they end, in any order."""

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]: ...

    def drop(self, attempt: str) -> None:
        """Forget the queued jobs of an attempt at a trial and ask its running ones to stop; afterwards none starts.

        A later attempt at the same trial is not concerned.
        """


class InlinePool:
    """The same work in this process, without Ray: for unit tests and debugging."""

    def __init__(self, context: WorkerContext) -> None:
        from orchestration.worker import FoldRunner

        self._runner = FoldRunner(context)
        self._dropped: set[str] = set()

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]:
        for job in jobs:
            dropped = job.attempt in self._dropped
            yield job, Outcome(status="stopped") if dropped else self._runner.run(job)

    def drop(self, attempt: str) -> None:
        self._dropped.add(attempt)


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
