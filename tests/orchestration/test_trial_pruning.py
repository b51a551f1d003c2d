"""Pilot fold, decision, remaining folds: driven with a pool that hands out drawn predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import study_records as records

from biomass_models.data.folds import fold_hash
from biomass_models.targets import FROM_COMPONENTS, TARGETS, weighted_r2_score
from orchestration.inspect.audit import audit
from orchestration.inspect.replay import render_replay, replay
from orchestration.search.incumbent import Incumbent
from orchestration.search.pruning import RULES
from orchestration.search.trial import fold_order, run_trial
from orchestration.study.data import StudyData
from orchestration.study.ids import make_trial_id
from orchestration.study.ledger import Ledger
from orchestration.study.records import TrialRecord, TrialResult
from orchestration.study.storage import Storage
from orchestration.workers.jobs import FoldJob, Outcome
from orchestration.workers.pool import PILOT, RUNNING, Priority

N, FOLDS, GROUPS = 200, 5, 40
DEFAULT = RULES["default"]


class Drawn:
    """A pool whose folds are truth plus an error of the trial's own size; everything that is asked is remembered."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.asked: list[tuple[str, int, Priority]] = []
        self._dropped: set[str] = set()

    def run(self, jobs: list[FoldJob], priority: Priority) -> Iterator[tuple[FoldJob, Outcome]]:
        for job in jobs:
            if job.attempt in self._dropped:
                yield job, Outcome(status="stopped")
                continue
            self.asked.append((job.trial_id, job.fold, priority))
            yield job, self._fold(self._ledger.trial(job.trial_id), job.fold)

    def drop(self, attempt: str) -> None:
        self._dropped.add(attempt)

    def _fold(self, record: TrialRecord, fold: int) -> Outcome:
        quadrats = self._ledger.quadrats()
        truth = quadrats[list(TARGETS)].to_numpy()
        error = np.random.default_rng(record.config["errors"]).normal(0, 1, (N, 3)) * record.config["grams"]
        pred = np.maximum(truth[:, :3] + error, 0) @ FROM_COMPONENTS.T
        rows = (quadrats["fold"] == fold).to_numpy()
        oof = records.oof_of(quadrats, pred, fold)
        metrics = records.fold_metrics(fold, weighted_r2_score(truth[rows], pred[rows]), finished_at=9e9)
        self._ledger.note_fold_start(record.trial_id, fold)
        self._ledger.write_fold(record.trial_id, oof=oof, model=b"", metrics=metrics)
        return Outcome(status="done", metrics=metrics)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    truth = np.random.default_rng(0).gamma(2.0, 10.0, (N, 3)) @ FROM_COMPONENTS.T
    quadrats = pd.DataFrame({"image_id": [f"i{row:03d}" for row in range(N)], "fold": np.arange(N) % FOLDS})
    quadrats["group"] = [f"g{row % GROUPS:02d}" for row in range(N)]
    quadrats[list(TARGETS)] = truth
    ledger = Ledger(Storage(tmp_path / "study"))
    ledger.write_study(records.study_record(fold_hash=fold_hash(quadrats)), quadrats)
    return ledger


def propose(ledger: Ledger, number: int, *, errors: int, grams: float, spared: str | None = None) -> str:
    config = {"errors": errors, "grams": grams, "backbone": "net", "number": number}
    identity = make_trial_id("probe", config, "w", 0, ledger.study().fold_hash)
    ledger.write_trial(records.trial_record(number, trial_id=identity, config=config, spared=spared))
    return identity


def test_a_hopeless_trial_ends_after_its_pilot_fold(ledger: Ledger) -> None:
    pool = Drawn(ledger)
    best = propose(ledger, 0, errors=1, grams=2.0, spared="one of the first 10")
    run_trial(ledger, pool, best, rule=DEFAULT)
    assert [fold for _, fold, _ in pool.asked] == [0, 1, 2, 3, 4]
    assert {priority for *_, priority in pool.asked} == {PILOT}

    hopeless = propose(ledger, 13, errors=1, grams=8.0)  # the best one's errors, four times as large
    result = run_trial(ledger, pool, hopeless, rule=DEFAULT)
    assert result is not None and result.status == "pruned" and result.score is None
    assert [entry for entry in pool.asked if entry[0] == hopeless] == [(hopeless, 3, PILOT)]
    assert result.reason.startswith("pruned after 1 of 5 folds: p = ") and best[:4] in result.reason
    decision = result.decisions[-1]
    assert decision.prune and decision.p < 0.00125 and decision.gain < 0.002 and decision.against == best
    assert result.reported_value == decision.estimate
    stored = ledger.result(hopeless)
    assert stored is not None and stored.decisions == result.decisions
    assert run_trial(ledger, pool, hopeless, rule=DEFAULT) == stored  # and stays ended
    assert audit(ledger).clean


