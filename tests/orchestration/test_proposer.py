"""Proposals: a function of the seed and the ledger, sensitive to scores, exhausted in finite spaces."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import hand_made_study as hand
import pytest

from biomass_models.families.probe.config import ProbeConfig
from orchestration.search.ending import ending_of
from orchestration.search.engines import registry
from orchestration.search.engines.base import Observation
from orchestration.search.engines.random_search import RandomEngine
from orchestration.search.engines.tpe import STARTUP_TRIALS, TpeEngine
from orchestration.search.gains.turns import EqualTurns
from orchestration.search.incumbent import Incumbent
from orchestration.search.live_view import LiveView
from orchestration.search.on_ray.tune_searcher import TuneSearcher
from orchestration.search.proposer import Proposer
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import Params, SearchFacts, TrialResult
from orchestration.study.storage import Storage
from search_spaces import finite
from search_spaces.domain import Choice, Integer, SearchSpace, Uniform
from search_spaces.spaces import space_of

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

GRID = SearchSpace(
    family="probe",
    config_class=ProbeConfig,
    domains={"size": Choice((64, 96, 128)), "alphas": Integer(3, 12), "transform": Choice(("log1p", "none"))},
    fixed={"backbone": "net"},
)


class Priced:
    """Costs of a fold: a third of the grid is too expensive."""

    is_ready, unknown = True, None

    def seconds(self, family: str, config: Any) -> float:
        return 90.0 if config.alphas > 9 else 10.0


def proposer(folder: Path, spaces: dict[str, SearchSpace] = SPACES, **options: object) -> Proposer:
    options = {"seed": 1, "fold_hash": "f", "weights": {"net": "w"}, **options}
    return Proposer(spaces, Ledger(Storage(folder)), **options)  # type: ignore[arg-type]


def ended(score: float | None) -> TrialResult:
    return TrialResult(status="complete", score=score) if score is not None else FAILED


def finish(ledger_folder: Path, search: Proposer, identity: str, score: float | None) -> None:
    Ledger(Storage(ledger_folder)).write_result(identity, ended(score))
    search.record_result(identity, ended(score))


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
    search = proposer(tmp_path, max_trials=12, turns=EqualTurns({"baseline": 3.0, "probe": 1.0}))
    families = [record.family for _ in range(12) if (record := search.propose()) is not None]
    assert families.count("baseline") == 9
    assert families.count("probe") == 3
    assert "probe" in families[:4]  # in turn, not one family after the other


def test_a_rebuilt_proposer_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
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
    assert again.trials.ended == 1
    assert [again.propose(), again.propose()] == [lost[0], lost[2]]
    assert again.propose() is None
    again.record_result(lost[0].trial_id, ended(0.1))  # type: ignore[union-attr]
    again.record_result(lost[2].trial_id, ended(None))  # type: ignore[union-attr]
    assert again.trials.ended == 3 and again.trials.open == 0 and again.trials.best_score == 0.3


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
            search.record_result(record.trial_id, ended(sign * drawn[sign][-1]))
    up, down = drawn[1.0], drawn[-1.0]
    assert up[:STARTUP_TRIALS] == down[:STARTUP_TRIALS]
    assert all(one != other for one, other in zip(up[STARTUP_TRIALS:], down[STARTUP_TRIALS:], strict=True))
    assert sum(up[-15:]) / 15 - sum(down[-15:]) / 15 > 4.0  # a third of the range of 12


@pytest.mark.slow
def test_a_rebuilt_proposer_proposes_what_the_living_one_would(tmp_path: Path) -> None:
    """With trials under way, that end in another order, known points that are drawn again, and refused ones."""
    options: dict[str, Any] = {"spaces": {"probe": GRID}, "costs": Priced(), "max_fold_seconds": 60.0}
    living, open_ids, why = proposer(tmp_path / "living", **options), list[str](), set[str]()
    for step in itertools.count():
        if step:
            shutil.copytree(tmp_path / "living", tmp_path / f"{step}")
        rebuilt = proposer(tmp_path / f"{step}", **options)
        for trial_id in open_ids:  # what was under way is under way again
            again = rebuilt.propose()
            assert again is not None and again.trial_id == trial_id
        expected, record = rebuilt.propose(), living.propose()
        if record is None or expected is None:
            break
        assert replace(expected, proposed_at=record.proposed_at) == record
        why.add(record.why)
        open_ids.append(record.trial_id)
        if len(open_ids) == 4:
            score = None if step % 7 == 0 else float(record.params["alphas"])
            finish(tmp_path / "living", living, open_ids.pop(step % 3), score)
    assert record is expected is None and step == 42 and living.trials.count("refused") == 18
    assert why == {"proposed by tpe"}


@pytest.mark.parametrize("engine", ["tpe", "random"])
def test_a_small_space_is_searched_whole_by_as_many_questions(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an engine repeats, each question brings a new trial, and the end is known for certain."""
    asked = [0]
    points = GRID.domains["size"].options, range(3, 13), GRID.domains["transform"].options
    for kind in (TpeEngine, RandomEngine):
        counted(kind, asked, monkeypatch)
    search, found = proposer(tmp_path, {"probe": GRID}, engine=engine), list[tuple[Any, ...]]()
    while (record := search.propose()) is not None:
        found.append((record.params["size"], record.params["alphas"], record.params["transform"]))
        finish(tmp_path, search, record.trial_id, -abs(record.params["alphas"] - 7.0))
        assert asked[0] == len(found)
    assert sorted(found) == sorted(itertools.product(*points))
    assert search.propose() is None and search.searched_whole == {"probe": 60} and search.nothing_left is None
    assert ending_of(search, None, ()).lines == [
        "The ranges of probe are searched whole (60 trials); widen them with --space to go on."
    ]
    wider = replace(GRID, domains={**GRID.domains, "alphas": Integer(3, 13)})
    again = proposer(tmp_path, {"probe": wider}, engine=engine)
    record = again.propose()
    assert record is not None and record.params["alphas"] == 13


