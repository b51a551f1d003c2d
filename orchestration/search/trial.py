"""The coordinator of one trial: pilot fold, pruning decisions, remaining folds, result in the ledger."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from biomass_models.data.alignment import rows_of
from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.families.introduced import config_from_stored
from biomass_models.targets import TARGETS, rmse_by_target, weighted_r2_score
from orchestration.search.incumbent import Incumbent
from orchestration.search.pruning import PruneRule
from orchestration.study import layout
from orchestration.study.data import StudyData
from orchestration.study.derived.events import write_events
from orchestration.study.ledger import Ledger, LedgerError, folds_of
from orchestration.study.mixed import mixed_facts
from orchestration.study.records import COMPLETE, FAILED, PRUNED, Decision, FoldMetrics, TrialRecord, TrialResult
from orchestration.workers.jobs import FoldJob, Outcome
from orchestration.workers.pool import PILOT, RUNNING, Pool, Priority


class BlockedError(UserError):
    """Study, feature cache or workers are out of order: nothing is wrong with the trial, but the search must end."""


# the store is full, away or torn, the code or the memory is gone: the trial is not to blame, and stays open
NOT_THE_TRIAL = (OSError, BlockedError, LedgerError, ImportError, MemoryError)


SEEN_SECONDS = 90.0  # for which NFS may remember that a file was not there: 60 by default
LOOK_SECONDS = 0.5


def fold_order(number: int, folds: list[int]) -> list[int]:
    """The folds of a trial in the order they are handed in; trials take turns in which fold is the pilot.

    With one pilot fold for all, every survivor would have been chosen on the same images.
    """
    start = number % len(folds)
    return folds[start:] + folds[:start]


def run_trial(
    ledger: Ledger,
    pool: Pool,
    trial_id: str,
    *,
    rule: PruneRule | None = None,
    incumbent: Incumbent | None = None,
    together: bool = False,
) -> TrialResult | None:
    """Bring a trial to its end and return its result, or None when it was stopped before its end.

    Folds that are in the ledger are not computed again. The score is that of the pooled OOF rows.
    rule: how to prune, None for not at all; incumbent: what it compares with (one that outlives the trial reads less).
    together: train the folds as one batched problem where the family can; pruning then has nothing left to save.
    Raises BlockedError.
    """
    if (result := ledger.result(trial_id)) is not None:
        return result
    trial = _Trial(ledger, pool, trial_id, rule, incumbent or Incumbent(StudyData(ledger)), together)
    return trial.run()


def _batches_folds(record: TrialRecord) -> bool:
    config = config_from_stored(record.family, record.config)
    return record.second_round is None and registry.family(record.family).batches_folds(config)


class _Trial:
    def __init__(
        self,
        ledger: Ledger,
        pool: Pool,
        trial_id: str,
        rule: PruneRule | None,
        incumbent: Incumbent,
        together: bool,
    ) -> None:
        self._ledger, self._pool, self._id, self._incumbent = ledger, pool, trial_id, incumbent
        record = ledger.trial(trial_id)
        # folds in order of time, or of a second round, learn from different rows: each is a problem of its own
        self._together = together and _batches_folds(record) and not incumbent.data.settings.ordered
        self._rule = None if record.spared or self._together else rule
        folds = folds_of(incumbent.data.quadrats)
        self._order = fold_order(record.number, folds)
        self._metrics: dict[int, FoldMetrics] = {}
        self._decisions: list[Decision] = []
        self._reason: str | None = None
        self._stopped = False
        # of this life of the coordinator: what an earlier one dropped must not stop this one
        self._attempt = secrets.token_hex(8)

    @property
    def _missing(self) -> list[int]:
        return [fold for fold in self._order if fold not in self._metrics]

    @property
    def _pruned(self) -> bool:
        return bool(self._decisions) and self._decisions[-1].prune

    def run(self) -> TrialResult | None:
        self._find()
        if self._together:
            self._work(self._missing[:1], RUNNING if self._metrics else PILOT)
            self._find()  # the others came with it
        elif self._metrics:
            self._decide(list(self._metrics)[-1])
        elif self._rule is not None:
            self._work(self._order[:1], PILOT)
        if not (self._pruned or self._reason or self._stopped):
            # the rest of a trial that is not up for pruning queues with the pilots: nothing waits for its first fold
            started = self._metrics or self._rule is not None
            promise = -self._decisions[-1].estimate if self._decisions else 0.0
            self._work(self._missing, (RUNNING[0], promise) if started else PILOT)
        return self._close()

    def _find(self) -> None:
        """Folds that the ledger has already; one whose rows are torn is set aside, and computed again."""
        for fold in self._missing:
            if (found := self._ledger.fold_metrics(self._id, fold)) is None:
                continue
            try:
                self._ledger.fold_oof(self._id, fold)
            except LedgerError:
                self._ledger.set_fold_aside(self._id, fold)
            else:
                self._metrics[fold] = found

    def _work(self, folds: list[int], priority: Priority) -> None:
        jobs = [FoldJob(trial_id=self._id, attempt=self._attempt, fold=fold, together=self._together) for fold in folds]
        for job, outcome in self._pool.run(jobs, priority):
            self._take(job.fold, outcome)

    def _take(self, fold: int, outcome: Outcome) -> None:
        match outcome.status:
            case "done":
                assert outcome.metrics is not None
                self._await_files(fold)
                self._metrics[fold] = outcome.metrics
                if not (self._pruned or self._reason):
                    self._decide(fold)
            case "failed" if not (self._pruned or self._reason):  # what a pruned one still computes changes nothing
                self._reason = f"fold {fold}: {outcome.reason}"
                self._pool.drop(self._attempt)
            case "blocked":
                raise BlockedError(f"{outcome.reason}, then run the same command again")
            case "stopped":
                self._stopped = self._stopped or not (self._pruned or self._reason)

    def _await_files(self, fold: int) -> None:
        """Until files of a fold that another machine has written are seen here, for SEEN_SECONDS at most.

        `_find` has looked for them before they were there, and NFS remembers that for up to a minute.
        """
        end = time.monotonic() + SEEN_SECONDS
        while self._ledger.fold_metrics(self._id, fold) is None and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            if not self._ledger.storage.children(layout.trial(self._id)):
                return  # the study itself has gone
            self._ledger.storage.children(layout.fold(self._id, fold))  # NFS asks its server when a folder is opened

    def _decide(self, fold: int) -> None:
        """Apply the rule after a fold; a trial that is pruned gives back its queued and running folds first."""
        if self._rule is None or not self._missing:
            return
        oof = pd.concat([self._ledger.fold_oof(self._id, done) for done in self._metrics])
        decision = self._incumbent.decide(self._rule, oof, after_fold=fold, folds_done=len(self._metrics))
        if decision is None:
            return
        self._decisions.append(decision)
        if decision.prune:
            self._pool.drop(self._attempt)

    def _close(self) -> TrialResult | None:
        oof: pd.DataFrame | None = None
        if self._reason is not None:
            ending = TrialResult(status=FAILED, reason=self._reason)
        elif self._stopped:
            return None
        elif self._pruned and self._missing:  # its last folds may have been over before the decision reached them
            last = self._decisions[-1]
            ending = TrialResult(status=PRUNED, estimate=last.estimate, reason=str(last))  # readers: TrialResult.why
        else:
            oof, ending = self._pooled()
        result = _with_cost(replace(ending, decisions=tuple(self._decisions), ended_at=time.time()), self._metrics)
        self._ledger.write_result(self._id, result, oof)
        write_events(self._ledger, self._id, self._metrics)
        return result

    def _pooled(self) -> tuple[pd.DataFrame, TrialResult]:
        data, folds = self._incumbent.data, sorted(self._order)
        oof = pd.concat([self._ledger.fold_oof(self._id, fold) for fold in folds])
        oof = rows_of(oof, data.quadrats["image_id"])
        pred_NT = oof[list(TARGETS)].to_numpy()
        return oof, TrialResult(
            status=COMPLETE,
            score=weighted_r2_score(data.truth_NT, pred_NT, data.weight),
            fold_scores=tuple(self._metrics[fold].score for fold in folds),
            teacher_score=self._teacher_score(),
            target_rmse_g=rmse_by_target(data.truth_NT, pred_NT, data.weight),
        )

    def _teacher_score(self) -> float | None:
        """Mean over folds of the teachers' own scores; None where nobody taught."""
        scores = [fold.teacher_score for fold in self._metrics.values()]
        known = [score for score in scores if score is not None]
        return sum(known) / len(known) if known else None


def _with_cost(result: TrialResult, metrics: Mapping[int, FoldMetrics]) -> TrialResult:
    folds = metrics.values()
    return replace(
        result,
        mixed=mixed_facts(folds),
        folds_done=len(metrics),
        seconds=sum(fold.seconds for fold in folds),
        gpu_seconds=sum(fold.gpu_seconds for fold in folds),
        peak_memory_mb=max((fold.peak_memory_mb for fold in folds), default=0.0),
        peak_gpu_memory_mb=max((fold.peak_gpu_memory_mb for fold in folds), default=0.0),
    )
