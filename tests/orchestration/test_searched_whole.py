"""A finite range is searched whole once each of its points is a trial of today's ranges, round and weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_proposer import SPACES, finish, proposer

from biomass_models.families.probe.config import ProbeConfig
from orchestration.study.ledger import Ledger
from orchestration.study.records import REFUSED, TrialResult, TrialRound
from orchestration.study.storage import Storage
from search_spaces.domain import Choice, Integer, SearchSpace

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
