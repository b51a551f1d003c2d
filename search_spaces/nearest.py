"""Settings at the nearest points of other ranges: published ones, those of an older study or of a blend's members."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from search_spaces.domain import Choice, Integer, LogUniform, Plain, SearchSpace, Uniform, When
from search_spaces.ranges_text import default_of

Config = Mapping[str, Any]  # every field of a configuration


@dataclass(frozen=True, kw_only=True)
class Moved:
    """The point of a space that is nearest to a configuration."""

    params: Mapping[str, Any]
    fields: tuple[str, ...]  # name=value of those that are others than they were
    refusal: str | None  # why the family's configuration refuses the point


def moved_to(space: SearchSpace, config: Config) -> Moved:
    """The nearest point. A field that is fixed has its value there, whatever the configuration has."""
    params = nearest_point(space, config)
    now = every_field(space, params)
    others = tuple(f"{name}={value}" for name, value in now.items() if name in config and value != config[name])
    return Moved(params=params, fields=others, refusal=space.refusal(params))


def nearest_point(space: SearchSpace, values: Config) -> dict[str, Any]:
    """The point of a space whose fields are nearest to some values of a configuration."""
    params: dict[str, Any] = {}
    for name, domain in space.domains.items():
        if space.is_active(name, params):
            params[name] = _nearest(domain.domain if isinstance(domain, When) else domain, values.get(name, MISSING))
    return params


def every_field(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a point's configuration, without building it."""
    names = (one.name for one in fields(space.config_class))
    return {**{name: default_of(space, name) for name in names}, **space.fixed, **params}


def has_backbone(space: SearchSpace, config: Config) -> bool:
    """Whether a configuration's backbone is searched: another one makes it another setting."""
    domain = space.domains.get("backbone")
    return space.fixed.get("backbone") == config["backbone"] if domain is None else domain.contains(config["backbone"])


# -- first trials ------------------------------------------------------------------------------------------------------


def origins_of(space: SearchSpace) -> Sequence[Config]:
    """What the first trials of a space were before ranges of the user's own moved them."""
    return space.origins or [every_field(space, params) for params in space.first_trials]


def with_origins(space: SearchSpace, origins: Sequence[Config], known: Sequence[Mapping[str, Any]] = ()) -> SearchSpace:
    """The space with these configurations as its first trials, at its nearest points, each once; what it refuses is
    left out. Ranges that are wider later have them back.

    known: points as they are stored, for those that stay: the order of their fields is kept.
    """
    found = [dict(moved.params) for _, moved, _ in _placed(space, origins) if moved is not None]
    same = [every_field(space, params) for params in found] == [dict(one) for one in origins]
    points = (next((dict(one) for one in known if dict(one) == params), params) for params in found)
    return replace(space, first_trials=tuple(points), origins=() if same else tuple(origins))


def origin_lines(space: SearchSpace) -> Iterator[str]:
    """What is to be said of the first trials that are adapted or left out."""
    for place, moved, why in _placed(space, origins_of(space)):
        name = f"first trial {place} of {space.family}"
        if moved is None:
            yield f"{name} is left out: within these ranges {why}"
        elif moved.fields:
            yield f"{name} is adapted to these ranges: {', '.join(moved.fields)}"


def _placed(space: SearchSpace, origins: Sequence[Config]) -> Iterator[tuple[int, Moved | None, str]]:
    """Place, nearest point, and why there is none."""
    seen: list[Mapping[str, Any]] = []
    for place, config in enumerate(origins, start=1):
        moved = moved_to(space, config)
        if moved.params in seen:
            yield place, None, "it is the same as another"
        elif moved.refusal is not None:
            yield place, None, f"the configuration refuses it ({moved.refusal})"
        else:
            seen.append(moved.params)
            yield place, moved, ""


def _nearest(domain: Plain, value: Any) -> Any:
    if domain.contains(value):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match domain:
        case Choice(options):
            near = [one for one in options if isinstance(one, int | float) and not isinstance(one, bool)]
            return min(near, key=lambda one: abs(one - value)) if number and near else options[0]
        case Integer(low, high, step):
            steps = round((min(max(value, low), high) - low) / step) if number else 0
            return low + step * min(steps, (high - low) // step)
        case Uniform(low, high) | LogUniform(low, high):
            return min(max(float(value), low), high) if number else low
