"""Domains, conditions, the way to Optuna and back, and the families' own spaces."""

from __future__ import annotations

import optuna
import pytest

from biomass_models.configs import BaselineConfig
from search_spaces.domain import Choice, Integer, LogUniform, SearchSpace, Uniform, When
from search_spaces.spaces import SCALES, SPACES, space_of
from search_spaces.to_optuna import encode, finished_trial, new_study, suggest


@pytest.mark.parametrize("family", SPACES)
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


@pytest.mark.parametrize("family", SPACES)
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
