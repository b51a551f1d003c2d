"""`biomass audit`: proves from the ledger alone that nothing was lost, repeated or half-written; refits a sample.

Every trial must be complete, pruned or failed with a reason; every fold there once, of the size and hash that its
marker vouches for; pooled rows, scores and ids must follow from what lies below them.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biomass_models.folds import fold_hash
from biomass_models.targets import TARGETS, weighted_r2_score
from biomass_models.weights import WeightsSource
from orchestration.ids import trial_id_of
from orchestration.ledger import Ledger, LedgerError, folds_of
from orchestration.records import COMPLETE, TrialRecord, TrialResult
from orchestration.refit import Refitter, same_rows
from orchestration.seeds import derive_seed

LATE_SECONDS = 2.0  # clocks of two nodes may differ by so much before a start counts as one after the end


@dataclass
class Audit:
    """What was found. `problems` break a rule; `unfinished` trials only need the search to go on."""

    trials: Counter[str] = field(default_factory=Counter)  # by status
    folds: int = 0  # finished and verified
    restarts: int = 0  # folds begun again because a driver, worker or node was lost
    unfinished: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.problems and not self.unfinished

    def to_json(self) -> dict[str, Any]:
        """The fields, and whether the audit passed."""
        return {"clean": self.clean, **vars(self)}

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.trials.items())) or "none"
        lines = [f"trials: {counts}; folds verified: {self.folds}; begun again after a loss: {self.restarts}"]
        lines += [f"problem: {problem}" for problem in self.problems]
        if self.unfinished:
            lines.append(f"unfinished: {', '.join(self.unfinished)}; the command of the search goes on with them")
        lines.append("audit passed" if self.clean else f"audit found {len(self.problems)} problems")
        return "\n".join(lines)


def audit(ledger: Ledger) -> Audit:
    """Read every file of a study's trials and verify it. Writes nothing."""
    found, study, quadrats = Audit(), ledger.study(), ledger.quadrats()
    if fold_hash(quadrats[["image_id", "fold", "group"]]) != study.fold_hash:
        found.problems.append("quadrats.parquet does not hold the folds that study.json names")
    records = {record.trial_id: record for record in ledger.trials()}
    found.problems += [
        f"trials/{name} has no readable trial.json" for name in ledger.storage.children("trials") if name not in records
    ]
    for record in records.values():
        found.problems += [f"trial {record.trial_id}: {problem}" for problem in _trial(ledger, record, quadrats, found)]
        identity = trial_id_of(record, study.fold_hash)
        if identity != record.trial_id:
            found.problems.append(f"trial {record.trial_id}: its trial.json describes trial {identity}")
    if found.trials["failed"] and not found.trials["complete"]:
        reasons = Counter(str(result.reason) for result in ledger.results().values())
        reason, times = reasons.most_common(1)[0]
        found.problems.append(
            f"no trial is complete, got {found.trials['failed']} failed, most often ({times}) for: {reason}; mend it, "
            "then give the command of the search with --retry-failed"
        )
    return found


def refit(
    ledger: Ledger, data_dir: Path, *, sample: int, cache_dir: Path, weights: WeightsSource, say: Callable[[str], None]
) -> list[str]:
    """Fit a sample of the complete trials again from their trial.json; the problems are folds that come out otherwise.

    Out-of-fold rows must be the same bit for bit, which holds on the same kind of machine and packages.
    """
    results = ledger.results()
    complete = sorted(name for name, result in results.items() if result.status == COMPLETE)
    order = np.random.default_rng(derive_seed("audit", complete)).permutation(len(complete))
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        refitter = Refitter(ledger, data_dir, Path(folder), cache_dir, weights)
        for name in [complete[place] for place in order[:sample]]:
            again = refitter.folds(name, range(len(results[name].fold_scores)))
            problems += [
                f"trial {name}: fold {fold.fold} {fold.problem or 'fitted again has other out-of-fold rows'}"
                for fold in again
                if not fold.same
            ]
            say(f"refitted {name}")
    return problems


def _trial(ledger: Ledger, record: TrialRecord, quadrats: pd.DataFrame, found: Audit) -> Iterator[str]:
    name, result = record.trial_id, ledger.result(record.trial_id)
    folds = {}
    for fold in folds_of(quadrats):
        starts = ledger.fold_starts(name, fold)
        found.restarts += max(0, len(starts) - 1)
        metrics = ledger.fold_metrics(name, fold)
        if metrics is not None:
            folds[fold] = ledger_rows = _fold_rows(ledger, name, fold)
            found.folds += not isinstance(ledger_rows, str)
            if any(start.started_at > metrics.finished_at for start in starts):
                yield f"fold {fold} was begun again after it had been finished"
            if not starts:
                yield f"fold {fold} is finished but was never begun"
        if result is not None and any(start.started_at > result.ended_at + LATE_SECONDS for start in starts):
            yield f"fold {fold} was begun after the trial had ended"
    yield from (f"fold {fold}: {rows}" for fold, rows in folds.items() if isinstance(rows, str))
    if result is None:
        found.unfinished.append(name)
        return
    found.trials[result.status] += 1
    match result.status:
        case "complete":
            yield from _complete(ledger, name, result, folds, quadrats)
        case "pruned":
            if not result.reason or not result.decisions or not result.decisions[-1].prune:
                yield "it is pruned without a decision that says so"
            if not 0 < len(folds) < quadrats["fold"].nunique():
                yield f"it is pruned with {len(folds)} folds of {quadrats['fold'].nunique()}"
        case "failed":
            if not result.reason:
                yield "it failed without a reason"
        case other:
            yield f"its status must be complete, pruned or failed, got {other!r}"


def _complete(
    ledger: Ledger, name: str, result: TrialResult, folds: dict[int, pd.DataFrame | str], quadrats: pd.DataFrame
) -> Iterator[str]:
    missing = sorted(set(quadrats["fold"]) - set(folds))
    if missing:
        yield f"it is complete without the folds {missing}"
        return
    frames = [rows for rows in folds.values() if not isinstance(rows, str)]
    if len(frames) < len(folds):
        return
    try:
        pooled = ledger.oof(name)
    except (LedgerError, OSError) as error:
        yield str(error)
        return
    rows = pd.concat(frames).set_index("image_id")
    if rows.index.has_duplicates or set(rows.index) != set(quadrats["image_id"]):
        yield "its folds do not hold every image once"
        return
    if not same_rows(pooled, rows.loc[quadrats["image_id"]].reset_index()):
        yield "its pooled out-of-fold rows are not those of its folds"
    score = weighted_r2_score(quadrats[list(TARGETS)], pooled[list(TARGETS)])
    if result.score is None or abs(score - result.score) > 1e-9:
        yield f"its score is recorded as {result.score}, its rows give {score:.6f}"


def _fold_rows(ledger: Ledger, name: str, fold: int) -> pd.DataFrame | str:
    """The verified rows of a finished fold, or what is wrong with its files."""
    try:
        ledger.fold_model(name, fold)
        return ledger.fold_oof(name, fold)
    except (LedgerError, OSError) as error:
        return str(error)
