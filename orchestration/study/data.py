"""A study as those see it who compare, blend, show or verify it: read once, each part when it is first asked for.

N images in the order of the quadrats table, T = 5 targets, masses in grams. pred_NT are out-of-fold predictions.
It is a view of one moment: trials that end later are not in it. What changes the study goes through the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from biomass_models.counted import counted
from biomass_models.data.alignment import AlignmentError, masses_of
from biomass_models.data.cell_weights import cell_weights, measured_masses
from biomass_models.data.folds import fold_hash
from biomass_models.fold_rows import scored_rows
from biomass_models.fold_units import (
    cut_groups,
    cut_groups_notice,
    ungrouped_notice,
    unit_name,
    units_of,
    unscored_notice,
)
from biomass_models.targets import TARGETS, FloatArray, measured_targets
from orchestration.study import layout
from orchestration.study.ledger import Ledger, LedgerError, folds_of
from orchestration.study.mixed import mixed_text
from orchestration.study.records import COMPLETE, FoldMetrics, StudyRecord, TrialRecord, TrialResult
from orchestration.study.seeds import derive_seed
from orchestration.study.settings import StudySettings
from orchestration.study.torn import lost_files, torn_notices

COLOUR_RIDGE = "colour ridge"
NEED_METADATA = frozenset({"metadata trees"})  # references that learn from what a test set does not have
OPEN = "open"  # status of a trial that has not ended


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A proposed trial and how it ended."""

    record: TrialRecord
    result: TrialResult | None  # None while it has not ended
    folds: int  # of the study

    @property
    def trial_id(self) -> str:
        return self.record.trial_id

    @property
    def family(self) -> str:
        return self.record.family

    @property
    def status(self) -> str:
        """complete, pruned, failed, refused or open."""
        return OPEN if self.result is None else self.result.status

    @property
    def score(self) -> float | None:
        """Weighted R2 of the pooled out-of-fold rows of a complete trial."""
        return None if self.result is None else self.result.score

    @property
    def reported_value(self) -> float | None:
        """What the search learned of it: the score, or that of a pruned trial that is expected over all folds."""
        return None if self.result is None else self.result.reported_value

    @property
    def reason(self) -> str:
        """Why it is not complete; empty where it is."""
        return "" if self.result is None else self.result.why(self.folds)

    @property
    def mixed(self) -> str | None:
        """In what its folds differ beside the images, or None."""
        return None if self.result is None else mixed_text(self.result.mixed)

    @property
    def seconds(self) -> float | None:
        """Of all its folds."""
        return None if self.result is None else self.result.seconds

    @property
    def ended_at(self) -> float | None:
        """Seconds since 1970."""
        return None if self.result is None else self.result.ended_at


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Out-of-fold predictions without a search, which every trial and blend must beat."""

    pred_NT: FloatArray
    predicts_tests: bool  # False: it needs metadata that a test set does not have


class StudyData:
    """One study. Raises LedgerError for a table that must be there and cannot be read."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.unread: dict[str, str] = {}  # trials whose predictions cannot be read, and why, as far as it was tried
        self._pred: dict[str, FloatArray] = {}
        self._folds: dict[str, dict[int, FoldMetrics]] = {}

    # -- the photographs -------------------------------------------------------------------------------------------

    @cached_property
    def record(self) -> StudyRecord:
        return self.ledger.study()

    @property
    def settings(self) -> StudySettings:
        return self.record.settings

    @property
    def name(self) -> str:
        """The study's folder and the one that it lies in: many studies are called `study`."""
        return "/".join(PurePosixPath(self.ledger.storage.uri).parts[-2:]).lstrip("/")

    @cached_property
    def learned(self) -> pd.DataFrame:
        """image_id, metadata, labels, fold, group; one row an image that models learn from, scored or not."""
        return self.ledger.quadrats()

    @cached_property
    def quadrats(self) -> pd.DataFrame:
        """The images that are scored, and so all that scores, blends and pages are about."""
        return scored_rows(self.learned)

    @property
    def fold_hash(self) -> str:
        """Of the tables; that of the record is what it was when the study was made."""
        return fold_hash(self.learned, ordered=self.settings.ordered)

    @cached_property
    def truth(self) -> pd.DataFrame:
        """The quadrats and, in the column `unit`, what errors are counted by: what the folds keep whole."""
        return self.quadrats.assign(unit=units_of(self.quadrats, self.settings.scheme))

    @property
    def unit(self) -> str:
        """What a unit is called."""
        return unit_name(self.quadrats, self.settings.scheme)

    def measured_in(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of quadrats without masses that this study does not measure, since nothing here predicts them."""
        return table.assign(**{name: np.nan for name in TARGETS if name not in self.measured})

    @property
    def group_noun(self) -> str:
        """What a group is called, whatever the folds keep whole: day, group or photograph."""
        found = unit_name(self.quadrats, "date")
        return "day" if found == "date" else found

    @cached_property
    def cut_groups(self) -> int:
        """Sampling dates whose photographs lie in several folds: every score is too good then."""
        return cut_groups(self.learned)

    @cached_property
    def truth_NT(self) -> FloatArray:
        """Measured masses; NaN where a mass was not measured, or counts nowhere."""
        return measured_masses(self.quadrats)[0]

    @cached_property
    def weight(self) -> FloatArray:
        """What each cell counts in the metric, as targets.weights_of."""
        return cell_weights(self.quadrats)

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """Targets that the study measures; predictions of the others are NaN."""
        return measured_targets(self.weight)

    @cached_property
    def folds(self) -> list[int]:
        return folds_of(self.quadrats)

    # -- the trials ------------------------------------------------------------------------------------------------

    @cached_property
    def results(self) -> Mapping[str, TrialResult]:
        """By id, of every trial that has ended; also of one whose trial.json cannot be read."""
        return self.ledger.results()

    @property
    def blend_seed(self) -> int:
        """Seed of the study's blends."""
        return derive_seed(self.settings.seed, "blend")

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """In the order of proposal; a trial whose trial.json cannot be read is not among them, `torn` names it."""
        records = self.ledger.trials()
        return tuple(
            Trial(record=record, result=self.results.get(record.trial_id), folds=len(self.folds)) for record in records
        )

    @cached_property
    def by_id(self) -> Mapping[str, Trial]:
        return {trial.trial_id: trial for trial in self.trials}

    def of(self, status: str) -> list[Trial]:
        """Trials of a status, in the order of proposal."""
        return [trial for trial in self.trials if trial.status == status]

    @cached_property
    def ranked(self) -> list[Trial]:
        """Complete trials, best first; equal scores in the order of their ids."""
        return sorted(self.of(COMPLETE), key=lambda trial: (-(trial.score or 0.0), trial.trial_id))

    @cached_property
    def families(self) -> list[str]:
        """Those of the trials, by name."""
        return sorted({trial.family for trial in self.trials})

    @cached_property
    def lost(self) -> Mapping[str, Mapping[int, str]]:
        """Files that folds of complete and pruned trials have lost: by trial and fold."""
        return lost_files(self.ledger, self.results, self.folds)

    @cached_property
    def torn(self) -> tuple[str, ...]:
        """Trials that have lost files, a line each with what to do."""
        records = [trial.record for trial in self.trials]
        return tuple(torn_notices(self.ledger, records, self.results, self.lost))

    @property
    def notices(self) -> tuple[str, ...]:
        """What every page says before its scores: folds that cut dates, are random or leave photographs unscored,
        trials of a second round, weights that stand in for the published ones, trials that have lost files; a line
        each."""
        found = (
            cut_groups_notice(self.cut_groups, self.unit),
            ungrouped_notice(self.quadrats),
            unscored_notice(self.learned, ordered=self.settings.ordered),
            self.second_round_notice(self.by_id),
        )
        weights = (f"the weights of {name} are {label}" for name, label in self.record.stand_ins.items())
        return (*(notice for notice in found if notice is not None), *weights, *self.torn)

    def second_round_notice(self, trial_ids: Iterable[str]) -> str | None:
        """What is to be known where some of these trials learn from photographs that models have labelled."""
        trials = [self.by_id[name] for name in trial_ids if name in self.by_id]
        count = sum(trial.record.second_round is not None for trial in trials)
        if not count:
            return None
        return (
            f"{counted(count, 'trial is', 'trials are')} of a second round: labels of a fold come from models that "
            "never saw it, but that these models label was chosen on all folds, as every search result is"
        )

    def fold_metrics(self, trial_id: str) -> Mapping[int, FoldMetrics]:
        """Metrics of a trial's finished folds."""
        if trial_id not in self._folds:
            found = {fold: self.ledger.fold_metrics(trial_id, fold) for fold in self.folds}
            self._folds[trial_id] = {fold: metrics for fold, metrics in found.items() if metrics is not None}
        return self._folds[trial_id]

    # -- predictions -----------------------------------------------------------------------------------------------

    def pred_NT(self, trial_id: str, image_ids: pd.Series | Sequence[str] | None = None) -> FloatArray:
        """Out-of-fold predictions of a complete trial; image_ids: whose, in which order, by default the quadrats'.

        Raises LedgerError for a table that is torn, or was pooled over other images.
        """
        if image_ids is None and trial_id in self._pred:
            return self._pred[trial_id]
        oof = self.ledger.oof(trial_id)
        try:
            pred_NT = masses_of(oof, self.quadrats["image_id"] if image_ids is None else image_ids)
        except AlignmentError as error:
            raise LedgerError(
                f"trial {trial_id} was pooled over other images than those of {layout.QUADRATS}: {error}"
            ) from error
        if image_ids is None:
            self._pred[trial_id] = pred_NT
        return pred_NT

    def predictions(self, trial_ids: Iterable[str], most: int | None = None) -> dict[str, FloatArray]:
        """pred_NT of the first `most` of these trials that can be read; the reason why not is noted in `unread`."""
        waiting = [trial_id for trial_id in trial_ids if trial_id not in self.unread]
        found: dict[str, FloatArray] = {}
        _ = self.quadrats  # read once, before many look at it
        while waiting and (most is None or len(found) < most):
            now = waiting[: None if most is None else most - len(found)]
            waiting = waiting[len(now) :]
            read = zip(now, self.ledger.storage.each(self._pred_or_none, now), strict=True)
            found.update((trial_id, pred_NT) for trial_id, pred_NT in read if pred_NT is not None)
        return found

    def _pred_or_none(self, trial_id: str) -> FloatArray | None:
        try:
            return self.pred_NT(trial_id)
        except LedgerError as error:  # one torn file must not cost the whole study
            self.unread[trial_id] = str(error)
            return None

    @cached_property
    def references(self) -> Mapping[str, Reference]:
        """By name, in the order in which they were made; none before a search has made them."""
        table = self.ledger.references()
        frames = [] if table is None else list(table.groupby("reference", sort=False))
        try:
            pred = {str(name): masses_of(frame, self.quadrats["image_id"]) for name, frame in frames}
        except AlignmentError as error:
            raise LedgerError(f"{self.ledger.storage.uri}/{layout.REFERENCES} holds other images: {error}") from error
        return {
            name: Reference(pred_NT=pred_NT, predicts_tests=name not in NEED_METADATA) for name, pred_NT in pred.items()
        }
