"""What a study's JSON files hold, as types; `derived/` has those of blends, advice and profiles.

Stored names never change; `record.py` says how they are read.

Times are seconds since 1970, UTC; memory is in MiB; scores are weighted R2. Defaults are what a file lacks that an
earlier version wrote, so that no reader asks which version it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self, TypeAlias

from orchestration.old_names import new_fields, old_fields
from orchestration.study.mass_unit import GRAMS, MassUnit
from orchestration.study.record import Part, Record
from orchestration.study.settings import StudySettings

Params: TypeAlias = Mapping[str, Any]  # field of a family's configuration -> plain JSON value
COMPLETE, PRUNED, FAILED, REFUSED = "complete", "pruned", "failed", "refused"


@dataclass(frozen=True, kw_only=True)
class FileMark(Part):
    """What a marker vouches for about one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FoundFile(FileMark):
    """A file outside of a study, as it was when it was read."""

    path: str


@dataclass(frozen=True, kw_only=True)
class WrittenFile(FileMark):
    """A file that was written for the user."""

    name: str


@dataclass(frozen=True, kw_only=True)
class CodeVersion(Part):
    """Of the code that ran."""

    version: str
    source: str | None = None  # hash of all its files; None for code that ran from a wheel
    commit: str | None = None  # where git tracked the code
    changed: bool | None = None  # whether the files differed from the commit


# -- the study ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asked(Part):
    """What the command that made a study named: a preset and the options over it."""

    preset: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)  # by field of the parts of presets.Preset

    @classmethod
    def from_json(cls, content: Any) -> Self:
        found = super().from_json(content)
        return replace(found, overrides=new_fields(found.overrides))

    def to_json(self) -> dict[str, Any]:
        stored = super().to_json()
        return {**stored, "overrides": old_fields(stored["overrides"])}


@dataclass(frozen=True, kw_only=True)
class OwnRange(Part):
    """A field whose range the user has changed; ranges are as in a TOML file (search_spaces/ranges_text.py)."""

    family: str
    field: str
    before: str
    now: str
    place: str  # where it was said: my.toml:12, or --set distilled.huber_delta=1.0
    at: float  # when
    trials: int = 0  # that the study had then


@dataclass(frozen=True, kw_only=True)
class StudyRecord(Record):
    """study.json: what a study was asked for, resolved once, and what it was made with."""

    settings: StudySettings
    data_fingerprint: str
    fold_hash: str
    weights: Mapping[str, str] = field(default_factory=dict)  # fingerprint of each backbone's weights
    stand_ins: Mapping[str, str] = field(default_factory=dict)  # whose weights, where not the published ones
    spaces: Mapping[str, Params] = field(default_factory=dict)  # ranges by family (SearchSpace.to_json)
    own_ranges: tuple[OwnRange, ...] = ()  # of the user, in the order in which they came
    versions: Mapping[str, str] = field(default_factory=dict)  # of packages
    code: CodeVersion | None = None
    created_at: float | None = None
    made_with: Asked = Asked()
    photograph_size: tuple[int, int] | None = None  # px, the most common width and height; None before it was noted
    mass_unit: MassUnit = GRAMS  # of the table that was weighed
    exam_images: int = 0  # that exam.parquet keeps from all that learns
    follows: str | None = None  # URI of the study of fewer photographs whose best settings came first


# -- trials ------------------------------------------------------------------------------------------------------------


class TrialRef(NamedTuple):
    """A trial and the study that it lies in."""

    study: str  # folder or URI
    trial_id: str


@dataclass(frozen=True, kw_only=True)
class TrialRound(Part):
    """The second round of a trial: photographs that models have labelled are among its training rows."""

    round_id: str  # of a SecondRoundRecord
    weight: float  # of such a row beside a weighed one, above 0 and at most 1


@dataclass(frozen=True, kw_only=True)
class TrialRecord(Record):
    """trial.json: one proposed configuration. `ids.py` derives `trial_id` from it, by its schema."""

    trial_id: str
    number: int  # order of proposal in the study
    family: str
    params: Params  # what the search drew: a point of the family's space
    config: Params  # every field of the family's configuration
    weights: str  # fingerprint of the backbone's weights
    seed: int
    why: str  # first trial | settings.proposed_by; before there were engines: proposed
    proposed_at: float
    spared: str | None = None  # why it is never pruned
    refused_at: float | None = None  # seconds of a fold for which it is refused: its result says so as well
    second_round: TrialRound | None = None  # None: it learns from what was weighed alone


@dataclass(frozen=True, kw_only=True)
class Decision(Part):
    """What a pruning rule decided after a fold, and the numbers that decided it."""

    rule: str
    prune: bool
    after_fold: int  # index of the fold that had just finished
    folds_done: int
    against: str  # trial id of the best compared one
    p: float  # chance of such a disadvantage if the trial were as good as the compared ones
    groups: int  # that the test compared
    gain: float  # relative fall of the ensemble's loss, 0 .. 1
    estimate: float  # score over all folds that is expected from those that are done
    folds: int | None = None  # of the study; not recorded by 0.1.0
    compared: tuple[str, ...] = ()  # trial ids of the compared trials; empty: `against` alone

    def __str__(self) -> str:
        verdict, of = "pruned" if self.prune else "kept", "" if self.folds is None else f" of {self.folds}"
        against = ", ".join(name[:4] for name in self.compared or (self.against,))
        return (
            f"{verdict} after {self.folds_done}{of} folds: p = {self.p:.2g} against {against}, "
            f"blend gain {100 * self.gain:.2f} %"
        )


