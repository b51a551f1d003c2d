"""Ray Tune's view of a search: ids only, trials that stay open, reasons to stop. No Ray is started."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from ray.exceptions import GetTimeoutError, RayError, RaySystemError
from ray.tune import TuneError
from test_proposer import LINE, finish, proposer
from test_ray_errors import NODE, PROCESS, died

from orchestration.search.ending import ending_of
from orchestration.search.fold_costs import FoldCosts
from orchestration.search.on_ray.tune_searcher import BROKEN_COORDINATORS, HEAD, BreakNotes, TuneSearcher, room_on_head
from orchestration.study.ledger import Ledger
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from orchestration.workers.jobs import Outcome


def test_tune_sees_ids_only_and_a_stopped_trial_stays_open(tmp_path: Path) -> None:
    search = proposer(tmp_path, LINE, max_trials=2)
    tune_searcher = TuneSearcher(search)
    first = tune_searcher.suggest("tune-1")
    assert isinstance(first, dict) and set(first) == {"trial_id"}
    tune_searcher.on_trial_complete("tune-1", {"status": "stopped", "score": None})
    assert search.trials.open == 1 and search.trials.ended == 0
    second = tune_searcher.suggest("tune-2")
    assert isinstance(second, dict)
    finish(tmp_path, search, second["trial_id"], 0.5)
    tune_searcher.on_trial_complete("tune-2", {"status": "complete"})
    assert search.trials.ended == 1
    assert tune_searcher.suggest("tune-3") == TuneSearcher.FINISHED
    assert tune_searcher.end_reason is None


GIB = 1 << 30


@pytest.mark.parametrize(
    ("gib", "room"),
    [(16 * 0.7, 61), (64 * 0.7, 244), (0.01, 1)],  # what Ray counts of a head's memory: 70 %
)
def test_live_trials_are_those_whose_coordinators_the_head_holds(gib: float, room: int) -> None:
    worker = {"Alive": True, "Resources": {"CPU": 64.0, "memory": 500.0 * GIB}}
    gone = {"Alive": False, "Resources": {HEAD: 1.0, "memory": 500.0 * GIB}}
    head = {"Alive": True, "Resources": {HEAD: 1.0, "memory": gib * GIB}}
    assert room_on_head([worker, gone, head]) == room
    assert room_on_head([worker, gone]) is None


def test_a_control_group_limits_the_room_of_its_own_node_alone() -> None:
    head = {"Alive": True, "NodeID": "head", "Resources": {HEAD: 1.0, "memory": 70.0 * GIB}}
    free = room_on_head([head])
    assert room_on_head([head], here="head") == room_on_head([head], here="worker", limit=10.0 * GIB) == free
    assert room_on_head([head], here="head", limit=200.0 * GIB) == free
    within = {**head, "Resources": {HEAD: 1.0, "memory": 7.0 * GIB}}  # as Ray counts it where the group is the topmost
    assert room_on_head([head], here="head", limit=10.0 * GIB) == room_on_head([within])


def test_the_heads_limit_is_said_and_more_memory_lifts_it(tmp_path: Path) -> None:
    small = TuneSearcher(proposer(tmp_path, LINE), room=61)
    assert small.follow(8) is None and small.most_running == 12
    assert small.follow(64) == (
        "the head's memory holds 61 trials at a time, 96 would keep 64 slots busy; give the head more memory "
        "(docs/cluster.md)"
    )
    assert small.most_running == 61
    large = TuneSearcher(proposer(tmp_path, LINE), room=244)
    assert large.follow(64) is None and large.most_running == 96
    unknown = TuneSearcher(proposer(tmp_path, LINE))
    assert unknown.follow(1000) is None and unknown.most_running == 1500


def test_a_trial_whose_coordinator_broke_off_stays_open_and_the_others_go_on(tmp_path: Path) -> None:
    search = proposer(tmp_path, max_trials=4)
    tune_searcher = TuneSearcher(search)
    ids = []
    for number in range(4):
        config = tune_searcher.suggest(f"tune-{number}")
        assert isinstance(config, dict)
        ids.append(config["trial_id"])
        if number % 2:
            finish(tmp_path, search, ids[-1], 0.5)
            tune_searcher.on_trial_complete(f"tune-{number}", {"status": "complete"})
        else:
            BreakNotes(tune_searcher).on_trial_recover(1, [], Broken("OSError: [Errno 12] Cannot allocate memory"))
            tune_searcher.on_trial_complete(f"tune-{number}", None, error=True)
    assert len(set(ids)) == 4  # none is taken up twice in one run
    assert tune_searcher.suggest("tune-4") == TuneSearcher.FINISHED and tune_searcher.stop_reason is None
    assert tune_searcher.end_reason == (
        "2 trials stay open: their coordinators broke off each time they were started, at last by OSError: [Errno 12] "
        "Cannot allocate memory; run the same command again to resume"
    )
    assert set(Ledger(Storage(tmp_path)).results()) == {ids[1], ids[3]}
    again = proposer(tmp_path, max_trials=4)
    assert [again.propose().trial_id, again.propose().trial_id] == [ids[0], ids[2]]  # type: ignore[union-attr]


class Broken:
    """A trial of Tune's whose coordinator broke off."""

    def __init__(self, line: str) -> None:
        self._line = line

    def get_error(self) -> TuneError:
        return TuneError(f'Failure # 1 (occurred at x)\nray::ImplicitFunc.reset()\n  File "x.py"\n{self._line}\n')


@pytest.mark.parametrize("good", [0, 1, 4])
def test_coordinators_that_break_off_one_after_the_other_end_the_search(tmp_path: Path, good: int) -> None:
    search = proposer(tmp_path)
    tune_searcher = TuneSearcher(search)
    for number in range(good + BROKEN_COORDINATORS):
        config = tune_searcher.suggest(f"tune-{number}")
        assert isinstance(config, dict)
        if number < good:
            finish(tmp_path, search, config["trial_id"], 0.5)
            tune_searcher.on_trial_complete(f"tune-{number}", {"status": "complete"})
        else:
            tune_searcher.on_trial_complete(f"tune-{number}", None, error=True)
    assert tune_searcher.suggest("last") == TuneSearcher.FINISHED
    assert tune_searcher.stop_reason is not None and "5 trials in a row stay open" in tune_searcher.stop_reason
    assert len(Ledger(Storage(tmp_path)).results()) == good


@pytest.mark.parametrize("error", [died(NODE), died(PROCESS), RaySystemError("no"), GetTimeoutError("slow")])
def test_a_broker_that_is_lost_while_a_slot_is_measured_ends_the_search_in_a_sentence(
    tmp_path: Path, error: RayError
) -> None:
    def poll() -> Outcome:
        raise error

    costs = FoldCosts(200, ())
    costs.set_poll(poll)
    tune_searcher = TuneSearcher(proposer(tmp_path, costs=costs, max_fold_seconds=60.0))
    assert tune_searcher.suggest("first") == TuneSearcher.FINISHED == tune_searcher.suggest("second")
    with pytest.raises(StudyError, match=r"the broker of the folds is lost: .*run the same command again") as raised:
        ending_of(tune_searcher.proposer, tune_searcher.end_reason, ())
    assert len(textwrap.wrap(str(raised.value), 80)) <= 3 and "\n" not in str(raised.value)
