"""What a search may vary: domains by field name, checked against the family's config when the space is built.

A space is data. It says nothing about how an engine draws values (`to_optuna.py`) nor how they are used (the config).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True)
class Uniform:
    """A real number in [low, high], every value alike."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require_order(self.low, self.high)

    def contains(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def draw(self, rng: Random) -> float:
        return rng.uniform(self.low, self.high)


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A real number in [low, high], every factor alike; low > 0."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require_order(self.low, self.high)
        if self.low <= 0:
            raise ValueError(f"a log-uniform domain starts above 0, got low={self.low}")

    def contains(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def draw(self, rng: Random) -> float:
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)  # rounding may step over an end


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number low, low + step, ..., at most high."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        _require_order(self.low, self.high)
        if self.step < 1:
            raise ValueError(f"the step of an integer domain is at least 1, got {self.step}")

    @property
    def last(self) -> int:
        """The largest value: `high`, or the last step below it."""
        return self.high - (self.high - self.low) % self.step

    def contains(self, value: Any) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def draw(self, rng: Random) -> int:
        return rng.randrange(self.low, self.high + 1, self.step)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values. Values are plain JSON scalars or tuples of them."""

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("a choice needs at least one option, got none")
        if len(set(map(repr, self.options))) < len(self.options):
            raise ValueError(f"the options of a choice differ, got {self.options}")

    def contains(self, value: Any) -> bool:
        return any(value == option and type(value) is type(option) for option in self.options)

    def draw(self, rng: Random) -> Any:
        return rng.choice(self.options)


Plain = Uniform | LogUniform | Integer | Choice


@dataclass(frozen=True, slots=True)
class When:
    """A domain that exists only while another field has one of some values; elsewhere the config's default holds."""

    field: str
    values: tuple[Any, ...]
    domain: Plain

    def contains(self, value: Any) -> bool:
        return self.domain.contains(value)

    def draw(self, rng: Random) -> Any:
        return self.domain.draw(rng)


Domain = Plain | When
KINDS: dict[type, str] = {  # names that are stored
    Uniform: "uniform", LogUniform: "log-uniform", Integer: "integer", Choice: "choice", When: "when",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """One family's domains, the values that stay fixed, and the known-good settings that are tried first.

    Raises ValueError, when built, for a field that the family's config does not have, for a condition on a field
    that is not drawn before it, and for a first trial outside the space.
    """

    family: str
    config_class: type
    domains: Mapping[str, Domain]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    first_trials: tuple[Mapping[str, Any], ...] = ()
    origins: tuple[Mapping[str, Any], ...] = ()  # every field of the first trials before own ranges moved any of them
    defaults: Mapping[str, Any] = field(
        default_factory=dict
    )  # of fields that are neither drawn nor fixed; else today's

    def __post_init__(self) -> None:
        known = {entry.name for entry in fields(self.config_class)}
        unknown = sorted((set(self.domains) | set(self.fixed) | set(self.defaults)) - known)
        if unknown:
            raise ValueError(f"{self.config_class.__name__} has no field {unknown}; its fields are {sorted(known)}")
        twice = sorted(set(self.domains) & set(self.fixed))
        if twice:
            raise ValueError(f"a field is either searched or fixed, got both for {twice}")
        drawn: set[str] = set()
        for name, domain in self.domains.items():
            if isinstance(domain, When) and domain.field not in drawn and domain.field not in self.fixed:
                raise ValueError(f"{name} depends on {domain.field}, which must come before it in the space")
            drawn.add(name)
        for params in self.first_trials:
            self.check_params(params)
            self.config(params)

    def is_active(self, name: str, drawn: Mapping[str, Any]) -> bool:
        """Whether a field is drawn at all, given what was drawn before it."""
        domain = self.domains[name]
        if not isinstance(domain, When):
            return True
        return {**self.fixed, **drawn}.get(domain.field) in domain.values

    def misfits(self, params: Mapping[str, Any]) -> list[str]:
        """What keeps params from being a point of this space: fields that it lacks or must have, and values outside."""
        active = {name for name in self.domains if self.is_active(name, params)}
        outside = {name for name in active & set(params) if not self.domains[name].contains(params[name])}
        return sorted((active ^ set(params)) | outside)

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Raise ValueError unless params are one point of this space: each active field, and no other."""
        active = {name for name in self.domains if self.is_active(name, params)}
        if set(params) != active:
            raise ValueError(
                f"a point of the {self.family} space has the fields {sorted(active)}, got {sorted(params)}"
            )
        for name, value in params.items():
            if not self.domains[name].contains(value):
                raise ValueError(f"{name} lies in {self.domains[name]}, got {value!r}")

    def draw(self, rng: Random, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """A random point of the space; fields of `fixed` that are active have its values."""
        params: dict[str, Any] = {}
        for name, domain in self.domains.items():
            if self.is_active(name, params):
                params[name] = fixed[name] if name in fixed else domain.draw(rng)
        return params

    def config(self, params: Mapping[str, Any]) -> Any:
        """The family's config at one point of the space."""
        return self.config_class(**{**self.defaults, **self.fixed, **params})

    def refusal(self, params: Mapping[str, Any]) -> str | None:
        """Why the family's config refuses a point, which own ranges may come to; None where it accepts it."""
        try:
            self.config(params)
        except (TypeError, ValueError) as error:
            return str(error)
        return None

    def completed(self, params: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """A point of other ranges with the fields that are drawn today and were not then, as its config has them, where
        that lies in today's ranges."""
        found = dict(params)
        for name, domain in self.domains.items():
            missing = name not in found and name in config and self.is_active(name, found)
            if missing and domain.contains(config[name]):
                found[name] = config[name]
        return found

    def to_json(self) -> dict[str, Any]:
        """The space with the defaults of today, so that a later version draws the same configurations from it."""
        defaults = {one.name: one.default for one in fields(self.config_class) if one.default is not MISSING}
        return {
            "domains": {name: _domain_to_json(domain) for name, domain in self.domains.items()},
            "fixed": dict(self.fixed),
            "first_trials": [dict(params) for params in self.first_trials],
            **({"origins": [dict(config) for config in self.origins]} if self.origins else {}),
            "defaults": {**defaults, **self.defaults},
        }

    @classmethod
    def from_json(cls, family: str, config_class: type, content: Mapping[str, Any]) -> SearchSpace:
        """What `to_json` wrote. Raises ValueError where today's configuration cannot hold it."""
        try:
            return cls(
                family=family,
                config_class=config_class,
                domains={name: _domain_from_json(domain) for name, domain in content["domains"].items()},
                fixed=content.get("fixed", {}),
                first_trials=tuple(content.get("first_trials", ())),
                origins=tuple(
                    {name: _hashable(value) for name, value in config.items()} for config in content.get("origins", ())
                ),
                defaults=content.get("defaults", {}),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a search space is stored with its domains, got {error!r}") from error


def _domain_to_json(domain: Domain) -> dict[str, Any]:
    kind = KINDS[type(domain)]
    if isinstance(domain, When):
        values, inner = list(domain.values), _domain_to_json(domain.domain)
        return {"kind": kind, "field": domain.field, "values": values, "domain": inner}
    return {"kind": kind, **asdict(domain)}


def _domain_from_json(content: Mapping[str, Any]) -> Domain:
    kind, given = content["kind"], {name: value for name, value in content.items() if name != "kind"}
    if kind not in (names := {name: one for one, name in KINDS.items()}):
        raise ValueError(f"a domain is one of {', '.join(names)}, got {kind!r}")
    if kind == "when":
        inner = _domain_from_json(given["domain"])
        assert not isinstance(inner, When)
        return When(given["field"], tuple(map(_hashable, given["values"])), inner)
    if kind == "choice":
        return Choice(tuple(map(_hashable, given["options"])))
    return {"uniform": Uniform, "log-uniform": LogUniform, "integer": Integer}[kind](**given)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _require_order(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"a domain needs finite low <= high, got {low} and {high}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
