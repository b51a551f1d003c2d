"""The blend that every page of a study shows: the newest stored one that fits it, or the default one, made here.

A stored card is shown only where it was made of exactly the trials that are complete now: scores and members then speak
of the same blend, and leaderboard, status and report show the numbers of the card. Loads neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from ensembles.blend import fit_blend
from ensembles.card import Card
from ensembles.honest import METHOD
from ensembles.measured import counted_notice
from ensembles.members.library import Library, LibraryError, library_from_arrays
from ensembles.search_optimism import SearchOptimism, search_optimism
from orchestration.blending.members import comparable_references
from orchestration.study.data import StudyData
from orchestration.study.ledger import LedgerError
from orchestration.study.records import COMPLETE, PRUNED
from orchestration.study.settings import BLEND, FOR_BLEND, proposed_by

DEFAULT_RULE = "default"
BY_TPE = (proposed_by("tpe"), "proposed")  # why of a trial; before there were engines every proposal was TPE's
MOST_MEMBERS = 300  # complete trials of which a page makes a blend that is not stored


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An ensemble of the study, shown or not."""

    name: str
    card: Card | None  # None for a card of another version
    fits: bool  # made of exactly the trials that are complete now
    created_at: float  # seconds since 1970; 0 where it was not recorded


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownBlend:
    """A blend and the library that it was made of."""

    name: str | None  # of the stored ensemble; None for one that was made for the page
    card: Card
    library: Callable[[], Library]


@dataclass(frozen=True, kw_only=True)
class BlendScore:
    """A blend in a line of a page: the numbers of its card."""

    ensemble: str | None  # None for the default blend, which is not stored
    nested_score: float
    nested_se: float
    low: float | None  # 95 % interval on as many other units
    high: float | None
    unit: str
    units: int | None
    members: int
    method: str
    search_optimism: SearchOptimism | None  # simulated, not subtracted
    within: str | None = None  # minutes and machine, of a blend within a budget

    @classmethod
    def of(cls, shown: ShownBlend, study: StudyData) -> BlendScore:
        card = shown.card
        low, high = (card.interval_for_new(card.units) if card.units else None) or (None, None)
        return cls(
            ensemble=shown.name,
            nested_score=card.nested_score,
            nested_se=card.nested_se,
            low=low,
            high=high,
            unit=card.nested_by,
            units=card.units,
            members=len(card.members),
            method=card.method,
            search_optimism=search_optimism_of(study, card),
            within=within(card),
        )

    def __str__(self) -> str:
        error = "" if math.isnan(self.nested_se) else f" ± {self.nested_se:.4f}"
        found = f"blend {self.nested_score:.4f}{error} nested ({blend_text(self.ensemble, self.within)})"
        if self.low is None or self.high is None:
            return found
        return f"{found},\n{self.low:.3f} to {self.high:.3f} on {self.units} other {self.unit}s (95 %)"


def within(card: Card) -> str | None:
    """Minutes and machine of the budget that a blend was made within."""
    return None if card.budget is None else str(card.budget)


def blend_text(ensemble: str | None, within: str | None) -> str:
    """Which blend a page speaks of. ensemble: None for the default one; within: as `within` has it."""
    where = "the default rule, not stored" if ensemble is None else f"ensemble {ensemble}"
    return where if within is None else f"{where}, within {within}"


def shown_blend(study: StudyData, named: str | None = None, *, most: int | None = None) -> ShownBlend:
    """The stored ensemble of this name, else the newest that fits, else the default blend.

    most: complete trials above which no blend is made that is not stored. Raises LedgerError where there is none to
    show, with the reason, and for a name that is not there or was made of other trials.
    """
    stored = stored_ensembles(study)
    fitting = [each for each in stored if each.fits and each.card is not None]
    if named is not None:
        study.ledger.ensemble(named)
        fitting = [each for each in fitting if each.name == named]
        if not fitting:
            raise LedgerError(
                f"an ensemble is shown with the trials that it was made of; {named} was made of others, or by another "
                "version; blend again"
            )
    newest = newest_of(fitting)
    if newest is not None and newest.card is not None:
        paid = () if newest.card.budget is None else newest.card.budget.paid_alone
        return ShownBlend(name=newest.name, card=newest.card, library=lambda: study_library(study, paid))
    complete = len(study.of(COMPLETE))
    if most is not None and complete > most:
        raise LedgerError(
            f"a page blends {most} trials at most, {complete} are complete and none of their blends is stored"
        )
    library = study_library(study)
    try:
        card = fit_blend(library, DEFAULT_RULE, study.blend_seed, references=comparable_references(study))
    except ValueError as error:
        raise LedgerError(str(error)) from error
    return ShownBlend(name=None, card=card, library=lambda: library)


