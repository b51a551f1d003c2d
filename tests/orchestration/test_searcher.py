"""Proposals: a function of the seed and the ledger, sensitive to scores, exhausted in finite spaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.tune import TuneError

from biomass_models.configs import ProbeConfig
from orchestration.ledger import Ledger
from orchestration.records import TrialResult
from orchestration.searcher import BROKEN_COORDINATORS, BreakNotes, Proposer, TuneSearcher
from orchestration.storage import Storage
from search_spaces.domain import Choice, SearchSpace, Uniform
from search_spaces.spaces import space_of
from search_spaces.to_optuna import STARTUP_TRIALS

SPACES = {family: space_of(family, ("net",), "cpu") for family in ("baseline", "probe")}
FAILED = TrialResult(status="failed", reason="fold 0: no")
LINE = {
    "probe": SearchSpace(
        family="probe",
        config_class=ProbeConfig,
        domains={"log10_alpha_low": Uniform(-10.0, 2.0)},
        fixed={"backbone": "net", "log10_alpha_high": 2.0},
    )
}


def proposer(folder: Path, spaces: dict[str, SearchSpace] = SPACES, **options: object) -> Proposer:
    options = {"seed": 1, "fold_hash": "f", "weights": {"net": "w"}, **options}
    return Proposer(spaces, Ledger(Storage(folder)), **options)  # type: ignore[arg-type]


def ended(score: float | None) -> TrialResult:
    return TrialResult(status="complete", score=score) if score is not None else FAILED


def finish(ledger_folder: Path, search: Proposer, identity: str, score: float | None) -> None:
    Ledger(Storage(ledger_folder)).write_result(identity, ended(score))
    search.tell(identity, ended(score))


def test_families_take_turns_and_start_from_known_good_settings(tmp_path: Path) -> None:
    search = proposer(tmp_path, max_trials=10)
    records = []
    while (record := search.propose()) is not None:
        records.append(record)
    assert [record.family for record in records] == ["baseline", "probe"] * 5
    assert records[0].params == dict(SPACES["baseline"].first_trials[0])
    assert records[1].params == dict(SPACES["probe"].first_trials[0])
    assert [record.number for record in records] == list(range(10))
    assert len({record.trial_id for record in records}) == 10


def test_families_get_the_shares_they_are_given(tmp_path: Path) -> None:
    search = proposer(tmp_path, max_trials=12, shares={"baseline": 3.0, "probe": 1.0})
    families = [record.family for _ in range(12) if (record := search.propose()) is not None]
    assert families.count("baseline") == 9
    assert families.count("probe") == 3
    assert "probe" in families[:4]  # in turn, not one family after the other


def test_a_rebuilt_searcher_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    one = proposer(whole, LINE)
    expected = []
    for step in range(16):
        record = one.propose()
        assert record is not None
        expected.append(record.trial_id)
        finish(whole, one, record.trial_id, None if step == 3 else -(record.params["log10_alpha_low"] ** 2))
    got = []
    for _ in range(4):  # a new process every four trials
        two = proposer(part, LINE)
        for _ in range(4):
            record = two.propose()
            assert record is not None
            got.append(record.trial_id)
            step = len(got) - 1
            finish(part, two, record.trial_id, None if step == 3 else -(record.params["log10_alpha_low"] ** 2))
    assert got == expected


def test_what_had_not_ended_is_proposed_again_first(tmp_path: Path) -> None:
    first = proposer(tmp_path)
    lost = [first.propose(), first.propose(), first.propose()]
    assert all(lost)
    finish(tmp_path, first, lost[1].trial_id, 0.3)  # type: ignore[union-attr]
    again = proposer(tmp_path, max_trials=3)
    assert again.finished == 1
    assert [again.propose(), again.propose()] == [lost[0], lost[2]]
    assert again.propose() is None
    again.tell(lost[0].trial_id, ended(0.1))  # type: ignore[union-attr]
    again.tell(lost[2].trial_id, ended(None))  # type: ignore[union-attr]
    assert again.finished == 3 and again.unfinished == 0 and again.best_score == 0.3


def test_proposals_follow_the_sign_of_the_scores(tmp_path: Path) -> None:
    """The same search told s and told -s: alike while the draws are random, then each goes its own way."""
    drawn = {}
    for sign in (1.0, -1.0):
        search = proposer(tmp_path / str(sign), LINE)
        drawn[sign] = []
        for _ in range(40):
            record = search.propose()
            assert record is not None
            drawn[sign].append(record.params["log10_alpha_low"])
            search.tell(record.trial_id, ended(sign * drawn[sign][-1]))
    up, down = drawn[1.0], drawn[-1.0]
    assert up[:STARTUP_TRIALS] == down[:STARTUP_TRIALS]
    assert all(one != other for one, other in zip(up[STARTUP_TRIALS:], down[STARTUP_TRIALS:], strict=True))
    assert sum(up[-15:]) / 15 - sum(down[-15:]) / 15 > 4.0  # a third of the range of 12


def test_a_finite_space_ends(tmp_path: Path) -> None:
    space = SearchSpace(
        family="probe",
        config_class=ProbeConfig,
        domains={"layers": Choice((1, 2)), "transform": Choice(("log1p", "none"))},
        fixed={"backbone": "net"},
    )
    search = proposer(tmp_path, {"probe": space})
    found = set()
    while (record := search.propose()) is not None:
        assert record.trial_id not in found
        found.add(record.trial_id)
        search.tell(record.trial_id, ended(0.5))
    assert len(found) == 4


def test_no_trial_is_new_after_the_deadline(tmp_path: Path) -> None:
    search = proposer(tmp_path, deadline=0.0)
    assert search.propose() is None and search.hours_over
    assert Ledger(Storage(tmp_path)).trials() == []


def test_hours_are_over_only_where_they_keep_a_trial_back(tmp_path: Path) -> None:
    search = proposer(tmp_path, max_trials=2)
    first, second = (search.propose() for _ in range(2))
    assert first is not None and second is not None and search.missing == 2
    finish(tmp_path, search, first.trial_id, 0.5)
    assert search.missing == 1 and len(search.ended_since(0.0)) == 1 and not search.hours_over
    resumed = proposer(tmp_path, max_trials=2, deadline=0.0)  # one is open
    assert resumed.propose() is None and resumed.hours_over and resumed.missing == 1
    finish(tmp_path, search, second.trial_id, 0.5)
    for most, over in ((2, False), (3, True), (None, True)):
        later = proposer(tmp_path, max_trials=most, deadline=0.0)
        assert later.propose() is None and later.hours_over == over


def test_tune_sees_ids_only_and_a_stopped_trial_stays_open(tmp_path: Path) -> None:
    search = proposer(tmp_path, LINE, max_trials=2)
    tune_searcher = TuneSearcher(search)
    first = tune_searcher.suggest("tune-1")
    assert isinstance(first, dict) and set(first) == {"trial_id"}
    tune_searcher.on_trial_complete("tune-1", {"status": "stopped", "score": None})
    assert search.unfinished == 1 and search.finished == 0
    second = tune_searcher.suggest("tune-2")
    assert isinstance(second, dict)
    finish(tmp_path, search, second["trial_id"], 0.5)
    tune_searcher.on_trial_complete("tune-2", {"status": "complete"})
    assert search.finished == 1
    assert tune_searcher.suggest("tune-3") == TuneSearcher.FINISHED
    assert tune_searcher.end_reason is None


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
        "Cannot allocate memory; the same command goes on with them"
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
