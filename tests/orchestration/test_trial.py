"""The coordinator with real models in this process: pooled score, resumed folds, failures, stops."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from tiny_study import RANDOM, make_study

from biomass_models.targets import TARGETS, weighted_r2_score
from orchestration.inspect.audit import audit
from orchestration.search import trial
from orchestration.search.pruning import RULES
from orchestration.search.trial import BlockedError, run_trial
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import FoldJob, Outcome
from orchestration.workers.slots.inline_pool import InlinePool


class Counting(InlinePool):
    """Remembers which folds it was asked for; may pretend that some are stopped."""

    def __init__(self, context: WorkerContext, stop_after: int | None = None) -> None:
        super().__init__(context)
        self.asked: list[int] = []
        self.attempts: list[str] = []
        self.dropped: list[str] = []
        self._stop_after = stop_after

    def run(self, jobs: list[FoldJob], priority: int) -> Iterator[tuple[FoldJob, Outcome]]:
        for count, pair in enumerate(super().run(jobs, priority)):
            if self._stop_after is not None and count >= self._stop_after:
                return
            self.asked.append(pair[0].fold)
            self.attempts.append(pair[0].attempt)
            yield pair

    def drop(self, attempt: str) -> None:
        super().drop(attempt)
        self.dropped.append(attempt)


class Late(Storage):
    """As NFS shows what other machines write: a name that was not there is remembered as absent for a while."""

    def __init__(self, root: str, seconds: float) -> None:
        super().__init__(root)
        self._seconds = seconds
        self._absent: dict[str, float] = {}

    def read(self, name: str) -> bytes:
        if self._absent.get(name, 0.0) > time.monotonic():
            raise FileNotFoundError(name)
        try:
            return super().read(name)
        except FileNotFoundError:
            self._absent[name] = time.monotonic() + self._seconds
            raise


class Closed(InlinePool):
    """Stops every job, as a pool does that is being closed."""

    def run(self, jobs: list[FoldJob], priority: int) -> Iterator[tuple[FoldJob, Outcome]]:
        for job in jobs:
            self.drop(job.attempt)
        yield from super().run(jobs, priority)


class ProcessDied(BaseException):
    """Ends a coordinator as a kill does: nothing of it runs afterwards."""


class Dying(InlinePool):
    """The first attempt's process dies right after it has dropped its trial."""

    def run(self, jobs: list[FoldJob], priority: int) -> Iterator[tuple[FoldJob, Outcome]]:
        if not self._dropped:
            self.drop(jobs[0].attempt)
            assert [outcome.status for _, outcome in super().run(jobs, priority)] == ["stopped"] * len(jobs)
            raise ProcessDied
        yield from super().run(jobs, priority)


@pytest.mark.slow
@pytest.mark.parametrize(("remembered", "waits"), [(2.0, 60.0), (60.0, 0.1)])
def test_folds_of_other_machines_may_be_seen_late(
    tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch, remembered: float, waits: float
) -> None:
    monkeypatch.setattr(trial, "SEEN_SECONDS", waits)
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    here = Ledger(Late(ledger.storage.uri, remembered))
    if waits > remembered:
        result = run_trial(here, InlinePool(context), records[0].trial_id)
        assert result is not None and result.status == "complete"
    else:
        with pytest.raises(LedgerError, match="is not finished"):
            run_trial(here, InlinePool(context), records[0].trial_id)
        assert ledger.result(records[0].trial_id) is None


@pytest.mark.parametrize("family", [0, 1])
def test_a_trial_is_scored_on_its_pooled_rows(tmp_path: Path, tiny_pasture: Path, family: int) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    trial_id = records[family].trial_id
    result = run_trial(ledger, InlinePool(context), trial_id)
    assert result is not None and result.status == "complete" == ledger.results()[trial_id].status
    quadrats, oof = ledger.quadrats(), ledger.oof(trial_id)
    assert list(oof["image_id"]) == list(quadrats["image_id"]) and list(oof["fold"]) == list(quadrats["fold"])
    pooled = weighted_r2_score(quadrats[list(TARGETS)], oof[list(TARGETS)])
    assert result.score == pytest.approx(pooled, abs=1e-12)
    for fold, score in enumerate(result.fold_scores):
        rows = quadrats["fold"] == fold
        expected = weighted_r2_score(quadrats.loc[rows, list(TARGETS)], oof.loc[rows, list(TARGETS)])
        assert score == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_an_interrupted_trial_keeps_its_folds_and_its_bytes(tmp_path: Path, tiny_pasture: Path) -> None:
    whole, context, records = make_study(tmp_path / "whole", tiny_pasture, tmp_path / "cache")
    trial_id = records[0].trial_id
    run_trial(whole, InlinePool(context), trial_id)

    ledger, context, _ = make_study(tmp_path / "part", tiny_pasture, tmp_path / "cache")
    first = Counting(context, stop_after=1)
    with pytest.raises(LedgerError, match="not finished"):  # the pool broke off: the trial cannot be closed
        run_trial(ledger, first, trial_id)
    assert first.asked == [0] and ledger.result(trial_id) is None
    kept = ledger.fold_metrics(trial_id, 0)
    second = Counting(context)
    assert run_trial(ledger, second, trial_id) is not None
    # the fold that was running when the pool broke off had finished as well, and is not computed again
    assert second.asked == [2] and ledger.fold_metrics(trial_id, 0) == kept
    assert [len(ledger.fold_starts(trial_id, fold)) for fold in range(3)] == [1, 1, 1]
    pd.testing.assert_frame_equal(ledger.oof(trial_id), whole.oof(trial_id), check_exact=True)
    third = Counting(context)
    run_trial(ledger, third, trial_id)
    assert third.asked == []