def newest_of(stored: Iterable[Stored]) -> Stored | None:
    """The ensemble that was made last; of those that one command has made the first, which is the default's blend."""
    return min(stored, key=lambda each: (-each.created_at, len(each.name), each.name), default=None)


def blend_score(study: StudyData) -> tuple[BlendScore | None, str | None]:
    """What leaderboard and status show, or the reason why there is no blend."""
    try:
        return BlendScore.of(shown_blend(study, most=MOST_MEMBERS), study), None
    except LedgerError as reason:
        return None, str(reason)


def search_optimism_of(study: StudyData, card: Card) -> SearchOptimism | None:
    """What the study's search added to a card's nested score by its own luck; None where that was not simulated.

    That is: for other engines than TPE, which counts by the trials that it proposed, for the aim `blend`, and for cards
    of another method.
    """
    if aimed_at_blend(study):
        return None
    found = sum(trial.record.why in BY_TPE for status in (COMPLETE, PRUNED) for trial in study.of(status))
    return search_optimism(found) if card.method == METHOD else None


def aimed_at_blend(study: StudyData) -> bool:
    """Whether proposals aim at the blend now, or did for some trial."""
    records = (trial.record for trial in study.trials)
    return study.settings.aim == BLEND or any(record.why.endswith(FOR_BLEND) for record in records)


def beside_score(study: StudyData, card: Card) -> list[str]:
    """What a card's page says beside its scores: members of a second round, the luck of the search, and what measures
    it."""
    exam = study.record.exam_images > 0
    notice = study.second_round_notice(card.members)
    lines = [] if notice is None else [notice]
    if (optimism := search_optimism_of(study, card)) is not None:
        lines.append(f"{optimism}{'' if exam else '; --exam of a search measures it'}")
    elif aimed_at_blend(study):
        lines.append("what a search adds to such a score by its own luck was not simulated for --aim blend")
    if exam:
        lines.append(f"this study keeps an exam: `biomass exam {study.ledger.storage.uri} --data DIR` scores the blend")
    return lines


def notices_of(study: StudyData) -> tuple[str, ...]:
    """What every page says before its scores: what they count, where that is not all five masses, and the study's."""
    counted = counted_notice(study.weight)
    return (*([] if counted is None else [counted]), *study.notices)


def study_library(study: StudyData, preferred: Collection[str] = ()) -> Library:
    """The complete trials, as `biomass ensemble STUDY` blends them. preferred: as library_from_arrays has it.

    Raises LedgerError where none is left.
    """
    complete = sorted(trial.trial_id for trial in study.of(COMPLETE))
    if not complete:
        raise LedgerError("no trial is complete")
    pred = study.predictions(complete)
    torn = [(name, study.unread[name]) for name in complete if name in study.unread]
    try:
        return library_from_arrays(
            list(pred), list(pred.values()), study.truth, left_out=torn, unit=study.unit, preferred=preferred
        )
    except LibraryError as error:
        raise LedgerError(str(error)) from error


def stored_ensembles(study: StudyData) -> tuple[Stored, ...]:
    """Every ensemble of the study by name."""
    ledger = study.ledger
    complete = {trial.trial_id for trial in study.of(COMPLETE)}
    found = []
    for name in ledger.ensemble_names():
        try:
            ensemble = ledger.ensemble(name)
            card, refs = Card.from_json(ensemble.card), ensemble.trials
        except (LedgerError, ValueError, KeyError, TypeError):
            found.append(Stored(name=name, card=None, fits=False, created_at=0.0))
            continue
        size = card.library_size + len(card.left_out) + len(card.merged)
        own = all(ref.study == ledger.storage.uri and ref.trial_id in complete for ref in refs.values())
        created_at = 0.0 if ensemble.origin is None else ensemble.origin.created_at or 0.0
        fits = own and set(refs) == set(card.members) and size == len(complete)
        found.append(Stored(name=name, card=card, fits=fits, created_at=created_at))
    return tuple(found)
