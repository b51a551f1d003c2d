"""A finite range is searched whole once each of its points is a trial of today's ranges, round and weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_proposer import LINE, SPACES, Ends, finish, proposer

from biomass_models.families.probe.config import ProbeConfig
from orchestration.search.ending import Ending
from orchestration.search.engines.registry import BUILT_IN
from orchestration.study.ledger import Ledger
from orchestration.study.records import REFUSED, TrialResult, TrialRound
from orchestration.study.storage import Storage
from search_spaces.domain import Choice, Integer, SearchSpace, Uniform, When
from search_spaces.finite import MOST_VALUES

GRID = SearchSpace(
    family="probe",
    config_class=ProbeConfig,
    domains={"size": Choice((64, 96, 128)), "alphas": Integer(3, 6), "transform": Choice(("log1p", "none"))},
    fixed={"backbone": "net", "flips": 1},
)
POINTS = 24
TURNED = replace(GRID, fixed={**GRID.fixed, "flips": 4})
WIDER = replace(GRID, domains={**GRID.domains, "flips": Choice((1, 4))}, fixed={"backbone": "net"})
ROUND = TrialRound(round_id="round", weight=0.5)


def searched(folder: Path, space: SearchSpace, whole: int = POINTS, **options: Any) -> list[dict[str, Any]]:
    """Configurations of all new trials of a search that goes on until its `whole` points are trials."""
    search, found = proposer(folder, {"probe": space}, **options), list[dict[str, Any]]()
    while (record := search.propose()) is not None:
        found.append(dict(record.config))
        finish(folder, search, record.trial_id, -abs(record.params["alphas"] - 5.0))
    assert search.searched_whole == {"probe": whole}
    return found


@pytest.mark.parametrize("engine", ["tpe", "random"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((GRID, {}), (TURNED, {})),
        ((GRID, {}), (GRID, {"second_round": ROUND})),
        ((GRID, {"second_round": ROUND}), (GRID, {})),
        ((GRID, {"second_round": ROUND}), (GRID, {"second_round": replace(ROUND, weight=1.0)})),
        ((GRID, {}), (GRID, {"weights": {"net": "others"}})),
    ],
    ids=["another fixed value", "a second round", "the first round again", "another round", "other weights"],
)
def test_trials_of_other_ranges_rounds_or_weights_are_no_known_points(
    tmp_path: Path, engine: str, before: tuple[SearchSpace, Any], after: tuple[SearchSpace, Any]
) -> None:
    for space, options in (before, after):
        found = searched(tmp_path, space, engine=engine, **options)
        assert len({str(config) for config in found}) == len(found) == POINTS
        assert searched(tmp_path, space, engine=engine, **options) == []


@pytest.mark.parametrize("engine", ["tpe", "random"])
def test_a_point_that_was_a_trial_under_a_fixed_value_is_known_once_the_field_is_searched(
    tmp_path: Path, engine: str
) -> None:
    assert len(searched(tmp_path, TURNED, engine=engine)) == POINTS
    rest = searched(tmp_path, WIDER, 2 * POINTS, engine=engine)
    assert len(rest) == POINTS and {config["flips"] for config in rest} == {1}


@pytest.mark.slow
def test_a_rebuilt_search_of_a_finite_space_goes_on_alike(tmp_path: Path) -> None:
    """What a process has passed over, trials under other params and refused points, does not move its next choice."""
    taps = replace(
        WIDER,
        domains={**WIDER.domains, "layers": Choice((1, 2)), "taps": Choice(("", "0.5"))},
    )  # a third of which the configuration refuses

    def ids(folder: Path, lives: int) -> list[str]:
        searched(folder, TURNED)
        found = list[str]()
        for _ in range(lives):
            search = proposer(folder, {"probe": taps})
            for _ in range(48 // lives):
                record = search.propose()
                assert record is not None
                found.append(record.trial_id)
                finish(folder, search, record.trial_id, -abs(record.params["alphas"] - 5.0))
        return found

    assert ids(tmp_path / "whole", 1) == ids(tmp_path / "part", 6)


def test_an_end_without_a_proposal_has_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "ends", f"{Ends.__module__}:Ends")
    search = proposer(tmp_path / "grid", LINE, engine="ends")
    while search.propose() is not None:
        pass
    assert search.nothing_left is None  # it is no fault
    (line,) = Ending(hours_over=False, ended=1, open=0, no_more=search.no_more).lines
    assert line == "Engine ends has no more trials of probe; name another with --engine to go on."

    endless = {"log10_alpha_low": Uniform(-1.0, -1.0), "alphas": Integer(3, MOST_VALUES + 3)}
    few = replace(LINE["probe"], domains=endless)
    monkeypatch.setattr(Integer, "draw", lambda self, rng: self.low)
    search = proposer(tmp_path / "few", {"probe": few}, engine="random")
    assert search.propose() is not None and search.propose() is None
    assert search.no_more == {"probe": "random search draws known trials of probe alone; widen its ranges with --space"}

    net = When("size", (64,), Choice(("net",)))  # a study may have it: elsewhere the configuration's backbone is meant
    partly = replace(GRID, domains={"size": Choice((64, 96)), "backbone": net}, fixed={})
    search = proposer(tmp_path / "partly", {"probe": partly}, engine="random")
    while search.propose() is not None:
        pass
    own = ProbeConfig().backbone
    assert search.nothing_left is not None and f"need the weights of {own}, which are not here" in search.nothing_left


def test_refused_trials_of_families_that_are_not_searched_take_no_place(tmp_path: Path) -> None:
    first = proposer(tmp_path, max_trials=4)
    for place in range(4):
        record = first.propose()
        assert record is not None
        result = TrialResult(status=REFUSED) if place == 0 else TrialResult(status="complete", score=0.5)
        Ledger(Storage(tmp_path)).write_result(record.trial_id, result)
    both, alone = proposer(tmp_path, max_trials=4), proposer(tmp_path, {"probe": SPACES["probe"]}, max_trials=4)
    assert both.trials.places == alone.trials.places == 3 and both.missing == alone.missing == 1
    record = alone.propose()
    assert record is not None and record.number == 4 and alone.propose() is None