def test_a_failing_fold_fails_its_trial_with_the_reason(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    broken = WorkerContext(study=context.study, data_dir=str(tmp_path / "moved"), cache=context.cache, weights=RANDOM)
    pool = Counting(broken)
    result = run_trial(ledger, pool, records[0].trial_id)
    assert result is not None and result.status == "failed" and result.score is None
    assert "fold 0" in result.reason and "moved" in result.reason
    assert pool.dropped == pool.attempts[:1] != [""]
    assert ledger.result(records[0].trial_id) is not None


def test_a_stopped_trial_stays_open(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    assert run_trial(ledger, Closed(context), records[1].trial_id) is None
    assert ledger.result(records[1].trial_id) is None


@pytest.mark.parametrize("family", [0, 1, 2])
@pytest.mark.slow
def test_a_coordinator_that_starts_again_ends_the_trial_that_its_earlier_life_dropped(
    tmp_path: Path, tiny_pasture: Path, family: int
) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    trial_id, pool = records[family].trial_id, Dying(context)
    with pytest.raises(ProcessDied):
        run_trial(ledger, pool, trial_id)
    assert ledger.result(trial_id) is None
    result = run_trial(ledger, pool, trial_id)  # the same pool, in which that attempt is still dropped
    assert result is not None and result.status == "complete"


def test_a_full_disk_leaves_the_trial_open(tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    with monkeypatch.context() as full:

        def no_room(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr("biomass_models.whole_files.os.fsync", no_room)
        with pytest.raises(BlockedError, match="make room"):
            run_trial(ledger, InlinePool(context), records[1].trial_id)
    assert ledger.result(records[1].trial_id) is None
    result = run_trial(ledger, InlinePool(context), records[1].trial_id)
    assert result is not None and result.status == "complete"


@pytest.mark.slow
def test_folds_together_are_one_job_with_the_same_scores(tmp_path: Path, tiny_pasture: Path) -> None:
    results = {}
    for name, together in (("together", True), ("apart", False)):
        ledger, context, records = make_study(tmp_path / name, tiny_pasture, tmp_path / "cache")
        pool = Counting(context)
        results[name] = run_trial(ledger, pool, records[0].trial_id, rule=RULES["default"], together=together)
        assert len(pool.asked) == (1 if together else 3)
        for fold in range(3):
            metrics = ledger.fold_metrics(records[0].trial_id, fold)
            assert metrics is not None
            assert metrics.info.get("folds_together") == (3 if together else None)
            assert len(ledger.fold_starts(records[0].trial_id, fold)) == 1
    one, other = results["together"], results["apart"]
    assert one is not None and other is not None
    assert one.score == pytest.approx(other.score, abs=1e-3)
    assert one.fold_scores == pytest.approx(other.fold_scores, abs=1e-3)
    assert audit(Ledger(Storage(tmp_path / "together"))).problems == []


def test_a_fold_that_is_missing_comes_back_the_same_from_a_batch(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    trial_id = records[0].trial_id
    run_trial(ledger, InlinePool(context), trial_id, together=True)
    folder = tmp_path / "study" / "trials" / trial_id
    kept = {fold: (folder / f"fold-{fold}" / "oof.parquet").read_bytes() for fold in range(3)}
    times = {fold: (folder / f"fold-{fold}" / "oof.parquet").stat().st_mtime_ns for fold in range(3)}
    (folder / "result.json").unlink()
    (folder / "fold-1" / "metrics.json").unlink()
    assert run_trial(ledger, InlinePool(context), trial_id, together=True) is not None
    assert {fold: (folder / f"fold-{fold}" / "oof.parquet").read_bytes() for fold in range(3)} == kept
    unchanged = [
        fold for fold in range(3) if (folder / f"fold-{fold}" / "oof.parquet").stat().st_mtime_ns == times[fold]
    ]
    assert unchanged == [0, 2]


@pytest.mark.slow
def test_what_cannot_train_together_trains_apart(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    for record in records[1:]:
        pool = Counting(context)
        result = run_trial(ledger, pool, record.trial_id, together=True)
        assert result is not None and result.status == "complete" and len(pool.asked) == 3
