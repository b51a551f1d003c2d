"""`biomass repair`: reopens what an audit finds, so that the next search computes it again, and nothing else.

A fold whose files are torn loses its marker, a trial that ended without them its result; both are set aside in the
study, not deleted. What cannot be made again from the study and its photographs is left, and named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from biomass_models.counted import counted
from orchestration.inspect.audit import ENSEMBLE, FOLD, REFERENCES, RESULT, SECOND_ROUND, TRIAL, Problem, audit
from orchestration.study.ledger import Ledger, folds_of
from orchestration.study.lock import study_lock
from orchestration.study.records import COMPLETE, FAILED, PRUNED


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is reopened of one trial, ensemble or table, and why."""

    kind: str  # TRIAL, ENSEMBLE, REFERENCES or SECOND_ROUND
    name: str
    reasons: tuple[str, ...]
    torn: tuple[int, ...] = ()  # folds whose markers are set aside
    computed: tuple[int, ...] = ()  # folds that the next search computes
    reopens: bool = False  # the trial's result is set aside
    removes: bool = False  # the trial itself is, for its record cannot be read
    failed: bool = False  # the trial had failed: it is taken up with --retry-failed only

    def __str__(self) -> str:
        why = "; ".join(self.reasons)
        if self.kind != TRIAL:
            return f"{self.name} is made anew: {why}"
        if self.removes:
            return f"trial {self.name} is set aside, its folds serve when it is proposed again: {why}"
        if not self.computed:
            return f"trial {self.name} is pooled anew from its folds, nothing is computed: {why}"
        when = ", with --retry-failed" if self.failed else ""
        return f"trial {self.name}: fold {', '.join(map(str, self.computed))} is computed again{when}: {why}"


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What an audit found, and what is done about it."""

    done: bool  # or only planned
    steps: tuple[Step, ...]
    left: tuple[str, ...]  # problems that nothing in the study can mend

    @property
    def folds(self) -> int:
        """That are computed again."""
        return sum(len(step.computed) for step in self.steps)

    def __str__(self) -> str:
        lines = [*map(str, self.steps), *(f"left as it is: {problem}" for problem in self.left)]
        if not self.steps:
            return "\n".join([*lines, "nothing to repair"])
        end = "run `biomass search` again to compute them" if self.done else "nothing was changed, --yes reopens it"
        return "\n".join([*lines, f"{counted(self.folds, 'fold')} to compute again; {end}"])


def plan_repair(ledger: Ledger) -> Repair:
    """What `repair` would do. Writes nothing."""
    problems = audit(ledger).found
    by_place: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        if (reopening := problem.reopening) is not None:
            kind = reopening.kind if reopening.kind in (ENSEMBLE, REFERENCES, SECOND_ROUND) else TRIAL
            by_place.setdefault((kind, reopening.name), []).append(problem)
    steps = [
        _trial_step(ledger, name, found)
        if kind == TRIAL
        else Step(kind=kind, name=f"{kind} {name}".strip(), reasons=tuple(problem.text for problem in found))
        for (kind, name), found in by_place.items()
    ]
    left = tuple(problem.text for problem in problems if problem.reopening is None)
    return Repair(done=False, steps=tuple(steps), left=left)


def repair(ledger: Ledger, say: Callable[[str], None]) -> Repair:
    """Do it, as the only driver of the study. Raises LockError while another one works on it."""
    with study_lock(ledger, say):
        plan = plan_repair(ledger)
        for step in plan.steps:
            _take(ledger, step)
    return replace(plan, done=True)


def _trial_step(ledger: Ledger, name: str, found: list[Problem]) -> Step:
    reopenings = [problem.reopening for problem in found if problem.reopening is not None]
    kinds = {reopening.kind for reopening in reopenings}
    reasons = tuple(problem.text.removeprefix(f"trial {name}: ") for problem in found)
    if TRIAL in kinds:
        return Step(kind=TRIAL, name=name, reasons=reasons, removes=True)
    torn = {reopening.fold for reopening in reopenings if reopening.kind == FOLD}
    result = ledger.result(name)
    status = None if result is None else result.status
    missing = torn
    if status == COMPLETE:
        missing = torn | {fold for fold in folds_of(ledger.quadrats()) if ledger.fold_metrics(name, fold) is None}
    return Step(
        kind=TRIAL,
        name=name,
        reasons=reasons,
        torn=tuple(sorted(torn)),
        computed=tuple(sorted(missing)),
        reopens=RESULT in kinds or status in (COMPLETE, PRUNED),
        failed=status == FAILED,
    )


def _take(ledger: Ledger, step: Step) -> None:
    """Results go before the folds that they rest on: whatever kills this leaves nothing that looks complete."""
    if step.kind == ENSEMBLE:
        ledger.set_ensemble_aside(step.name.removeprefix(f"{ENSEMBLE} "))
    elif step.kind == SECOND_ROUND:
        ledger.set_labels_aside(step.name.removeprefix(f"{SECOND_ROUND} "))
    elif step.kind == REFERENCES:
        ledger.remove_references()
    elif step.removes:
        ledger.set_trial_aside(step.name)
    else:
        if step.reopens:
            ledger.reopen(step.name)
        for fold in step.torn:
            ledger.set_fold_aside(step.name, fold)
