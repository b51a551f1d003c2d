"""What a study was asked for, resolved once when it is made: the settings that decide its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biomass_models.counted import counted
from biomass_models.data.frames import Fit
from biomass_models.errors import UserError
from biomass_models.fold_rows import is_ordered
from orchestration.study.record import Part

# What a search that goes on may ask for anew: no number of a trial depends on it. The study keeps the present one.
MOVABLE = ("max_fold_seconds", "engine", "sharing", "aim")
EQUAL, EARNED = "equal", "earned"
SHARINGS = {  # what decides how much of a search each family gets
    EQUAL: "equal turns of trials, or as given",
    EARNED: "of the seconds, by what each family has brought the blend",
}


class StudyError(UserError):
    """A study cannot be opened as asked; the text says the rule, what was got and what to do."""


SCORE, BLEND = "score", "blend"
AIMS = {  # what proposals are to raise
    SCORE: "the score of a trial",
    BLEND: "what a trial brings the blend of the others",
}
FOR_BLEND = ", for the blend"


def proposed_by(engine: str, *, for_blend: bool = False) -> str:
    """What proposed a trial, as its record has it; for_blend: whether the engine had observed gains of the blend."""
    return f"proposed by {engine}{FOR_BLEND if for_blend else ''}"


def shares_by_family(families: Sequence[str], shares: Sequence[float]) -> dict[str, float]:
    """What each family is given, in any unit; shares: () = equal."""
    return dict(zip(families, shares or (1.0,) * len(families), strict=True))


@dataclass(frozen=True, kw_only=True)
class StudySettings(Part):
    """What decides a study's results. They are stored with the study and never change, but for MOVABLE."""

    families: tuple[str, ...]
    backbones: tuple[str, ...]  # timm names that the search may choose from
    shares: tuple[float, ...] = ()  # of the trials that each family gets, in any unit; () = equal
    weights: str = "auto"  # auto | random | folder
    scale: str = "cpu"  # which ranges: smoke | demo | cpu | gpu
    fit: Fit = "stretch"  # what views are cut from (biomass_models/data/frames.py); before it was noted: stretch
    scheme: str = "date"  # of the folds
    folds: int = 5  # as asked for: under `time` blocks, of which the first is no fold
    seed: int = 0
    exam: float = 0.0  # share of the images, by whole dates, that nothing learns from
    max_fold_seconds: float = 1800.0  # a configuration whose estimate is above is refused with the estimate
    sharing: str = EQUAL  # what follows the families' shares now: one of SHARINGS
    aim: str = SCORE  # of proposals now: one of AIMS
    engine: str = "tpe"  # what proposes now (that of 0.1.0 where none is stored); each trial notes its own

    @property
    def ordered(self) -> bool:
        """Whether the folds are blocks of time (biomass_models/fold_rows.py)."""
        return is_ordered(self.scheme)

    @property
    def share_of(self) -> dict[str, float]:
        """What each family is given."""
        return shares_by_family(self.families, self.shares)

    def __post_init__(self) -> None:
        if not self.families or not self.backbones:
            raise StudyError("a study needs at least one family and one backbone")
        if self.shares and (len(self.shares) != len(self.families) or min(self.shares) <= 0):
            families = counted(len(self.families), "family", "families")
            raise StudyError(f"shares are above 0, one for each of {families}, got {self.shares}")
        if self.folds < 2:
            raise StudyError(f"a study needs at least 2 folds, got {self.folds}")
