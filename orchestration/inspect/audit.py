"""`biomass audit`: proves from the ledger alone that nothing was lost, repeated or half-written; refits a sample.

Every trial must be complete, pruned or failed with a reason; every fold there once, of the size and hash that its
marker vouches for; pooled rows, scores and ids must follow from what lies below them. What `biomass repair` can reopen
is said with each problem.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from biomass_models.backbones.weights import WeightsSource
from biomass_models.counted import counted
from biomass_models.data.alignment import rows_of
from biomass_models.targets import TARGETS, weighted_r2_score
from orchestration.study import layout
from orchestration.study.data import StudyData, Trial
from orchestration.study.ids import trial_id_of
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.mixed import mixed_facts, mixed_text
from orchestration.study.records import COMPLETE, FAILED, FoldMetrics, TrialResult
from orchestration.study.seeds import derive_seed
from orchestration.workers.refit import Refitter, require_images, same_rows
from orchestration.workers.weights_here import searched_source

LATE_SECONDS = 2.0  # clocks of two nodes may differ by so much before a start counts as one after the end
FOLD, RESULT, TRIAL, ENSEMBLE, REFERENCES = "fold", "result", "trial", "ensemble", "references"
SECOND_ROUND = "second round"


class Reopening(NamedTuple):
    """What `biomass repair` takes back: a fold's marker, a trial's end or record, an ensemble, the references, the
    labels of a second round."""

    kind: str  # FOLD, RESULT, TRIAL, ENSEMBLE, REFERENCES or SECOND_ROUND
    name: str = ""  # trial id, name of the ensemble, or id of the second round
    fold: int = -1


class Problem(NamedTuple):
    """A rule that is broken; reopening: what mends it, None where nothing in the study does."""

    text: str
    reopening: Reopening | None = None


@dataclass
class Audit:
    """What was found. `problems` break a rule; `open` trials only need the search to go on."""

    trials: Counter[str] = field(default_factory=Counter)  # by status
    folds: int = 0  # finished and verified
    dropped: int = 0  # of these, folds whose model was deleted to keep --weights-gb
    restarts: int = 0  # folds begun again because a driver, worker or node was lost
    mixed: list[str] = field(default_factory=list)  # trials whose folds were not made alike, and in what they differ
    open: list[str] = field(default_factory=list)  # trials that have not ended
    found: list[Problem] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return [problem.text for problem in self.found]

    @property
    def clean(self) -> bool:
        return not self.found and not self.open

    def to_json(self) -> dict[str, Any]:
        """The counts, the texts, and whether the audit passed."""
        fields = {name: value for name, value in vars(self).items() if name != "found"}
        return {"clean": self.clean, **fields, "problems": self.problems}

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.trials.items())) or "none"
        without = f" ({self.dropped} without their model, as recorded)" if self.dropped else ""
        lines = [f"trials: {counts}; folds verified: {self.folds}{without}; begun again after a loss: {self.restarts}"]
        lines += [f"note: {text}" for text in self.mixed]
        lines += [f"problem: {problem}" for problem in self.problems]
        if self.open:
            lines.append(f"open: {', '.join(self.open)}; run `biomass search` again to resume them")
        if self.clean:
            lines.append("audit passed")
        elif self.found:
            mended = any(problem.reopening is not None for problem in self.found)
            see = "; see biomass repair STUDY" if mended else ""
            lines.append(f"audit found {counted(len(self.found), 'problem')}{see}")
        else:
            lines.append(f"audit found no problem, and {counted(len(self.open), 'open trial')}")
        return "\n".join(lines)


def audit(ledger: Ledger) -> Audit:
    """Read every file of a study's trials and ensembles and verify it. Writes nothing."""
    audit, data = Audit(), StudyData(ledger)
    if data.fold_hash != data.record.fold_hash:
        audit.found.append(Problem("quadrats.parquet does not hold the folds that study.json names"))
    for name in ledger.torn_trials(data.by_id):
        audit.found.append(Problem(f"trials/{name} has no readable trial.json", Reopening(TRIAL, name)))
    for trial in data.trials:
        name = trial.trial_id
        described = trial_id_of(trial.record, data.record.fold_hash)
        if described != name:
            text = f"trial {name}: its trial.json describes trial {described}"
            audit.found.append(Problem(text, Reopening(TRIAL, name)))
        for text, reopening in _trial(data, trial, audit):
            audit.found.append(Problem(f"trial {name}: {text}", reopening))
    audit.found += _others(ledger)
    audit.found += _second_rounds(data)
    try:
        ledger.exam_quadrats()
        ledger.exams()
    except LedgerError as error:
        audit.found.append(Problem(str(error)))
    if audit.trials[FAILED] and not audit.trials[COMPLETE]:
        reasons = Counter(str(result.reason) for result in data.results.values() if result.status == FAILED)
        reason, times = reasons.most_common(1)[0]
        text = (
            f"no trial is complete, got {audit.trials[FAILED]} failed, most often ({times}) for: {reason}; mend it, "
            "then run `biomass search` again with --retry-failed"
        )
        audit.found.append(Problem(text))
    return audit


