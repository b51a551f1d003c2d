"""Points of finite spaces, against brute force and by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from biomass_models.families.probe.config import ProbeConfig
from search_spaces.domain import Choice, Domain, Integer, LogUniform, SearchSpace, Uniform, When
from search_spaces.finite import MOST_VALUES, Surroundings, is_finite, neighbours, point_key, points

SPACE = SearchSpace(
    family="probe",
    config_class=ProbeConfig,
    domains={
        "size": Choice((64, 96)),
        "layout": Choice(("whole", "halves")),
        "view_merge": When("layout", ("halves",), Choice(("concat", "mean"))),
        "alphas": Integer(3, 7, 2),
    },
    fixed={"backbone": "net"},
)


def test_every_point_once_with_the_fields_that_it_has() -> None:
    found = [tuple(sorted(point.items())) for point in points(SPACE)]
    assert len(found) == len(set(found)) == 2 * (1 + 2) * 3
    for point in points(SPACE):
        SPACE.check_params(point)


def distance(one: dict[str, object], other: dict[str, object]) -> int:
    """Fields that both have with other values; a field of one alone comes with its condition."""
    return sum(one[name] != other[name] for name in one.keys() & other.keys())


def test_neighbours_differ_in_one_field_and_in_what_depends_on_it() -> None:
    for point in points(SPACE):
        expected = [other for other in points(SPACE) if distance(point, other) == 1]
        found = list(neighbours(SPACE, point))
        assert sorted(map(point_key, found)) == sorted(map(point_key, expected))


def test_the_nearest_new_points_are_those_of_brute_force() -> None:
    """From one start and then from another: what was worked out for the first holds for the second."""
    every, around = list(points(SPACE)), Surroundings(SPACE)
    for start in (every[0], every[-1]):
        require_nearest(start, every, around)


def require_nearest(start: dict[str, Any], every: list[dict[str, Any]], around: Surroundings) -> None:
    for known in itertools.accumulate(([point_key(point)] for point in every), lambda one, other: [*one, *other]):
        left = [point for point in every if point_key(point) not in known]
        least = min((distance(start, point) for point in left), default=0)
        expected = sorted(point_key(point) for point in left if distance(start, point) == least)
        ways = ({key for key in ring if key not in known} for ring in around.rings(start))
        assert sorted(next(filter(None, ways), ())) == expected
    every_ring = [item for ring in around.rings(start) for item in ring.items()]
    assert len(every_ring) == len(every) and all(key == point_key(point) for key, point in every_ring)


@pytest.mark.parametrize(
    ("domain", "finite"),
    [
        (Uniform(0.0, 1.0), False),
        (LogUniform(0.1, 1.0), False),
        (Uniform(1.0, 1.0), True),
        (Integer(1, MOST_VALUES), True),
        (Integer(1, MOST_VALUES + 1), False),
        (When("layout", ("halves",), LogUniform(0.1, 1.0)), False),
    ],
)
def test_a_space_is_finite_where_each_field_is(domain: Domain, finite: bool) -> None:
    assert is_finite(SPACE)
    assert is_finite(replace(SPACE, domains={**SPACE.domains, "log10_alpha_low": domain})) == finite