def test_what_is_known_by_other_params_or_cannot_be_a_trial_is_no_new_point(tmp_path: Path) -> None:
    """Points that the configuration refuses, and one of a study with other ranges, are passed over."""
    narrow = replace(GRID, domains={"size": Choice((64, 96))}, fixed={**GRID.fixed, "alphas": 5, "layers": 2})
    before = proposer(tmp_path, {"probe": narrow})
    first = before.propose()
    assert first is not None
    finish(tmp_path, before, first.trial_id, 0.5)
    taps = Choice(("", "0.5"))  # the configuration takes taps with one layer alone
    space = replace(narrow, domains={**narrow.domains, "layers": Choice((1, 2)), "taps": taps}, fixed={
        "backbone": "net", "alphas": 5,
    })  # fmt: skip
    search = proposer(tmp_path, {"probe": space})
    rest = [record.params for record in iter(search.propose, None)]
    accepted = [point for point in finite.points(space) if space.refusal(point) is None]
    assert len(accepted) == 6 and len(rest) == 5
    assert {**first.params, "layers": 2, "taps": ""} not in rest and search.searched_whole == {"probe": 6}


def counted(kind: type, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    ask = kind.ask

    def noted(*arguments: Any) -> Any:
        asked[0] += 1
        return ask(*arguments)

    monkeypatch.setattr(kind, "ask", noted)


def test_only_backbones_whose_weights_are_here_are_proposed(tmp_path: Path) -> None:
    spaces = {"probe": space_of("probe", ("gone", "net", "other"), "cpu")}
    search = proposer(tmp_path, spaces, weights={"net": "w", "other": "v"})
    drawn = [record.params["backbone"] for _ in range(30) if (record := search.propose()) is not None]
    assert len(drawn) == 30 and set(drawn) == {"net", "other"}


def test_a_search_without_weights_for_its_ranges_says_so_at_its_end(tmp_path: Path) -> None:
    space = space_of("probe", ("gone", "other"), "cpu")
    without = {name: domain for name, domain in space.domains.items() if name != "backbone"}
    fixed = replace(space, domains=without, fixed={**space.fixed, "backbone": "gone"}, first_trials=())
    for number, (ranges, named) in enumerate([(space, "gone, other"), (fixed, "gone")]):
        search = proposer(tmp_path / str(number), {"probe": ranges}, weights={"elsewhere": "w"})
        assert search.propose() is None and search.nothing_left is not None
        assert search.nothing_left.startswith(f"trials of probe need the weights of {named}, which are not here")


class Ends:
    """An engine that has no more after one point, as a grid has."""

    uses_pending = False

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    def observe(self, observation: Observation) -> bool:
        return False

    def ask(self, pending: Mapping[str, Params], seed: int, fixed: Params | None = None) -> Params | None:
        return None if pending else self._space.draw(Random(0), fixed or {})


class Strange(Ends):
    """An engine that proposes what is no point of the space."""

    def ask(self, pending: Mapping[str, Params], seed: int, fixed: Params | None = None) -> Params | None:
        return {"log10_alpha_low": 1e9}


def test_an_engine_may_have_no_more_and_may_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "ends", f"{__name__}:Ends")
    search = proposer(tmp_path, LINE, engine="ends")
    record = search.propose()
    assert record is not None and record.why == "proposed by ends"
    assert search.propose() is None
    finish(tmp_path, search, record.trial_id, 0.5)
    assert search.unobserved == [record] == proposer(tmp_path, LINE, engine="ends").unobserved


