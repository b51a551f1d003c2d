"""What the sections are made from: a study and its scores with their errors, computed once.

A study may hold more than a page can show. What is read is capped here, and every cap is said on the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from biomass_models.counted import counted
from biomass_models.targets import TARGETS, TOTAL, FloatArray, norm_of
from ensembles.choice import SINGLE_BEST
from ensembles.honest import METHOD, Estimate, score_estimate
from ensembles.measured import counted_text
from ensembles.nests import nested_all
from ensembles.scorer import Scorer
from ensembles.search_optimism import SearchOptimism
from orchestration.blending.exam import exam_lines, exam_of
from orchestration.blending.followed import Followed, followed_blend
from orchestration.blending.nested import Blend, blend_of
from orchestration.blending.shown import Stored, notices_of, search_optimism_of, stored_ensembles
from orchestration.report.data.importance import Importance, importance_of
from orchestration.report.data.scorer import Part, TargetError, parts, target_error
from orchestration.report.data.timeline import Clock, Work, work_of
from orchestration.study.data import StudyData, Trial
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import FoldMetrics

MOST_MEMBERS = 300  # complete trials whose predictions are read, the best ones
MOST_MIXED = 3  # trials with folds that were not made alike, by name
MOST_TIMED = 400  # trials whose folds are read one by one, the latest ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """The predictions that the pictures show: the blend's nested ones, or the best trial's."""

    name: str  # as in "the worst day of ..."
    pred_RNT: FloatArray  # of each partition; a single one of a trial

    @property
    def pred_NT(self) -> FloatArray:
        """Mean over partitions: what is drawn. Losses are means of the partitions' losses."""
        mean_NT: FloatArray = self.pred_RNT.mean(0)
        return mean_NT


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportContext:
    """A study and what follows from it. scores and gains are of complete trials and references, by name."""

    study: StudyData
    others: tuple[StudyData, ...]  # studies to compare the folds with
    pred: Mapping[str, FloatArray]  # pred_NT of complete trials, best first
    folds: Mapping[str, Mapping[int, FoldMetrics]]  # metrics of finished folds by trial, where they were read
    scorer: Scorer
    blend: Blend | None
    stored: tuple[Stored, ...]
    no_blend: str | None  # why there is none
    followed: Followed | None  # beside the blend of the study that this one follows
    not_followed: str | None  # why not
    exams: tuple[str, ...]  # a line for each blend that was examined, in the order of the first looks
    exam: str | None  # that of the blend shown
    search_optimism: SearchOptimism | None  # of the blend shown: simulated, where it was not measured by an exam
    shown: Shown | None  # None before a trial is complete
    weight: FloatArray  # of the cells in the metric (targets.weights_of)
    main: int  # the target that pages show first: total, or the measured one that counts most
    unit: str  # of the user's masses
    per_gram: FloatArray  # how much of it one gram in a quadrat is, [N, 1] or [1, 1]
    scores: dict[str, Estimate]
    behind: dict[str, Estimate]  # trial or reference minus the best trial, paired over units
    single: Estimate | None  # score of "take the best trial", chosen without the scored units
    importances: dict[str, Importance]  # by family
    work: tuple[Work, ...]
    clock: Clock

    @cached_property
    def best(self) -> Trial | None:
        """The complete trial with the best score."""
        ranked = [trial for trial in self.study.ranked if trial.trial_id in self.scores]
        return ranked[0] if ranked else None

    @property
    def notices(self) -> tuple[str, ...]:
        """Folds that cut dates; what is left out because its files are torn; trials whose folds were not made alike."""
        unread = self.study.unread.items()
        left_out = (f"trial {name} is left out: {reason}" for name, reason in unread)
        return (*notices_of(self.study), *left_out, *self._mixed)

    @property
    def counted(self) -> str:
        """What scores count, without what was not measured: the notices have that."""
        return counted_text(self.weight).partition(";")[0].replace("R2", "R²")

    @property
    def measured(self) -> list[tuple[int, str]]:
        """Measured targets with their places among TARGETS, the main one first."""
        found = [(TARGETS.index(name), name) for name in self.study.measured]
        return sorted(found, key=lambda pair: pair[0] != self.main)

    def in_unit(self, mass_NT: FloatArray) -> FloatArray:
        """Masses [..., N, 5] in grams in the user's unit."""
        return mass_NT * self.per_gram

    def error(self, target: int) -> TargetError:
        """Of the predictions shown, of a measured target."""
        assert self.shown is not None
        found = target_error(self.scorer.truth_NT, self.shown.pred_RNT, target, self.per_gram, self.weight)
        assert found is not None
        return found

    def parts(self, key_N: ArrayLike) -> list[Part]:
        """Of the predictions shown, by day or the like."""
        assert self.shown is not None
        return parts(
            self.scorer.truth_NT, self.shown.pred_RNT, key_N, weight=self.weight, main=self.main, per_gram=self.per_gram
        )

    @property
    def _mixed(self) -> list[str]:
        """Trials whose score mixes folds that were not made alike: the best ones by name."""
        texts = [f"trial {trial.trial_id}: {trial.mixed}" for trial in self.study.ranked if trial.mixed is not None]
        rest = len(texts) - MOST_MIXED
        more = [f"{counted(rest, 'more trial has', 'more trials have')} folds that differ"] if rest > 0 else []
        return texts[:MOST_MIXED] + more

    def fold_scores(self, trial: Trial) -> dict[int, float]:
        """Score of each fold that has one."""
        listed = () if trial.result is None else trial.result.fold_scores
        found = (
            dict(zip(self.study.folds, listed, strict=False))
            if listed
            else {fold: metrics.score for fold, metrics in self.folds.get(trial.trial_id, {}).items()}
        )
        return {fold: score for fold, score in found.items() if score is not None}