@dataclass(frozen=True, kw_only=True)
class TrialResult(Record):
    """result.json: how a trial ended, with what it cost over all its folds."""

    status: str  # complete | pruned | failed | refused (at its proposal, for what a fold would cost)
    score: float | None = None  # of a complete trial: its pooled out-of-fold rows
    estimate: float | None = None  # of a pruned one: expected over all folds
    reason: str | None = None  # of one that is not complete
    fold_scores: tuple[float | None, ...] = ()  # of a complete one, by fold; None for a fold without spread
    teacher_score: float | None = None  # mean over folds
    target_rmse_g: Mapping[str, float] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    ended_at: float = 0.0
    estimated_seconds: float | None = None  # of a fold of a refused one
    limit_seconds: float | None = None  # that it was above
    mixed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # what its folds do not share: mixed.mixed_facts
    folds_done: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    peak_gpu_memory_mb: float = 0.0
    files: Mapping[str, FileMark] = field(default_factory=dict)

    @property
    def reported_value(self) -> float | None:
        """What the search learns: the score, the one expected over all folds of a pruned trial, None for a failure."""
        return self.estimate if self.status == PRUNED else self.score

    def why(self, folds: int) -> str:
        """Why the trial is not complete, whichever version wrote it; empty where it is. folds: of the study."""
        if self.status == PRUNED and self.decisions:  # folds that ran at the decision count as done
            return str(replace(self.decisions[-1], folds_done=self.folds_done, folds=folds))
        return self.reason or ""


def refused_for(result: TrialResult) -> float | None:
    """The estimate in seconds for which a trial was refused; version 0.1.0 recorded that as a failure of its fold."""
    if result.status == REFUSED:
        return result.estimated_seconds
    found = _REFUSED_IN_0_1.search(result.reason or "") if result.status == FAILED else None
    return float(found[1]) if found else None


_REFUSED_IN_0_1 = re.compile(r"a fold may take \d+ s \(--max-fold-seconds\), this one is estimated at (\d+) s")


# -- folds -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DroppedModel(Record):
    """model-dropped.json: a fold's model was deleted, and why; its marker keeps size and hash."""

    dropped_at: float
    why: str


@dataclass(frozen=True, kw_only=True)
class RestoredModel(Part):
    """A model that was fitted again after it had been dropped."""

    restored_at: float
    largest_difference_g: float  # between its out-of-fold rows and those that the study keeps; 0: bit for bit


@dataclass(frozen=True, kw_only=True)
class FoldStart(Record):
    """start-<when>-<pid>.json: a fold was begun."""

    started_at: float
    host: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class FoldMetrics(Record):
    """metrics.json: the marker of a finished fold, with its score, course and cost."""

    fold: int
    images: int = 0  # held out
    score: float | None = None  # None where the held-out masses have no spread
    started_at: float = 0.0
    finished_at: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    peak_gpu_memory_mb: float = 0.0
    host: str = "?"
    pid: int = 0
    epochs: tuple[Mapping[str, float | None], ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)  # what the family notes: teacher_score, folds_together, ...
    environment: Mapping[str, Any] = field(default_factory=dict)  # environment.environment
    restored: RestoredModel | None = None  # where the model is not the one that predicted the rows
    files: Mapping[str, FileMark] = field(default_factory=dict)

    @property
    def teacher_score(self) -> float | None:
        return self.info.get("teacher_score")


@dataclass(frozen=True, kw_only=True)
class AllRowsRecord(Record):
    """all-rows.json: the marker of a trial's model that was fitted on every labelled row; it has no score."""

    rows: int
    epochs: int | None = None  # that make as many steps as the folds made; None where the family has none
    finished_at: float = 0.0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    host: str = "?"
    info: Mapping[str, Any] = field(default_factory=dict)  # what the family notes
    environment: Mapping[str, Any] = field(default_factory=dict)  # environment.environment
    files: Mapping[str, FileMark] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SharedRecord(Record):
    """teacher.json, or <name>.json: the marker of what trials share of one fold (families.base.Shared)."""

    settings: Params
    fold: int
    score: float | None = None
    files: Mapping[str, FileMark] = field(default_factory=dict)


# -- second rounds -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SecondRoundRecord(Record):
    """second-round.json: the marker of the photographs that models label for a second round, and which models."""

    round_id: str  # of members and photographs
    ensemble: str  # the blend that had these members when the round began
    members: tuple[str, ...]  # trials whose fold models label, each as much as the others
    left_out: Mapping[str, str] = field(default_factory=dict)  # members of the blend that do not, and why
    images: int = 0  # that are labelled
    known: int = 0  # photographs of the test set that are not, because the study has them
    made_at: float = 0.0
    files: Mapping[str, FileMark] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LabelsRecord(Record):
    """labels.json: the marker of a second round's pseudo-labels."""

    made_at: float
    files: Mapping[str, FileMark] = field(default_factory=dict)


# -- the driver --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SearchFacts(Part):
    """How a running search stands: counts of the pool, and what its driver adds."""

    slots: int | None = None
    slots_pending: int = 0
    running: int = 0  # jobs
    queued: int = 0
    done: int = 0
    busy: float | None = None  # share of the slots' time spent working, 0 .. 1
    workers_lost: int = 0
    encoding: tuple[int, int] = (0, 0)  # images of the bank that is being filled: done, of all
    cannot_start: int = 0  # slots whose worker does not come up now
    start_failure: str | None = None  # why, of the latest one
    max_trials: int | None = None  # of the study, once the search is over
    seconds_left: float | None = None  # time_left.seconds_left when the driver looked
    looked_at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Owner(Record):
    """owner.json: who drives the study now."""

    host: str
    machine: str | None = None  # lock.this_machine; None: not noted by 0.1.0
    pid: int
    since: float
    beat: float  # last sign of life
    token: str
    facts: SearchFacts = SearchFacts()