def refit(
    ledger: Ledger,
    data_dir: Path,
    *,
    sample: int,
    cache_dir: Path | None,
    weights: WeightsSource | None = None,
    say: Callable[[str], None],
) -> list[Problem]:
    """Fit a sample of the complete trials again from their trial.json; the problems are folds that come out otherwise.

    cache_dir: a feature store to take features from; None computes them afresh, so that a wrong feature shows.
    weights: None takes them from where the search had them. Out-of-fold rows must be the same bit for bit, which holds
    on the same kind of machine and packages.
    """
    results = StudyData(ledger).results
    complete = sorted(name for name, result in results.items() if result.status == COMPLETE)
    require_images("a trial is fitted again", ledger, data_dir)
    order = np.random.default_rng(derive_seed("audit", complete)).permutation(len(complete))
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        refitter = Refitter(ledger, data_dir, Path(folder), cache_dir, weights or searched_source(ledger))
        for name in [complete[place] for place in order[:sample]]:
            again = refitter.folds(name, range(len(results[name].fold_scores)))
            problems += [
                Problem(f"trial {name}: fold {fold.fold} {fold.problem or 'fitted again has other out-of-fold rows'}")
                for fold in again
                if not fold.same
            ]
            say(f"refitted {name}")
    return problems


def _trial(data: StudyData, trial: Trial, audit: Audit) -> Iterator[Problem]:
    ledger, name = data.ledger, trial.trial_id
    result = ledger.result(name)  # anew, because trials of a running search end while others are read
    whole: dict[int, pd.DataFrame] = {}
    found: list[FoldMetrics] = []
    for fold in data.folds:
        starts = ledger.fold_starts(name, fold)
        audit.restarts += max(0, len(starts) - 1)
        if (text := ledger.fold_problem(name, fold)) is not None:
            yield Problem(f"fold {fold}: {text}", Reopening(FOLD, name, fold))
        elif (metrics := ledger.fold_metrics(name, fold)) is not None:
            whole[fold] = ledger.fold_oof(name, fold)
            found.append(metrics)
            audit.folds += 1
            audit.dropped += ledger.dropped_model(name, fold) is not None
            if any(start.started_at > metrics.finished_at for start in starts):
                yield Problem(f"fold {fold} was begun again after it had been finished")
            if not starts:
                yield Problem(f"fold {fold} is finished but was never begun")
        if result is not None and any(start.started_at > result.ended_at + LATE_SECONDS for start in starts):
            yield Problem(f"fold {fold} was begun after the trial had ended")
    if ledger.all_rows(name) is not None and ledger.all_rows_model(name) is None:
        yield Problem("its model on all rows is torn; `biomass ensemble STUDY --data DIR --all-rows ...` fits it anew")
    if (mixed := mixed_text(mixed_facts(found))) is not None:
        audit.mixed.append(f"trial {name}: {mixed}")
    reopening = Reopening(RESULT, name)
    if result is None:
        audit.open.append(name)
        if ledger.storage.size(layout.result(name)) is not None:
            yield Problem("its result.json cannot be read", reopening)
        return
    audit.trials[result.status] += 1
    texts: Iterator[str]
    match result.status:
        case "complete":
            texts = _complete(data, name, result, whole)
        case "pruned":
            texts = _pruned(result, len(whole), len(data.folds))
        case "failed":
            texts = iter(() if result.reason else ("it failed without a reason",))
        case "refused":
            texts = _refused(result, len(whole))
        case other:
            texts = iter((f"its status must be complete, pruned, failed or refused, got {other!r}",))
    yield from (Problem(text, reopening) for text in texts)


