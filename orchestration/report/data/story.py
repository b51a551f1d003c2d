"""What the sections tell from: a study's evidence, judged once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from biomass_models.targets import FloatArray
from ensembles.choice import SINGLE_BEST
from ensembles.honest import Estimate, nest_of, nested_all, score_estimate
from orchestration.report.data.blended import Blend, Stored, blend_of
from orchestration.report.data.evidence import Evidence, Trial, read_evidence
from orchestration.report.data.importance import Importance, importance_of
from orchestration.report.data.judge import Judge
from orchestration.report.data.timeline import Clock, Work, work_of
from orchestration.study.ledger import Ledger, LedgerError


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """The predictions that the pictures show: the best honest ones there are."""

    name: str  # as in "the worst day of ..."
    pred_NT: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Story:
    """A study and what follows from it. scores and gains are of complete trials and references, by name."""

    evidence: Evidence
    others: tuple[Evidence, ...]  # studies to compare the folds with
    judge: Judge
    blend: Blend | None
    stored: tuple[Stored, ...]
    no_blend: str | None  # why there is none
    shown: Shown | None  # None before a trial is complete
    scores: dict[str, Estimate]
    behind: dict[str, Estimate]  # trial or reference minus the best trial, paired over groups
    single: Estimate | None  # score of "take the best trial", chosen without the scored fold
    importances: dict[str, Importance]  # by family
    work: tuple[Work, ...]
    clock: Clock

    @cached_property
    def best(self) -> Trial | None:
        """The complete trial with the best score."""
        ranked = [trial for trial in self.evidence.ranked if trial.name in self.scores]
        return ranked[0] if ranked else None


def tell(ledger: Ledger, compare: Sequence[Ledger] = ()) -> Story:
    """Read and judge. Raises LedgerError where a study to compare with is about other photographs."""
    evidence = read_evidence(ledger)
    others = tuple(read_evidence(other) for other in compare)
    for other in others:
        if set(other.quadrats["image_id"]) != set(evidence.quadrats["image_id"]):
            raise LedgerError(
                f"studies are compared over the same images, those of {other.ledger.storage.uri} are others; "
                "leave it out of --compare"
            )
    judge = Judge(evidence.quadrats)
    blend, stored, no_blend = blend_of(evidence)
    known = {**evidence.pred, **evidence.references}
    best = next(iter(evidence.pred.values()), None)
    shown = None
    if blend is not None:
        shown = Shown(name="the blend", pred_NT=blend.honest_NT)
    elif best is not None:
        shown = Shown(name="the best trial", pred_NT=best)
    work = tuple(work_of(evidence.trials))
    return Story(
        evidence=evidence,
        others=others,
        judge=judge,
        blend=blend,
        stored=stored,
        no_blend=no_blend,
        shown=shown,
        scores={name: judge.score(pred_NT) for name, pred_NT in known.items()},
        behind={} if best is None else {name: judge.gain(pred_NT, best) for name, pred_NT in known.items()},
        single=None if blend is None else _single(blend),
        importances={family: importance_of(evidence, family) for family in evidence.families},
        work=work,
        clock=Clock([(one.start, one.end) for one in work] + _untimed(evidence)),
    )


def _untimed(evidence: Evidence) -> list[tuple[float, float]]:
    """When trials were under way whose folds were not read one by one."""
    return [
        (trial.record.proposed_at, trial.ended_at)
        for trial in evidence.trials
        if not trial.folds and trial.ended_at is not None and trial.ended_at >= trial.record.proposed_at
    ]


def _single(blend: Blend) -> Estimate:
    """The best trial as a rule of its own: nested like the blend, so that the two can be compared."""
    gram = blend.library.gram
    by = nest_of(gram)
    (nested,) = nested_all(gram, [SINGLE_BEST], by, seed=blend.card.seed)
    return score_estimate(gram, nested.loss_C, seed=blend.card.seed)
