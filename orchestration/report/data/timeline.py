"""When which worker did which fold, on a time axis from which the hours without any work are cut.

Times are seconds since 1970 in the ledger and seconds of search time here. A lane is one slot: a place where one worker
at a time does one fold after another. A worker that was replaced leaves its lane to the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from orchestration.study.data import Trial
from orchestration.study.records import FoldMetrics

LONGEST_GAP = 60.0  # s without any running fold; a longer gap is cut, if it is also a good part of the whole
GAP_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Work:
    """A stretch of work: one fold, or all folds of a trial that were trained as one batch."""

    trial: str
    family: str
    folds: tuple[int, ...]
    score: float | None  # mean over the folds
    host: str
    pid: int
    start: float
    end: float


class Clock:
    """Seconds of search time: gaps in which nothing ran are cut out."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        """spans: (start, end) of all work."""
        merged: list[list[float]] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        least = max(LONGEST_GAP, GAP_SHARE * sum(end - start for start, end in merged))
        self.start = merged[0][0] if merged else 0.0
        self.end = merged[-1][1] if merged else 0.0
        self.gaps = [(one[1], other[0]) for one, other in pairwise(merged) if other[0] - one[1] > least]

    def at(self, moment: float) -> float:
        """Seconds of search time before a moment; all moments of a gap are one."""
        before = sum(min(moment, end) - start for start, end in self.gaps if moment > start)
        return max(0.0, moment - self.start - before)

    @property
    def seconds(self) -> float:
        return self.at(self.end)


def work_of(trials: Sequence[Trial], folds: Mapping[str, Mapping[int, FoldMetrics]]) -> list[Work]:
    """All recorded stretches in the order of their start; folds of one batch are one stretch.

    folds: metrics of finished folds by trial.
    """
    found: list[Work] = []
    for trial in trials:
        batches: dict[tuple[float, float, int], list[int]] = {}
        done = folds.get(trial.trial_id, {})
        for fold, metrics in sorted(done.items()):
            if metrics.finished_at:
                batches.setdefault((metrics.started_at, metrics.finished_at, metrics.pid), []).append(fold)
        for (start, end, pid), batch in batches.items():
            scores = [score for fold in batch if (score := done[fold].score) is not None]
            found.append(
                Work(
                    trial=trial.trial_id,
                    family=trial.family,
                    folds=tuple(batch),
                    score=sum(scores) / len(scores) if scores else None,
                    host=done[batch[0]].host,
                    pid=pid,
                    start=start,
                    end=end,
                )
            )
    return sorted(found, key=lambda work: (work.start, work.end, work.trial))


def lanes_of(work: Sequence[Work]) -> list[int]:
    """Lane of each stretch, from 0: workers keep theirs, and a new worker takes the first one of its host that is free.

    A worker's process is replaced when it dies or when the search is resumed; the slot is the same.
    """
    last_of_worker: dict[tuple[str, int], float] = {}
    for one in work:
        worker = (one.host, one.pid)
        last_of_worker[worker] = max(last_of_worker.get(worker, one.end), one.end)
    lane_of_worker: dict[tuple[str, int], int] = {}
    lanes: list[tuple[str, float]] = []  # host, when its present worker does its last work
    for one in work:
        worker = (one.host, one.pid)
        if worker in lane_of_worker:
            continue
        free = [lane for lane, (host, until) in enumerate(lanes) if host == one.host and until <= one.start]
        lane = free[0] if free else len(lanes)
        if not free:
            lanes.append((one.host, 0.0))
        lane_of_worker[worker] = lane
        lanes[lane] = (one.host, last_of_worker[worker])
    return [lane_of_worker[one.host, one.pid] for one in work]


def busy_share(work: Sequence[Work], clock: Clock) -> float | None:
    """Share of all lanes' search time that was spent on folds; None without any work."""
    if not work or clock.seconds <= 0:
        return None
    lanes = max(lanes_of(work)) + 1
    return min(1.0, sum(clock.at(one.end) - clock.at(one.start) for one in work) / (lanes * clock.seconds))