def test_an_engine_that_proposes_no_point_ends_the_search_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "strange", f"{__name__}:Strange")
    search = TuneSearcher(proposer(tmp_path, LINE, engine="strange"))
    assert search.suggest("first") == TuneSearcher.FINISHED
    assert search.stop_reason is not None and "wrong in log10_alpha_low; repair the package" in search.stop_reason
    assert Ledger(Storage(tmp_path)).trials() == []


def test_another_engine_goes_on_with_what_the_one_before_has_proposed(tmp_path: Path) -> None:
    for engine, most in (("tpe", 3), ("random", 6), ("tpe", 9)):
        search = proposer(tmp_path, LINE, engine=engine, max_trials=most)
        while (record := search.propose()) is not None:
            assert record.why == f"proposed by {engine}"
            finish(tmp_path, search, record.trial_id, record.params["log10_alpha_low"])
    assert [record.number for record in Ledger(Storage(tmp_path)).trials()] == list(range(9))


def test_no_trial_is_new_after_the_deadline(tmp_path: Path) -> None:
    search = proposer(tmp_path, deadline=0.0)
    assert search.propose() is None and search.hours_over
    assert Ledger(Storage(tmp_path)).trials() == []


def test_hours_are_over_only_where_they_keep_a_trial_back(tmp_path: Path) -> None:
    search = proposer(tmp_path, max_trials=2)
    first, second = (search.propose() for _ in range(2))
    assert first is not None and second is not None and search.missing == 2
    finish(tmp_path, search, first.trial_id, 0.5)
    assert search.missing == 1 and len(search.trials.ended_since(0.0)) == 1 and not search.hours_over
    resumed = proposer(tmp_path, max_trials=2, deadline=0.0)  # one is open
    assert resumed.propose() is None and resumed.hours_over and resumed.missing == 1
    finish(tmp_path, search, second.trial_id, 0.5)
    for most, over in ((2, False), (3, True), (None, True)):
        later = proposer(tmp_path, max_trials=most, deadline=0.0)
        assert later.propose() is None and later.hours_over == over


@pytest.mark.parametrize("most", [1, 3, 5])
def test_no_more_has_ended_than_is_planned(tmp_path: Path, most: int) -> None:
    """Three trials were proposed, one of them has ended: what is open is finished, whatever is asked for now."""
    study = StudyData(hand.empty_study(tmp_path))
    before = proposer(tmp_path, max_trials=3)
    first, *_ = (before.propose() for _ in range(3))
    assert first is not None and before.planned == 3
    finish(tmp_path, before, first.trial_id, 0.5)
    search = proposer(tmp_path, max_trials=most)
    incumbent = Incumbent(study)
    view = LiveView(search, incumbent, print)
    while (record := search.propose()) is not None:
        assert search.planned == view.completed(SearchFacts(), since=0.0).max_trials == max(3, most)
        finish(tmp_path, search, record.trial_id, 0.5)
    assert search.trials.ended == search.planned == max(3, most)
    alone = proposer(
        tmp_path, {"probe": SPACES["probe"]}, max_trials=most
    )  # trials of the other family are not its own
    view = LiveView(alone, incumbent, print)
    assert alone.trials.others > 0 and view.completed(SearchFacts(), since=0.0).max_trials == max(3, most)
    assert alone.trials.ended == alone.planned == max(3, most) - alone.trials.others
    assert proposer(tmp_path).planned is None


class Killed(BaseException):
    """The process of a search ends here."""


def test_a_trial_that_was_about_to_be_refused_is_refused_when_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that is killed between a trial's record and its end goes on as the undisturbed one."""
    options: dict[str, Any] = {"spaces": {"probe": GRID}, "costs": Priced(), "max_fold_seconds": 60.0, "max_trials": 9}
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    search, expected = proposer(undisturbed, **options), list[tuple[int, Params]]()
    while (record := search.propose()) is not None:
        expected.append((record.number, record.params))
        finish(undisturbed, search, record.trial_id, float(record.params["alphas"]))
    assert search.trials.count("refused")

    def kill(*_: object) -> None:
        raise Killed

    seen, kills = list[tuple[int, Params]](), 0
    while len(seen) < 9:
        search = proposer(killed, **options)
        with monkeypatch.context() as patch:
            patch.setattr(search.ledger, "write_result", kill)
            try:
                record = search.propose()
            except Killed:
                kills += 1
        search = proposer(killed, **options)
        assert search.missing == 9 - len(seen)
        record = search.propose()
        assert record is not None
        seen.append((record.number, record.params))
        finish(killed, search, record.trial_id, float(record.params["alphas"]))
    assert kills and seen == expected
