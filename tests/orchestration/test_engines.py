"""The contract of engines: a proposal is a function of space, observations, pending trials and seed."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest

from biomass_models.errors import UserError
from biomass_models.families.probe.config import ProbeConfig
from orchestration.search.engine import ENGINES, Engine, new_engine
from orchestration.study.records import Params
from search_spaces.domain import Choice, Integer, LogUniform, SearchSpace, Uniform, When
from search_spaces.to_optuna import STARTUP_TRIALS

SPACE = SearchSpace(
    family="probe",
    config_class=ProbeConfig,
    domains={
        "backbone": Choice(("net", "other")),
        "log10_alpha_low": Uniform(-10.0, 0.0),
        "log10_alpha_high": Uniform(0.0, 10.0),
        "alphas": Integer(3, 21, 2),
        "layout": Choice(("whole", "halves")),
        "view_merge": When("layout", ("halves",), Choice(("concat", "mean"))),
    },
)
OBSERVED = 2 * STARTUP_TRIALS  # so that samplers model something
SEEDS = range(8)


def points(count: int, seed: int = 0) -> dict[str, Params]:
    """Points of the space by trial id; the ids are in another order than the points were drawn."""
    rng = Random(seed)
    return {f"{number * 7919 % 1000:03d}": SPACE.draw(rng, {}) for number in range(1, count + 1)}


def value(params: Params) -> float | None:
    return None if params["alphas"] == 3 else -((params["log10_alpha_low"] + 4.0) ** 2)


def engine_with(name: str, trials: Mapping[str, Params]) -> Engine:
    engine = new_engine(name, SPACE)
    for trial_id, params in trials.items():
        assert engine.observe(trial_id, params, value(params))
    return engine


NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name == "gp" else []) for name in sorted(ENGINES)]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("observed", [0, 1, OBSERVED])
def test_proposals_are_points_of_the_space(name: str, observed: int) -> None:
    engine = engine_with(name, points(observed))
    for seed in SEEDS:
        params = engine.ask({}, seed)
        assert params is not None
        SPACE.check_params(params)


@pytest.mark.parametrize("observed", [3, OBSERVED])
def test_the_same_seed_gives_the_same_proposal_and_another_seed_another(name: str, observed: int) -> None:
    engine = engine_with(name, points(observed))
    proposals = [engine.ask({}, seed) for seed in SEEDS]
    assert proposals == [engine.ask({}, seed) for seed in SEEDS]  # asking changes nothing
    assert len({str(params) for params in proposals}) > len(SEEDS) // 2


@pytest.mark.parametrize("observed", [3, OBSERVED])
def test_the_order_of_observations_does_not_matter(name: str, observed: int) -> None:
    trials = points(observed)
    backwards = dict(reversed(trials.items()))
    assert list(backwards) != list(trials)
    for seed in SEEDS:
        assert engine_with(name, trials).ask({}, seed) == engine_with(name, backwards).ask({}, seed)


def test_a_trial_that_is_observed_again_counts_once_with_its_last_value(name: str) -> None:
    trials = points(OBSERVED)
    twice = engine_with(name, trials)
    first = next(iter(trials))
    twice.observe(first, trials[first], -1e6)
    twice.observe(first, trials[first], value(trials[first]))
    assert [twice.ask({}, seed) for seed in SEEDS] == [engine_with(name, trials).ask({}, seed) for seed in SEEDS]


def test_a_rebuilt_engine_proposes_what_the_living_one_would(name: str) -> None:
    living, ended = new_engine(name, SPACE), dict[str, Params]()
    for step, (trial_id, params) in enumerate(points(OBSERVED).items()):
        living.ask({trial_id: params}, step)
        living.observe(trial_id, params, value(params))
        ended[trial_id] = params
        if step % 5 == 4:
            assert living.ask({}, step) == engine_with(name, ended).ask({}, step)


def test_pending_trials_matter_only_to_an_engine_that_declares_it(name: str) -> None:
    engine, pending = engine_with(name, points(OBSERVED)), points(6, seed=1)
    proposals = [engine.ask({}, seed) for seed in SEEDS]
    assert engine.uses_pending == ([engine.ask(pending, seed) for seed in SEEDS] != proposals)
    assert [engine.ask(dict(reversed(pending.items())), seed) for seed in SEEDS] == [
        engine.ask(pending, seed) for seed in SEEDS
    ]


@pytest.mark.parametrize("observed", [0, OBSERVED])
def test_fixed_fields_have_their_values(name: str, observed: int) -> None:
    engine = engine_with(name, points(observed))
    for seed in SEEDS:
        params = engine.ask({}, seed, {"backbone": "other"})
        assert params is not None and params["backbone"] == "other"
        SPACE.check_params(params)


def test_trials_outside_of_the_ranges_never_break_a_proposal(name: str) -> None:
    engine, (inside, *_) = engine_with(name, points(OBSERVED)), points(1).values()
    strange: list[Params] = [
        {**inside, "log10_alpha_low": -20.0},  # a number outside of its range
        {**inside, "backbone": "gone"},  # an option that is no more
        {**inside, "further": 1},  # a field that is no more
        {key: one for key, one in inside.items() if key != "alphas"},  # a field that came later
    ]
    for number, params in enumerate(strange):
        assert isinstance(engine.observe(f"x{number}", params, 0.0), bool)
    for seed in SEEDS:
        params = engine.ask({f"y{number}": one for number, one in enumerate(strange)}, seed)
        assert params is not None
        SPACE.check_params(params)


@pytest.mark.parametrize("name", [name for name in NAMES if name.values != ("random",)])
def test_an_engine_that_learns_finds_more_than_random_search(name: str) -> None:
    """Mean distance to the optimum of a parabola, of 8 proposals after 40 observations each."""

    def distance(which: str) -> float:
        trials = points(40)
        proposals = [engine_with(which, trials).ask({}, seed) for seed in SEEDS]
        return sum(abs(params["log10_alpha_low"] + 4.0) for params in proposals if params) / len(proposals)

    assert distance(name) < distance("random") / 2


def test_random_search_covers_every_domain() -> None:
    space = SearchSpace(
        family="probe",
        config_class=ProbeConfig,
        domains={"log10_alpha_low": Uniform(-1.0, 1.0), "alphas": Integer(1, 9, 4), "layers": LogUniform(1.0, 64.0)},
        fixed={"backbone": "net", "log10_alpha_high": 2.0},
    )
    rng = Random(0)
    drawn = [space.draw(rng, {}) for _ in range(2000)]
    assert {params["alphas"] for params in drawn} == {1, 5, 9}
    assert abs(sum(params["log10_alpha_low"] for params in drawn) / 2000) < 4 / 3**0.5 / 2000**0.5
    assert abs(sum(params["layers"] < 8.0 for params in drawn) / 2000 - 0.5) < 4 * 0.5 / 2000**0.5  # 8: the middle


def test_an_unknown_engine_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="tpe"):
        new_engine("tpee", SPACE)