def test_an_incumbent_compares_with_trials_that_came_after_its_first_look(ledger: Ledger) -> None:
    """It outlives many trials: what its study's data held at the first look is not all that there is."""
    pool, incumbent = Drawn(ledger), Incumbent(StudyData(ledger))
    for number in range(3):
        trial = propose(ledger, number, errors=number, grams=2.0 + number, spared="one of the first 10")
        run_trial(ledger, pool, trial, rule=DEFAULT, incumbent=incumbent)
    incumbent.refresh()
    first = incumbent.compared()
    best = propose(ledger, 3, errors=3, grams=1.0, spared="one of the first 10")
    run_trial(ledger, pool, best, rule=DEFAULT, incumbent=incumbent)
    incumbent.refresh()
    later = incumbent.compared()
    assert first is not None and later is not None
    assert later.names[0] == best and best not in first.names
    assert len(first.exempt_MN) == 0 and len(later.exempt_MN) == 1


def test_a_survivors_other_folds_go_first_and_are_judged_as_well(ledger: Ledger) -> None:
    pool = Drawn(ledger)
    run_trial(ledger, pool, propose(ledger, 0, errors=1, grams=4.0), rule=DEFAULT)
    good = propose(ledger, 11, errors=2, grams=3.0)
    result = run_trial(ledger, pool, good, rule=DEFAULT)
    assert result is not None and result.status == "complete" and len(result.decisions) == FOLDS - 1
    asked = [entry for entry in pool.asked if entry[0] == good]
    assert [fold for _, fold, _ in asked] == fold_order(11, list(range(FOLDS))) == [1, 2, 3, 4, 0]
    assert asked[0][2] == PILOT and all(RUNNING[0] == entry[2][0] for entry in asked[1:])
    assert asked[1][2][1] == -result.decisions[0].estimate  # the best survivor first


@pytest.mark.parametrize(("spared", "rule"), [("first of its backbone", DEFAULT), (None, None)])
def test_what_is_spared_or_not_up_for_pruning_gets_all_its_folds(
    ledger: Ledger, spared: str | None, rule: object
) -> None:
    pool = Drawn(ledger)
    run_trial(ledger, pool, propose(ledger, 0, errors=1, grams=2.0), rule=None)
    trial = propose(ledger, 12, errors=1, grams=8.0, spared=spared)
    result = run_trial(ledger, pool, trial, rule=rule)  # type: ignore[arg-type]
    assert result is not None and result.status == "complete" and result.decisions == ()


def test_a_resumed_trial_is_judged_before_another_fold_starts(ledger: Ledger) -> None:
    pool = Drawn(ledger)
    run_trial(ledger, pool, propose(ledger, 0, errors=1, grams=2.0), rule=DEFAULT)
    trial = propose(ledger, 12, errors=1, grams=8.0)
    next(pool.run([FoldJob(trial_id=trial, fold=2)], PILOT))  # its pilot fold was over when the driver was killed
    before = len(pool.asked)
    result = run_trial(ledger, pool, trial, rule=DEFAULT)
    assert result is not None and result.status == "pruned" and len(pool.asked) == before


@pytest.mark.slow
def test_a_replay_tells_what_a_rule_saves_and_costs(ledger: Ledger) -> None:
    pool = Drawn(ledger)
    for number in range(20):
        grams = 2.0 if number < 10 else 8.0  # the second half repeats the errors of the first, larger
        run_trial(ledger, pool, propose(ledger, number, errors=number % 10, grams=grams), rule=None)
    replayed = replay(ledger, "default", say=lambda text: None)
    assert 5 <= replayed.eligible <= 10  # a few are exempt by lot
    saved = sum(FOLDS - one.decision.folds_done for one in replayed.pruned)
    assert replayed.folds == 100 and replayed.folds_saved == saved > 0
    assert replayed.seconds_saved == replayed.folds_saved
    assert replayed.best_lost == 0.0 and abs(replayed.blend_lost) < 0.01
    page = render_replay(replayed)
    assert f"folds saved        {replayed.folds_saved} of 100" in page and "pruned after 1 of 5 folds" in page
    record = ledger.trials()[-1]
    ledger.write_trial(replace(record, number=99, trial_id="other"))
    ledger.write_result("other", TrialResult(status="pruned"))
    with pytest.raises(ValueError, match="--prune off"):
        replay(ledger, "default", say=lambda text: None)
