"""What the pool is given and what it answers. Light to import: coordinators need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from biomass_models.families.speed import Speed
from biomass_models.fold_rows import NONE
from orchestration.study.records import FoldMetrics, TrialRef


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """Work on a trial. Jobs can be hashed: a pool looks up whether the same work waits already."""

    trial_id: str
    attempt: str = ""  # of the trial's coordinator, which has another one when it starts again; `Pool.drop` names it


@dataclass(frozen=True, kw_only=True)
class FoldJob(TrialJob):
    """Fit one fold of a trial; together: all folds in one batch, of which the missing ones are written."""

    fold: int
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class PredictJob(TrialJob):
    """Images span[0] to span[1] - 1 of the test set, or of the study's exam, with every member of a blend."""

    members: tuple[TrialRef, ...]
    ensemble: str  # folder of the predictions
    span: tuple[int, int]
    flips: int
    exam: bool = False
    all_rows: str = NONE  # of fold_rows.ALL_ROWS: whether members' models on all rows predict
    trial_id: str = ""  # of no single trial


@dataclass(frozen=True, kw_only=True)
class FlipsJob(TrialJob):
    """A trial's out-of-fold rows as means over flips."""

    study: str
    ensemble: str
    flips: int


@dataclass(frozen=True, kw_only=True)
class RestoreJob(TrialJob):
    """Fit the folds of a trial again whose models were dropped to keep --weights-gb."""

    study: str


@dataclass(frozen=True, kw_only=True)
class AllRowsJob(TrialJob):
    """Fit a trial on every labelled row of its study, unless that was done."""

    study: str


@dataclass(frozen=True, kw_only=True)
class LabelJob(TrialJob):
    """Predict the photographs of a second round with the model of one fold of a trial."""

    round_id: str
    fold: int


@dataclass(frozen=True, kw_only=True)
class Priced:
    """A configuration whose cost is asked for."""

    family: str
    config: Mapping[str, Any] = field(hash=False)  # JSON-able, every field


@dataclass(frozen=True, kw_only=True)
class MeasureJob(TrialJob):
    """Time what a slot does, so that costs can be counted.

    backbones: whose passes are timed as well; banks: configurations whose features are estimated for so many images.
    """

    backbones: tuple[str, ...]
    banks: tuple[Priced, ...] = ()
    images: int = 0
    trial_id: str = ""  # of none


@dataclass(frozen=True, kw_only=True)
class CountJob(TrialJob):
    """Count what a fold of so many training rows takes on a slot of that speed: torch is there."""

    of: Priced
    n_train: int
    speed: Speed
    trial_id: str = ""  # of none as yet


Job: TypeAlias = FoldJob | PredictJob | FlipsJob | RestoreJob | AllRowsJob | LabelJob | MeasureJob | CountJob


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended: done, failed or blocked (with the reason), or stopped.

    Failed is the trial's own fault. Blocked is not, such as a full disk or workers that cannot start: the trial stays
    open, the search ends, and the reason says what to mend.
    """

    status: str
    reason: str | None = None
    metrics: FoldMetrics | None = None  # of a fold
    speed: Speed | None = None  # of a slot that was measured
    bank_seconds: tuple[float, ...] = ()  # of MeasureJob.banks, once a node
    seconds: float | None = None  # of a fold that was counted
    members: int = 0  # that predicted a shard now
    decoded: int = 0  # photographs of a shard that were read
