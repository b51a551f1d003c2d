"""Records of blends: their submissions, exams, and files that left the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestration.study.record import Part, Record
from orchestration.study.records import CodeVersion, FileMark, FoundFile, TrialRef, WrittenFile


@dataclass(frozen=True, kw_only=True)
class TestSet(Part):
    """Which images a submission predicts."""

    images: int
    rows: str  # hash of their ids
    photographs: str | None = None  # hash of their contents, where trials predicted them


@dataclass(frozen=True, kw_only=True)
class Origin(Part):
    """Where a submission comes from, so that `biomass trace` finds the way back from the file."""

    created_at: float | None = None
    code: CodeVersion | None = None
    submission: WrittenFile | None = None  # None for a card alone
    test: TestSet | None = None
    truth: FoundFile | None = None  # measured masses, where they came as a file
    trials: Mapping[str, TrialRef] = field(default_factory=dict)  # by member
    files: Mapping[str, Mapping[str, FoundFile]] = field(default_factory=dict)  # member -> oof, test; where it came so


@dataclass(frozen=True, kw_only=True)
class EnsembleRecord(Record):
    """ensemble.json: the marker of a submission, with the card of its blend (ensembles.card)."""

    card: Mapping[str, Any]  # ensembles.card.Card as JSON
    trials: Mapping[str, TrialRef] = field(default_factory=dict)  # by member; "." is the study itself
    origin: Origin | None = None
    files: Mapping[str, FileMark] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExamRecord(Record):
    """exams/<ensemble>-<card>.json: what a blend scores on dates that nothing has learned from (blending/exam.py)."""

    ensemble: str
    card: str  # content of the card that was examined
    images: int
    dates: int
    score: float
    se: float | None  # jackknife over dates
    low: float | None  # 95 % interval
    high: float | None
    nested_score: float  # of the card, to compare with
    nested_by: str  # what its nests held out
    target_rmse_g: Mapping[str, float]
    looks: tuple[float, ...]  # when it was asked for, seconds since 1970


@dataclass(frozen=True, kw_only=True)
class GivenRecord(Record):
    """given/<sha256>.json: a file made with an ensemble that left the study: masses of photographs, a bundle."""

    kind: str  # prediction | bundle
    ensemble: str
    card: str  # content of the card then
    study: str  # URI
    file: WrittenFile  # of a bundle its marker
    created_at: float | None = None
    code: CodeVersion | None = None
    photographs: TestSet | None = None  # of a prediction
