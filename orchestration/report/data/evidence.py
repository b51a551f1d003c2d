"""What a report is made from: one study, read once from its ledger.

N images in the order of the quadrats table, T = 5 targets, masses in grams. pred_NT are out-of-fold predictions.
A study may hold more than a page can show. What is read is capped here, and every cap is said on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from biomass_models.targets import TARGETS, FloatArray
from orchestration.mixed import mixed_text
from orchestration.study.ledger import Ledger, LedgerError, folds_of
from orchestration.study.records import FoldMetrics, StudyRecord, TrialRecord, TrialResult
from orchestration.study.torn import torn_notices

MOST_MEMBERS = 300  # complete trials whose predictions are read, the best ones
MOST_MIXED = 3  # trials with folds that were not made alike, by name
MOST_TIMED = 400  # trials whose folds are read one by one, the latest ones


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A proposed trial and how it ended."""

    record: TrialRecord
    result: TrialResult | None  # None while it has not ended
    folds: dict[int, FoldMetrics] = field(default_factory=dict)  # metrics of finished folds, where they were read

    @property
    def name(self) -> str:
        return self.record.trial_id

    @property
    def family(self) -> str:
        return self.record.family

    @property
    def status(self) -> str:
        """complete, pruned, failed, refused or open."""
        return "open" if self.result is None else self.result.status

    @property
    def score(self) -> float | None:
        """Weighted R2 of the pooled out-of-fold rows of a complete trial."""
        return None if self.result is None else self.result.score

    @property
    def worth(self) -> float | None:
        """What the search learned of it: the score, or the fold-corrected estimate of a pruned trial."""
        return None if self.result is None else self.result.reported_value

    @property
    def reason(self) -> str:
        """Why it is not complete; empty where it is."""
        return "" if self.result is None else self.result.reason or ""

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

    def fold_scores(self, folds: Sequence[int]) -> dict[int, float]:
        """Score of each fold that has one."""
        listed = () if self.result is None else self.result.fold_scores
        found = (
            dict(zip(folds, listed, strict=False))
            if listed
            else {fold: metrics.score for fold, metrics in self.folds.items()}
        )
        return {fold: score for fold, score in found.items() if score is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """One study as the report sees it."""

    ledger: Ledger
    study: StudyRecord
    quadrats: pd.DataFrame
    trials: tuple[Trial, ...]  # in the order of proposal
    pred: dict[str, FloatArray]  # pred_NT of complete trials, best first
    references: dict[str, FloatArray]  # pred_NT by name
    unread: tuple[tuple[str, str], ...] = ()  # complete trials whose rows cannot be read, with the reason
    torn: tuple[str, ...] = ()  # trials that have lost files

    @property
    def name(self) -> str:
        """The study's folder and the one that it lies in: many studies are called `study`."""
        return "/".join(PurePosixPath(self.ledger.storage.uri).parts[-2:]).lstrip("/")

    @cached_property
    def truth_NT(self) -> FloatArray:
        return self.quadrats[list(TARGETS)].to_numpy(dtype=np.float64)

    @property
    def folds(self) -> list[int]:
        return folds_of(self.quadrats)

    @property
    def families(self) -> list[str]:
        """In an order that never changes, so that a family keeps its colour."""
        return sorted({trial.family for trial in self.trials})

    @property
    def notices(self) -> tuple[str, ...]:
        """What is left out because its files are torn, with what to do; and trials whose folds were not made alike."""
        left_out = (f"trial {name} is left out: {reason}" for name, reason in self.unread)
        return (*self.torn, *left_out, *self._mixed)

    @property
    def _mixed(self) -> list[str]:
        """Trials whose score mixes folds that were not made alike: the best ones by name."""
        texts = [f"trial {trial.name}: {trial.mixed}" for trial in self.ranked if trial.mixed is not None]
        rest = len(texts) - MOST_MIXED
        return texts[:MOST_MIXED] + ([f"{rest} more trials have folds that differ"] if rest > 0 else [])

    @property
    def scheme(self) -> str:
        """Of the folds: date, random, state, species or file."""
        return self.study.settings.scheme

    @property
    def seed(self) -> int:
        return self.study.settings.seed

    def of(self, status: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.status == status]

    @cached_property
    def ranked(self) -> list[Trial]:
        """Complete trials, best first; equal scores in the order of their ids."""
        return sorted(self.of("complete"), key=lambda trial: (-(trial.score or 0.0), trial.name))

    @cached_property
    def by_name(self) -> dict[str, Trial]:
        return {trial.name: trial for trial in self.trials}


def read_evidence(ledger: Ledger) -> Evidence:
    """Read a study; LedgerError where there is none."""
    study = ledger.study()
    quadrats, records, results = ledger.quadrats(), ledger.trials(), ledger.results()
    folds = folds_of(quadrats)
    timed = {record.trial_id for record in records[-MOST_TIMED:]}
    trials = tuple(
        Trial(
            record=record,
            result=results.get(record.trial_id),
            folds=_fold_metrics(ledger, record.trial_id, folds) if record.trial_id in timed else {},
        )
        for record in records
    )
    bare = Evidence(ledger=ledger, study=study, quadrats=quadrats, trials=trials, pred={}, references={})
    pred, unread = _predictions(ledger, [trial.name for trial in bare.ranked[:MOST_MEMBERS]], quadrats)
    return Evidence(
        ledger=ledger,
        study=study,
        quadrats=quadrats,
        trials=trials,
        pred=pred,
        references=_references(ledger, quadrats),
        unread=unread,
        torn=tuple(torn_notices(ledger, records, results, folds)),
    )


def _fold_metrics(ledger: Ledger, trial_id: str, folds: Sequence[int]) -> dict[int, FoldMetrics]:
    found = {fold: ledger.fold_metrics(trial_id, fold) for fold in folds}
    return {fold: metrics for fold, metrics in found.items() if metrics is not None}


def _predictions(
    ledger: Ledger, names: Sequence[str], quadrats: pd.DataFrame
) -> tuple[dict[str, FloatArray], tuple[tuple[str, str], ...]]:
    pred: dict[str, FloatArray] = {}
    unread = []
    for name in names:
        try:
            rows = ledger.oof(name).set_index("image_id")
            pred[name] = rows.loc[quadrats["image_id"], list(TARGETS)].to_numpy(dtype=np.float64)
        except LedgerError as error:  # one torn file must not cost the whole report
            unread.append((name, str(error)))
        except KeyError:
            unread.append((name, "its out-of-fold table lacks images of this study"))
    return pred, tuple(unread)


def _references(ledger: Ledger, quadrats: pd.DataFrame) -> dict[str, FloatArray]:
    table = ledger.references()
    frames = {} if table is None else dict(iter(table.groupby("reference", sort=False)))
    return {
        str(name): frame.set_index("image_id").loc[quadrats["image_id"], list(TARGETS)].to_numpy(dtype=np.float64)
        for name, frame in frames.items()
    }