def _complete(data: StudyData, name: str, result: TrialResult, whole: dict[int, pd.DataFrame]) -> Iterator[str]:
    if missing := sorted(set(data.folds) - set(whole)):
        yield f"it is complete without the folds {missing}"
    try:
        pooled = data.ledger.oof(name)
    except LedgerError as error:
        yield str(error).rpartition(";")[0]
        return
    if missing:
        return
    rows, image_ids = pd.concat(list(whole.values())), data.quadrats["image_id"]
    if rows["image_id"].duplicated().any() or set(rows["image_id"]) != set(image_ids):
        yield "its folds do not hold every image once"
        return
    if not same_rows(pooled, rows_of(rows, image_ids)):
        yield "its pooled out-of-fold rows are not those of its folds"
    score = weighted_r2_score(data.truth_NT, pooled[list(TARGETS)], data.weight)
    if result.score is None or abs(score - result.score) > 1e-9:
        yield f"its score is recorded as {result.score}, its rows give {score:.6f}"


def _pruned(result: TrialResult, whole: int, folds: int) -> Iterator[str]:
    if not result.reason or not result.decisions or not result.decisions[-1].prune:
        yield "it is pruned without a decision that says so"
    if not 0 < whole < folds:
        yield f"it is pruned with {whole} of {folds} folds"
    elif whole < result.folds_done:
        there = counted(whole, "is", "are")
        yield f"it was pruned with {counted(result.folds_done, 'fold')}, {there} there whole"


def _refused(result: TrialResult, whole: int) -> Iterator[str]:
    if result.estimated_seconds is None or result.limit_seconds is None or not result.reason:
        yield "it is refused without an estimate and a limit"
    elif result.estimated_seconds <= result.limit_seconds:
        yield f"it is refused for {result.estimated_seconds:.1f} s a fold, within {result.limit_seconds:.1f} s"
    if whole:
        yield f"it is refused, and has {counted(whole, 'fold')}"


def _second_rounds(data: StudyData) -> Iterator[Problem]:
    """Second rounds whose photographs or labels are not those that they were, or that trials learn in without any."""
    ledger, learned_in = (
        data.ledger,
        {one.record.second_round.round_id for one in data.trials if one.record.second_round},
    )
    for name in sorted({*ledger.second_round_ids(), *learned_in}):
        if (text := ledger.second_round_problem(name)) is not None:
            yield Problem(f"second round {name}: {text}", Reopening(SECOND_ROUND, name))
        elif name in learned_in and not ledger.has_labels(name):
            again = f"`biomass search` with --second-round {ledger.second_round(name).ensemble} makes them again"
            yield Problem(f"second round {name} has no labels, and trials learn in it; {again}")


def _others(ledger: Ledger) -> Iterator[Problem]:
    """What lies beside the trials and cannot be read."""
    if ledger.references() is None and ledger.storage.size(layout.REFERENCES) is not None:
        yield Problem(f"{layout.REFERENCES} is no whole table", Reopening(REFERENCES))
    for name in ledger.ensemble_names():
        try:
            ledger.verify_ensemble(name)
        except LedgerError as error:
            yield Problem(f"ensemble {name}: {str(error).rpartition(';')[0]}", Reopening(ENSEMBLE, name))
