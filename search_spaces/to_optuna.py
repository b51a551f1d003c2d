"""Between our search spaces and Optuna: the one file of this package that imports it.

Optuna's categorical values must be plain scalars, and its records must survive JSON. A choice is therefore drawn as
its options' JSON texts, which also keeps 1, 1.0 and True apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from search_spaces.domain import Choice, Domain, Integer, LogUniform, Plain, SearchSpace, Uniform, When

REFUSED = TrialState.PRUNED  # without a value


def suggest(trial: Trial, space: SearchSpace) -> dict[str, Any]:
    """Draw one point of the space, condition by condition."""
    params: dict[str, Any] = {}
    for name, domain in space.domains.items():
        if space.is_active(name, params):
            params[name] = _draw(trial, name, _plain(domain))
    return params


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each field."""
    return {name: _distribution(_plain(domain)) for name, domain in space.domains.items()}


def encode(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    """A point of the space as the values that Optuna stores (for `enqueue_trial`)."""
    return {name: _encode(space.domains[name], value) for name, value in params.items()}


def finished_trial(
    space: SearchSpace, params: Mapping[str, Any], score: float | None, *, refused: bool = False
) -> FrozenTrial | None:
    """A trial that ran elsewhere, to be added to a study; a score of None says that it failed, or was refused.

    What failed teaches the sampler nothing. What was refused is infeasible: without a value it ranks behind every
    trial that has one, and the sampler keeps away from there (in Optuna's words it is pruned).

    A study may hold points of other ranges. A field that the space lacks is left out, a number outside of its range is
    kept; with an option that a choice lacks the trial cannot be observed, and None comes back.
    """
    state = REFUSED if refused else TrialState.FAIL if score is None else TrialState.COMPLETE
    return _trial(space, params, state, score)


def running_trial(space: SearchSpace, params: Mapping[str, Any]) -> FrozenTrial | None:
    """A trial that runs elsewhere and has not ended; None as for `finished_trial`."""
    return _trial(space, params, TrialState.RUNNING, None)


def _trial(space: SearchSpace, params: Mapping[str, Any], state: TrialState, score: float | None) -> FrozenTrial | None:
    known = {name: value for name, value in params.items() if name in space.domains}
    distributions = {name: _distribution_around(_plain(space.domains[name]), value) for name, value in known.items()}
    if None in distributions.values():
        return None
    return create_trial(
        state=state,
        value=score,
        params=encode(space, known),
        distributions={name: one for name, one in distributions.items() if one is not None},
    )


def _distribution_around(domain: Plain, value: Any) -> BaseDistribution | None:
    """The domain's distribution, stretched to a number outside of it; None where it cannot hold the value."""
    if domain.contains(value):
        return _distribution(domain)
    if isinstance(domain, Choice) or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high = min(domain.low, value), max(domain.high, value)
    match domain:
        case LogUniform():
            return FloatDistribution(low, high, log=True) if low > 0 else None
        case Uniform():
            return FloatDistribution(low, high)
        case Integer():
            return IntDistribution(int(low), int(high)) if isinstance(value, int) else None


def readable(space: SearchSpace, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """A point as people like to see it: values and distributions by name, with the options of a choice as plain texts.

    Left out is what does not lie in the space, as in a study that was made with other ranges.
    """
    values: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, value in params.items():
        domain = _plain(space.domains[name]) if name in space.domains else None
        if isinstance(domain, Choice):
            options = [_text(option) for option in domain.options]
            if _text(value) in options:
                values[name], distributions[name] = _text(value), CategoricalDistribution(options)
        elif domain is not None and domain.contains(value):
            values[name], distributions[name] = value, _distribution(domain)
    return values, distributions


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _draw(trial: Trial, name: str, domain: Plain) -> Any:
    match domain:
        case Uniform(low, high):
            return trial.suggest_float(name, low, high)
        case LogUniform(low, high):
            return trial.suggest_float(name, low, high, log=True)
        case Integer(low, high, step):
            return trial.suggest_int(name, low, high, step=step)
        case Choice(options):
            by_text = {json.dumps(option): option for option in options}
            return by_text[trial.suggest_categorical(name, list(by_text))]


def _distribution(domain: Plain) -> BaseDistribution:
    match domain:
        case Uniform(low, high):
            return FloatDistribution(low, high)
        case LogUniform(low, high):
            return FloatDistribution(low, high, log=True)
        case Integer(low, high, step):
            return IntDistribution(low, high, step=step)
        case Choice(options):
            return CategoricalDistribution([json.dumps(option) for option in options])


def _plain(domain: Domain) -> Plain:
    return domain.domain if isinstance(domain, When) else domain


def _encode(domain: Domain, value: Any) -> Any:
    return json.dumps(value) if isinstance(_plain(domain), Choice) else value
