"""The contract of engines: a proposal is a function of space, observations, pending trials and seed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import optuna
import pytest
import worked_packages
from optuna.samplers import TPESampler

from biomass_models.errors import UserError
from biomass_models.families.probe.config import ProbeConfig
from orchestration.search.engines import registry
from orchestration.search.engines.base import Engine, Observation
from orchestration.search.engines.registry import new_engine
from orchestration.search.engines.tpe import STARTUP_TRIALS
from orchestration.study.records import Params
from search_spaces.domain import Choice, Integer, LogUniform, SearchSpace, Uniform, When
from search_spaces.to_optuna import finished_trial, running_trial, suggest

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
LINE = SearchSpace(
    family="probe",
    config_class=ProbeConfig,
    domains={"log10_alpha_low": Uniform(-10.0, 2.0)},
    fixed={"backbone": "net", "log10_alpha_high": 2.0},
)
SMALL = SearchSpace(
    family="probe",
    config_class=ProbeConfig,
    domains={"layers": Choice((1, 2)), "transform": Choice(("log1p", "none"))},
    fixed={"backbone": "net"},
)
WORKED = "climb"
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
    for observation in observations(trials):
        assert engine.observe(observation)
    return engine


def observations(trials: Mapping[str, Params]) -> list[Observation]:
    """In the order of the mapping; numbers are those of the ids, so that they do not depend on it."""
    return [
        Observation(trial_id=trial_id, number=int(trial_id), params=params, value=value(params))
        for trial_id, params in trials.items()
    ]


NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name == "gp" else []) for name in [*registry.BUILT_IN, WORKED]]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Ours and the one of docs/extending.md, which is installed."""
    if request.param != WORKED:
        yield request.param
        return
    worked_packages.install(tmp_path, worked_packages.ENGINE)
    with worked_packages.installed(tmp_path):
        yield request.param


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
    first = observations(trials)[0]
    twice.observe(replace(first, value=-1e6))
    twice.observe(replace(first, value=None, refused=True))
    twice.observe(first)
    assert [twice.ask({}, seed) for seed in SEEDS] == [engine_with(name, trials).ask({}, seed) for seed in SEEDS]


def test_a_rebuilt_engine_proposes_what_the_living_one_would(name: str) -> None:
    living, ended = new_engine(name, SPACE), dict[str, Params]()
    for step, (trial_id, params) in enumerate(points(OBSERVED).items()):
        living.ask({trial_id: params}, step)
        ended[trial_id] = params
        living.observe(observations(ended)[-1])
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
        seen = Observation(trial_id=f"x{number}", number=1000 + number, params=params, value=0.0)
        assert isinstance(engine.observe(seen), bool)
    for seed in SEEDS:
        params = engine.ask({f"y{number}": one for number, one in enumerate(strange)}, seed)
        assert params is not None
        SPACE.check_params(params)


LEARNING = pytest.mark.parametrize("name", [name for name in NAMES if name.values != ("random",)], indirect=True)


@LEARNING
def test_an_engine_that_learns_finds_more_than_random_search(name: str) -> None:
    """Mean distance to the optimum of a parabola, of 8 proposals after 40 observations each."""

    def distance(which: str) -> float:
        trials = points(40)
        proposals = [engine_with(which, trials).ask({}, seed) for seed in SEEDS]
        return sum(abs(params["log10_alpha_low"] + 4.0) for params in proposals if params) / len(proposals)

    assert distance(name) < distance("random") / 2


@pytest.mark.parametrize("count", [1, OBSERVED])
def test_refused_trials_alone_are_no_obstacle(name: str, count: int) -> None:
    engine = new_engine(name, SPACE)
    for observation in observations(points(count)):
        assert engine.observe(replace(observation, value=None, refused=True))
    for seed in SEEDS:
        params = engine.ask({}, seed)
        assert params is not None
        SPACE.check_params(params)


