"""Between our search spaces and Optuna: the one file of this package that imports it.

Optuna's categorical values must be plain scalars, and its records must survive JSON. A choice is therefore drawn as
its options' JSON texts, which also keeps 1, 1.0 and True apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
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


class Encoding:
    """Points of a space as rows of numbers, which is how Optuna's distributions hold them: [P] for P fields.

    distributions: of the fields that have more than one value, sorted by name; a row has a column for each.
    """

    def __init__(self, space: SearchSpace) -> None:
        found = {name: one for name, one in sorted(distributions_of(space).items()) if not one.single()}
        self.distributions: Mapping[str, BaseDistribution] = found
        self.column: Mapping[str, int] = {name: place for place, name in enumerate(found)}
        self._domains = {name: _plain(domain) for name, domain in space.domains.items()}

    def row(self, params: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
        """A point's numbers, NaN for a field that it lacks, and which of them lie in the ranges of today.

        None where Optuna cannot hold the point, as for `finished_trial`.
        """
        value_P, inside_P = np.full(len(self.column), np.nan), np.zeros(len(self.column), dtype=bool)
        for name, value in params.items():
            if (domain := self._domains.get(name)) is None:
                continue
            inside, place = domain.contains(value), self.column.get(name)
            if not inside and _distribution_around(domain, value) is None:
                return None
            if place is not None:
                value_P[place] = _place_of(value, domain) if isinstance(domain, Choice) else value
                inside_P[place] = inside
        return value_P, inside_P


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


def _place_of(value: Any, choice: Choice) -> int:
    return next(place for place, one in enumerate(choice.options) if one == value and type(one) is type(value))


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
        case Integer() as whole:
            return trial.suggest_int(name, whole.low, whole.last, step=whole.step)
        case Choice(options):
            by_text = {json.dumps(option): option for option in options}
            return by_text[trial.suggest_categorical(name, list(by_text))]


def _distribution(domain: Plain) -> BaseDistribution:
    match domain:
        case Uniform(low, high):
            return FloatDistribution(low, high)
        case LogUniform(low, high):
            return FloatDistribution(low, high, log=True)
        case Integer() as whole:  # Optuna warns of an end that no step reaches
            return IntDistribution(whole.low, whole.last, step=whole.step)
        case Choice(options):
            return CategoricalDistribution([json.dumps(option) for option in options])


def _plain(domain: Domain) -> Plain:
    return domain.domain if isinstance(domain, When) else domain


def _encode(domain: Domain, value: Any) -> Any:
    return json.dumps(value) if isinstance(_plain(domain), Choice) else value