def read_context(ledger: Ledger, compare: Sequence[Ledger] = (), ensemble: str | None = None) -> ReportContext:
    """Read and score a study. ensemble: the stored one to show, by default the newest that fits.

    Raises LedgerError where a study to compare with is about other photographs, or that ensemble cannot be shown.
    """
    study, others = StudyData(ledger), tuple(map(StudyData, compare))
    for other in others:
        if set(other.learned["image_id"]) != set(study.learned["image_id"]):
            raise LedgerError(
                f"studies are compared over the same images, those of {other.ledger.storage.uri} are others; "
                "leave it out of --compare"
            )
        if not set(other.quadrats["image_id"]) & set(study.quadrats["image_id"]):
            raise LedgerError(
                f"studies are compared over images that both score, {other.ledger.storage.uri} has none of them; leave "
                "it out of --compare"
            )
    scorer = Scorer(study.truth)
    pred = study.predictions(trial.trial_id for trial in study.ranked[:MOST_MEMBERS])
    folds = {trial.trial_id: study.fold_metrics(trial.trial_id) for trial in study.trials[-MOST_TIMED:]}
    blend, no_blend = blend_of(study, ensemble)
    known = {**pred, **{name: reference.pred_NT for name, reference in study.references.items()}}
    best = next(iter(pred.values()), None)
    shown = None
    if blend is not None:
        shown = Shown(name="the blend", pred_RNT=blend.nested_RNT)
    elif best is not None:
        shown = Shown(name="the best trial", pred_RNT=best[None])
    work = tuple(work_of(study.trials, folds))
    untimed = [
        (trial.record.proposed_at, trial.ended_at)
        for trial in study.trials
        if not folds.get(trial.trial_id) and trial.ended_at is not None and trial.ended_at >= trial.record.proposed_at
    ]
    per_gram = study.record.mass_unit.per_gram(study.quadrats)
    records = ledger.exams()
    own = None if blend is None or blend.name is None else exam_of(ledger, blend.name)
    exams = ["; ".join(exam_lines(record, records)) for record in records]
    followed, not_followed = followed_blend(study)
    return ReportContext(
        study=study,
        followed=followed,
        not_followed=not_followed,
        others=others,
        pred=pred,
        folds=folds,
        scorer=scorer,
        blend=blend,
        stored=stored_ensembles(study),
        no_blend=no_blend,
        exams=tuple(exams),
        exam=None if own is None else exams[records.index(own)],
        search_optimism=None if blend is None or own is not None else search_optimism_of(study, blend.card),
        shown=shown,
        weight=study.weight,
        main=main_target(study.weight),
        unit=study.record.mass_unit.name if per_gram is not None else "g",
        per_gram=np.ones((1, 1)) if per_gram is None else per_gram,
        scores={name: scorer.score(pred_NT) for name, pred_NT in known.items()},
        behind={} if best is None else {name: scorer.gain(pred_NT, best) for name, pred_NT in known.items()},
        single=None if blend is None else _single(blend),
        importances={family: importance_of(study, family) for family in study.families},
        work=work,
        clock=Clock([(one.start, one.end) for one in work] + untimed),
    )


def main_target(weight: FloatArray) -> int:
    """Total where it was measured, else the measured target that counts most."""
    norm_T = norm_of(weight)
    return TOTAL if norm_T[TOTAL] > 0 else int(norm_T.argmax())


def _single(blend: Blend) -> Estimate:
    """The best trial as a rule of its own: nested like the blend, so that the two can be compared."""
    card, gram = blend.card, blend.library.gram
    if card.method != METHOD:  # another method's nests: its number has no error here
        return Estimate(value=card.best_single_nested_score, se=math.nan, low=math.nan, high=math.nan)
    (nested,) = nested_all(gram, [SINGLE_BEST], seed=card.seed)
    return score_estimate(gram, nested.loss_RC)
