"""Domains, conditions, the way to Optuna and back, and the families' own spaces."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import optuna
import pytest

from biomass_models.families import registry
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.training.config import NetworkConfig, NetworkOptions
from search_spaces.domain import Choice, Integer, LogUniform, SearchSpace, Uniform, When
from search_spaces.spaces import SCALES, space_of
from search_spaces.to_optuna import encode, finished_trial, suggest

REQUIRED: dict[str, Any] = {
    "backbone": "a", "size": 64, "trained_blocks": 0, "head_width": 8, "head_width_2": 8, "dropout": 0.0,
    "head_lr": 1e-3, "backbone_lr": 1e-3, "min_lr": 0.0, "batch_size": 8, "epochs": 1,
}  # fmt: skip


def new_study(seed: int) -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))


@pytest.mark.parametrize("family", registry.names())
@pytest.mark.parametrize("scale", SCALES)
def test_every_draw_is_a_valid_point_of_the_space(family: str, scale: str) -> None:
    space = space_of(family, ("backbone_a", "backbone_b"), scale)
    study = new_study(seed=1)
    seen = set()
    for _ in range(40):
        trial = study.ask()
        params = suggest(trial, space)
        space.check_params(params)
        assert space.config(params).backbone in ("backbone_a", "backbone_b")
        seen.add(tuple(sorted(params)))
        study.tell(trial, 0.0)
    conditional = any(isinstance(domain, When) and len(domain.values) for domain in space.domains.values())
    assert (len(seen) > 1) == conditional  # a condition shows in which fields are drawn


@pytest.mark.parametrize("family", registry.names())
@pytest.mark.parametrize("scale", SCALES)
def test_first_trials_survive_the_way_through_optuna(family: str, scale: str) -> None:
    space = space_of(family, ("backbone_a",), scale)
    assert space.first_trials
    for params in space.first_trials:
        study = new_study(seed=0)
        study.enqueue_trial(encode(space, params))
        assert suggest(study.ask(), space) == dict(params)


def test_a_finished_trial_told_to_optuna_is_complete_or_failed() -> None:
    space = space_of("probe", ("backbone_a",), "cpu")
    study = new_study(seed=0)
    study.add_trial(finished_trial(space, space.first_trials[0], 0.5))
    study.add_trial(finished_trial(space, space.first_trials[1], None))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]
    assert study.best_value == 0.5


def test_choices_keep_types_apart() -> None:
    choice = Choice((0, 0.5, False))
    assert choice.contains(0) and choice.contains(False) and not choice.contains(0.0) and not choice.contains(True)


def test_domains_know_their_bounds() -> None:
    assert Uniform(0.0, 1.0).contains(1.0) and not Uniform(0.0, 1.0).contains(1.01)
    assert Integer(2, 10, 4).contains(6) and not Integer(2, 10, 4).contains(5) and not Integer(2, 10, 4).contains(6.0)
    assert LogUniform(1e-5, 1e-3).contains(1e-4) and not LogUniform(1e-5, 1e-3).contains(True)
    for wrong in (lambda: LogUniform(0.0, 1.0), lambda: Uniform(2.0, 1.0), lambda: Choice(()), lambda: Choice((1, 1))):
        with pytest.raises(ValueError):
            wrong()


def test_a_space_is_checked_when_it_is_built() -> None:
    with pytest.raises(ValueError, match="has no field"):
        SearchSpace(family="baseline", config_class=BaselineConfig, domains={"learning_rate": Uniform(0.1, 0.2)})
    with pytest.raises(ValueError, match="must come before"):
        late = {"backbone_lr": When("trained_blocks", (4,), Uniform(0.1, 0.2)), "trained_blocks": Choice((0, 4))}
        SearchSpace(family="baseline", config_class=BaselineConfig, domains=late)
    with pytest.raises(ValueError, match="lies in"):
        outside = ({"dropout": 0.9},)
        SearchSpace(
            family="baseline", config_class=BaselineConfig, domains={"dropout": Uniform(0.0, 0.5)}, first_trials=outside
        )
    with pytest.raises(ValueError, match="either searched or fixed"):
        SearchSpace(
            family="baseline",
            config_class=BaselineConfig,
            domains={"dropout": Uniform(0.0, 0.5)},
            fixed={"dropout": 0.1},
        )


def test_a_misspelt_family_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean baseline"):
        space_of("basline", ("backbone_a",), "cpu")


def test_optuna_records_hold_plain_values_only() -> None:
    space = space_of("baseline", ("backbone_a",), "gpu")
    trial = finished_trial(space, space.first_trials[0], 0.1)
    assert isinstance(trial, optuna.trial.FrozenTrial)
    assert all(isinstance(value, str | int | float) for value in trial.params.values())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("family", registry.names())
def test_a_space_comes_back_from_json_as_it_was(family: str, scale: str) -> None:
    space = space_of(family, ("one", "two"), scale)
    stored = json.loads(json.dumps(space.to_json()))
    again = SearchSpace.from_json(family, space.config_class, stored)
    assert again.domains == space.domains and list(again.domains) == list(space.domains)
    assert again.to_json() == space.to_json()
    one, other = (new_study(3) for _ in range(2))
    for _ in range(12):
        params = suggest(one.ask(), space)
        assert suggest(other.ask(), again) == params and again.config(params) == space.config(params)


def test_points_of_other_ranges_are_observed_where_optuna_can() -> None:
    space = SearchSpace(
        family="probe",
        config_class=ProbeConfig,
        domains={
            "log10_alpha_low": Uniform(-4.0, 0.0),
            "layers": Integer(1, 4),
            "transform": Choice(("log1p", "none")),
        },
        fixed={"backbone": "net"},
    )
    study, inside = new_study(0), {"log10_alpha_low": -1.0, "layers": 2, "transform": "none"}
    for number in range(14):
        outside = {**inside, "log10_alpha_low": -9.0 - number, "layers": 7, "colour": "green"}
        observed = finished_trial(space, outside, 0.1)
        assert observed is not None and set(observed.params) == set(inside)
        study.add_trial(observed)
        told = finished_trial(space, {**inside, "log10_alpha_low": -number / 4}, 0.2)
        assert told is not None
        study.add_trial(told)
    for _ in range(20):
        drawn = suggest(study.ask(), space)
        assert space.misfits(drawn) == []
    assert finished_trial(space, {**inside, "transform": "sqrt"}, 0.1) is None
    assert finished_trial(space, {**inside, "layers": "many"}, 0.1) is None
    assert space.misfits({**inside, "transform": "sqrt"}) == ["transform"]
    assert space.misfits({"layers": 2, "transform": "none", "more": 1}) == ["log10_alpha_low", "more"]


@pytest.mark.parametrize("harm", [{"domains": {"x": {"kind": "cloud"}}}, {"domains": 3}, {}, {"domains": {"x": {}}}])
def test_stored_ranges_that_cannot_be_read_are_a_value_error(harm: dict) -> None:
    with pytest.raises(ValueError):
        SearchSpace.from_json("probe", ProbeConfig, harm)


@pytest.mark.parametrize("family", ["baseline", "distilled"])
def test_options_are_searched_on_large_scales_and_off_in_first_trials(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search_spaces.options.find_spec", lambda name: name == "peft")
    own = set(asdict(NetworkOptions(**REQUIRED))) - set(asdict(NetworkConfig(**REQUIRED)))
    searched = {scale: own & set(space_of(family, ("a",), scale).domains) for scale in SCALES}
    assert searched["smoke"] == searched["demo"] == set()
    assert searched["cpu"] == {"interval_bins", "interval_weight", "mixup_alpha", "predicted_metadata"}
    assert searched["gpu"] == own
    for scale in SCALES:
        space = space_of(family, ("a",), scale)
        usual = space.config_class()
        assert all(getattr(space.config(params), name) == getattr(usual, name)
                   for params in space.first_trials for name in own)  # fmt: skip
    monkeypatch.setattr("search_spaces.options.find_spec", lambda name: None)
    assert own - set(space_of(family, ("a",), "gpu").domains) == {"adapters", "adapter_rank"}
