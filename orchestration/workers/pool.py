"""How coordinators and predictions hand in work: a pool of slots, on Ray or in this process (slots/).

Light to import: coordinators need no torch, and a search in one process no Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

from orchestration.workers.jobs import Job, Outcome

Priority = tuple[int, float]  # smaller goes first
# First what a dead worker left, then folds of running trials (best first), then new trials.
RETRY: Priority = (0, 0.0)
RUNNING: Priority = (1, 0.0)
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