@pytest.mark.parametrize("name", [name for name in NAMES if name.values in (("tpe",), ("gp",))], indirect=True)
def test_samplers_keep_away_from_what_was_refused(name: str) -> None:
    """Values rise towards a region without any: a failure there teaches nothing, a refusal that it is closed."""

    def in_region(refused: bool) -> int:
        engine, rng = new_engine(name, LINE), Random(0)
        for number in range(40):
            place = rng.uniform(-10.0, 2.0)
            closed = place < -4.0
            engine.observe(
                Observation(
                    trial_id=f"{number}",
                    number=number,
                    params={"log10_alpha_low": place},
                    value=None if closed else -((place + 6.0) ** 2),
                    refused=closed and refused,
                )
            )
        proposals = [engine.ask({}, seed) for seed in SEEDS]
        return sum(params["log10_alpha_low"] < -4.0 for params in proposals if params)

    assert in_region(refused=True) == 0
    assert in_region(refused=False) == len(SEEDS)


def test_a_small_space_that_is_known_whole_does_not_stop_an_engine(name: str) -> None:
    """It proposes a known point again, or nothing."""
    engine, known = (
        new_engine(name, SMALL),
        [{"layers": one, "transform": two} for one in (1, 2) for two in ("log1p", "none")],
    )
    for number, params in enumerate(known * 6):
        engine.observe(Observation(trial_id=f"{number}", number=number, params=params, value=float(number % 5)))
    for seed in SEEDS:
        assert engine.ask({"pending": known[0]}, seed) in [*known, None]


@pytest.mark.parametrize("strange", [False, True])
@pytest.mark.parametrize("observed", [0, STARTUP_TRIALS - 1, STARTUP_TRIALS, 60])
def test_tpe_is_optunas_own(observed: int, strange: bool) -> None:
    """The engine finds for itself what is drawn together and which trials are best: nothing else differs.

    strange: with a number outside of its range, a field that some trials lack, and equal values.
    """
    engine, pending = new_engine("tpe", SPACE), points(5, seed=1)
    ended = [
        replace(one, refused=one.value is None and place % 2 == 0)
        for place, one in enumerate(sorted(observations(points(observed)), key=lambda one: one.number))
    ]
    if strange:
        ended = [replace(one, value=None if one.value is None else round(one.value)) for one in ended]
        ended[1:2] = [replace(one, params={**one.params, "log10_alpha_low": -20.0}) for one in ended[1:2]]
        lacks = [{key: value for key, value in one.params.items() if key != "alphas"} for one in ended[2:3]]
        ended[2:3] = [replace(one, params=params) for one, params in zip(ended[2:3], lacks, strict=True)]
        pending["0"] = {**pending[min(pending)], "backbone": "gone"}
    for one in ended:
        engine.observe(one)
    for seed in SEEDS:
        sampler = TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        told = [finished_trial(SPACE, one.params, one.value, refused=one.refused) for one in ended]
        told += [running_trial(SPACE, pending[trial_id]) for trial_id in sorted(pending)]
        study.add_trials([trial for trial in told if trial is not None])
        assert engine.ask(pending, seed) == suggest(study.ask(), SPACE)


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
    with pytest.raises(UserError, match=r"one of tpe, gp, random, got 'tpee'; did you mean tpe\?"):
        registry.known("tpee")
    with pytest.raises(UserError, match=r"engine climb is not known here.*install the package.*--engine"):
        new_engine("climb", SPACE)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "import a_package_that_nobody_has",
            "cannot be made by climber:ClimbEngine .ModuleNotFound.*repair the package",
        ),
        ("ClimbEngine = 3", "cannot be made by climber:ClimbEngine .TypeError.*repair the package"),
        ("ClimbEngine = dict", "cannot be made by climber:ClimbEngine .TypeError"),
        ("ClimbEngine = str", "climber:ClimbEngine must make an engines.base.Engine .observe, ask, uses_pending., got"),
    ],
)
def test_an_engine_that_cannot_be_made_costs_nothing_but_itself(tmp_path: Path, body: str, said: str) -> None:
    worked_packages.install(tmp_path, worked_packages.ENGINE)
    (tmp_path / "climber.py").write_text(body + "\n")
    with worked_packages.installed(tmp_path):
        assert registry.names() == [*registry.BUILT_IN, "climb"]
        assert all(new_engine(name, SPACE) for name in registry.BUILT_IN)
        with pytest.raises(UserError, match=said):
            new_engine("climb", SPACE)


@pytest.mark.slow
def test_the_proposer_loads_neither_ray_nor_a_sampler() -> None:
    code = (
        "import sys, orchestration.search.proposer, orchestration.search.engines.registry as engines; engines.names(); "
        "print(sorted({'ray', 'optuna', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
