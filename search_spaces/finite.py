"""Spaces that have finitely many points: all of them, those beside one, the others by their distance from one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from search_spaces.domain import Choice, Domain, Integer, SearchSpace, When

Point = dict[str, Any]
MOST_VALUES = 1000  # of a field; whole numbers of a longer range count as endless


def is_finite(space: SearchSpace) -> bool:
    """Whether every field is a choice, a whole number, or a range of one value."""
    return all(values_of(domain) is not None for domain in space.domains.values())


def points(space: SearchSpace) -> Iterator[Point]:
    """Every point of a finite space, once."""
    return _completed(space, lambda name: values_of(space.domains[name]) or ())


def neighbours(space: SearchSpace, params: Mapping[str, Any]) -> Iterator[Point]:
    """Every point of a finite space that has another value in one field of `params`, and all else alike but for fields
    that exist only with the new value: these have each of their values."""
    for changed, before in params.items():
        for value in values_of(space.domains[changed]) or ():
            if value != before or type(value) is not type(before):
                yield from _completed(space, _kept(space, {**params, changed: value}))


def _kept(space: SearchSpace, params: Mapping[str, Any]) -> Callable[[str], Sequence[Any]]:
    return lambda name: (params[name],) if name in params else values_of(space.domains[name]) or ()


class Surroundings:
    """What lies around the points of a finite space. What is beside a point is worked out once: engines come back to
    their best points, whose surroundings are known ever further out."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._points: dict[str, Point] = {}
        self._beside: dict[str, tuple[str, ...]] = {}

    def rings(self, params: Mapping[str, Any]) -> Iterator[dict[str, Point]]:
        """All points by point_key, those first that fewest single changes part from `params`."""
        start = point_key(params)
        self._points.setdefault(start, dict(params))
        ring: tuple[str, ...] = (start,)
        seen = {start}
        while ring:
            yield {key: self._points[key] for key in ring}
            near = dict.fromkeys(key for one in ring for key in self._keys_beside(one))
            ring = tuple(key for key in near if key not in seen)
            seen |= near.keys()

    def _keys_beside(self, key: str) -> tuple[str, ...]:
        if key not in self._beside:
            near = {point_key(point): point for point in neighbours(self._space, self._points[key])}
            self._points |= {name: point for name, point in near.items() if name not in self._points}
            self._beside[key] = tuple(near)
        return self._beside[key]


def point_key(params: Mapping[str, Any]) -> str:
    """Alike for equal points alone."""
    return json.dumps(params, sort_keys=True)


def _completed(space: SearchSpace, values_of: Callable[[str], Sequence[Any]]) -> Iterator[Point]:
    """Every point whose fields have one of these values each."""
    names = list(space.domains)

    def rest(place: int, drawn: Point) -> Iterator[Point]:
        while place < len(names) and not space.is_active(names[place], drawn):
            place += 1
        if place == len(names):
            yield drawn
            return
        for value in values_of(names[place]):
            yield from rest(place + 1, {**drawn, names[place]: value})

    return rest(0, {})


def values_of(domain: Domain) -> Sequence[Any] | None:
    """All values of a domain; None where they are infinitely many."""
    match domain.domain if isinstance(domain, When) else domain:
        case Choice(options):
            return options
        case Integer(low, high, step):
            values = range(low, high + 1, step)
            return values if len(values) <= MOST_VALUES else None
        case other:
            return (other.low,) if other.low == other.high else None
