"""Learning curves: known curves are found again, and what cannot be resolved is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.advice.curve_fit import LEAST_BAND, Curve, fit_curve, forecast

SIZES = np.array([2.0, 4.0, 8.0, 16.0, 24.0])


@settings(max_examples=30, deadline=None)
@given(a=st.floats(0.2, 0.9), b=st.floats(-2.0, -0.1), step=st.integers(0, 38))
def test_a_curve_is_found_again(a: float, b: float, step: int) -> None:
    known = Curve(a=a, b=b, c=float(np.linspace(0.1, 2.0, 39)[step]))
    found = fit_curve(SIZES, np.array([known.at(size) for size in SIZES]))
    assert (found.a, found.b, found.c) == pytest.approx((known.a, known.b, known.c), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_other_curve_is_closer(seed: int) -> None:
    """Against scipy from many starts, within the same bounds."""
    from scipy.optimize import least_squares

    score_S = np.sort(np.random.default_rng(seed).uniform(0, 0.8, len(SIZES)))
    own = fit_curve(SIZES, score_S)
    loss = sum((own.at(size) - score) ** 2 for size, score in zip(SIZES, score_S, strict=True))
    for c in (0.2, 0.7, 1.5):
        other = least_squares(
            lambda x: x[0] + x[1] * SIZES ** -x[2] - score_S,
            (score_S[-1], -0.5, c),
            bounds=((-np.inf, -np.inf, 0.1), (np.inf, 0.0, 2.0)),
        )
        assert loss <= 2 * other.cost + 1e-4  # exponents lie on a grid


def test_more_never_costs() -> None:
    found = fit_curve(SIZES, np.array([0.6, 0.5, 0.4, 0.3, 0.2]))
    assert found.b == 0 and found.at(99) == pytest.approx(0.4)


def test_a_steep_curve_has_a_gain_with_a_band() -> None:
    known = Curve(a=0.8, b=-1.5, c=0.5)
    score_RS = np.array([[known.at(size) for size in SIZES]] * 3)
    found = forecast(SIZES, score_RS, 40, "date")
    assert found.resolvable and found.band == LEAST_BAND
    assert found.gain == pytest.approx(known.at(40) - known.at(24), rel=1e-6)


def test_repeats_that_differ_widen_the_band() -> None:
    steep, flat = (np.array([Curve(a=0.8, b=b, c=0.5).at(size) for size in SIZES]) for b in (-3.0, 0.0))
    found = forecast(SIZES, np.array([steep, flat]), 40, "date")
    each = 3.0 * (24**-0.5 - 40**-0.5)
    assert found.band == pytest.approx(2 * np.std([each, 0.0], ddof=1), rel=1e-6)
    assert not found.resolvable and "within the band" in found.reason


def test_what_is_not_resolvable_has_its_reason() -> None:
    flat_RS = np.full((2, len(SIZES)), 0.5)
    assert "within the band" in forecast(SIZES, flat_RS, 40, "date").reason
    assert "more than twice" in forecast(SIZES, flat_RS, 49, "date").reason
    assert "needs 4 numbers of dates, there are 3" in forecast(SIZES[:3], flat_RS[:, :3], 5, "date").reason
