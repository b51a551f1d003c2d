"""What the pool is given and what it answers. Light to import: coordinators need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from orchestration.records import FoldMetrics, TrialRef


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """Fit one fold of a trial; together: all folds in one batch, of which the missing ones are written."""

    trial_id: str
    fold: int
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class PredictJob:
    """Test images [span) with every member of a blend."""

    members: tuple[TrialRef, ...]
    ensemble: str  # folder of the predictions
    span: tuple[int, int]
    flips: int
    trial_id: str = ""  # of no single trial


@dataclass(frozen=True, kw_only=True)
class FlipsJob:
    """A trial's out-of-fold rows as means over flips."""

    study: str
    trial_id: str
    ensemble: str
    flips: int


@dataclass(frozen=True, kw_only=True)
class RestoreJob:
    """Fit the folds of a trial again whose models were dropped to keep --weights-gb."""

    study: str
    trial_id: str


Job: TypeAlias = FoldJob | PredictJob | FlipsJob | RestoreJob


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended: done, failed or no room (with the reason), or stopped."""

    status: str
    reason: str | None = None
    metrics: FoldMetrics | None = None  # of a fold
    members: int = 0  # that predicted a shard now
    decoded: int = 0  # photographs of a shard that were read
