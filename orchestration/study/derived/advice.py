"""Records of advice: what to weigh next, and scores of a probe that learned from fewer photographs."""

from __future__ import annotations

from dataclasses import dataclass

from orchestration.study.record import Part, Record


@dataclass(frozen=True, kw_only=True)
class Pick(Part):
    """A photograph to weigh next."""

    photograph: str  # path, as it was found
    settles: float  # share of what was open of the targets at first that weighing it settles
    covers: int  # targets to which it is the nearest of all that were chosen
    nearest: tuple[str, ...] = ()  # targets that are nearest to it, the nearest first


@dataclass(frozen=True, kw_only=True)
class NextRecord(Record):
    """advice/next.json: which photographs to weigh next (advice/next.py), in this order."""

    asked_at: float
    features: str  # in words
    pool: int  # photographs that were looked at
    targets: int
    picks: tuple[Pick, ...]


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Part):
    """Scores of one repeat at one size. Counts are of a fold's training rows, means over folds."""

    repeat: int
    groups: float  # dates, or what the study calls groups
    images: float
    by_groups: float | None  # score of whole groups; None: none could be fitted
    by_images: float | None  # of as many photographs from all groups


@dataclass(frozen=True, kw_only=True)
class LearningCurveRecord(Record):
    """advice/learning-curve.json: scores of a probe that learned from fewer photographs (advice/curve.py)."""

    curve_id: str  # of features, labels, folds and seed: another one is begun anew
    made_at: float
    features: str  # in words
    noun: str  # what a group is called
    groups: int  # in all
    images: int
    points: tuple[CurvePoint, ...]
