"""What to weigh next, against recomputed inverses, brute force, and a case by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.advice.design import CLIP, choose, nearest, standardised, thinned

NOISE = 0.1


def open_variance(z_LD: np.ndarray, z_ND: np.ndarray, noise: float = NOISE) -> np.ndarray:
    """V of the rows of z_ND by the inverse, once the rows of z_LD are labelled."""
    width = z_ND.shape[1]
    cross_NL = z_ND @ z_LD.T / width
    return (
        z_ND @ z_ND.T / width - cross_NL @ np.linalg.inv(z_LD @ z_LD.T / width + noise * np.eye(len(z_LD))) @ cross_NL.T
    )


def drawn(seed: int, sizes: tuple[int, int, int] = (4, 7, 5), width: int = 3) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(seed)
    return tuple(draw.normal(size=(size, width)) for size in sizes)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), labelled=st.integers(0, 6))
def test_each_choice_is_the_best_by_an_inverse_computed_anew(seed: int, labelled: int) -> None:
    z_LD, z_PD, z_JD = drawn(seed, (labelled, 7, 5))
    found = choose(z_LD, z_PD, z_JD, 4)
    at_first = np.trace(open_variance(z_LD, z_JD))
    assert found.open_before == pytest.approx(at_first)
    known_ND, before = z_LD, at_first
    for step, row in enumerate(found.row_C):
        after = [
            np.inf if other in found.row_C[:step] else np.trace(open_variance(np.vstack([known_ND, z_PD[other]]), z_JD))
            for other in range(len(z_PD))
        ]
        assert after[row] == pytest.approx(min(after), abs=1e-9)
        assert found.gain_C[step] == pytest.approx((before - after[row]) / at_first, abs=1e-9)
        known_ND, before = np.vstack([known_ND, z_PD[row]]), after[row]


def test_three_photographs_by_hand() -> None:
    """One feature, nothing weighed, one target at 1: K = z z'. Of 2, 1 and -1 the first settles 4 / 4.1.

    Then V_jx = z_x / 41 and V_xx = z_x^2 / 41: of the two left (a tie) the first settles (1/41)^2 / (1/41 + .1).
    """
    found = choose(np.empty((0, 1)), np.array([[2.0], [1.0], [-1.0]]), np.array([[1.0]]), 2)
    assert found.row_C.tolist() == [0, 1]
    assert found.gain_C == pytest.approx([4 / 4.1, (1 / 41) ** 2 / (1 / 41 + 0.1)])
    assert found.open_before == 1.0


def test_what_is_weighed_already_is_worth_less_than_what_is_new() -> None:
    z_LD, z_PD, z_JD = np.array([[3.0, 0.0]]), np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0]])
    assert choose(z_LD, z_PD, z_JD, 1).row_C.tolist() == [1]
    assert choose(np.empty((0, 2)), z_PD, z_JD, 1).row_C.tolist() == [0]


def test_targets_decide() -> None:
    z_LD, z_PD, _ = drawn(3)
    alike = [choose(z_LD, z_PD, z_PD[[row]], 1).row_C[0] for row in range(len(z_PD))]
    assert len(set(alike)) > 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_laws(seed: int) -> None:
    """All of a pool is chosen once; shares sum to at most 1; a copy of the targets changes nothing."""
    z_LD, z_PD, z_JD = drawn(seed)
    found = choose(z_LD, z_PD, z_JD, 99)
    assert sorted(found.row_C) == list(range(len(z_PD)))
    assert (found.gain_C >= 0).all() and found.gain_C.sum() <= 1 + 1e-12
    twice = choose(z_LD, z_PD, np.vstack([z_JD, z_JD]), 99)
    assert twice.gain_C == pytest.approx(found.gain_C)


def test_features_are_standardised_over_labelled_and_pool() -> None:
    z_LD, z_PD, z_JD = drawn(1, (30, 40, 5))
    z_LD[:, 0] = z_PD[:, 0] = 7.0  # says nothing, whatever targets have there
    z_JD[0, 1] = 1e6
    scaled_LD, scaled_PD, scaled_JD = standardised(z_LD, z_PD, z_JD)
    known_ND = np.vstack([scaled_LD, scaled_PD])
    assert known_ND.shape == (70, 2)
    assert known_ND.mean(axis=0) == pytest.approx(0, abs=0.01) and known_ND.std(axis=0) == pytest.approx(1, abs=0.01)
    assert scaled_JD.max() == CLIP


def test_features_without_spread_leave_an_order() -> None:
    same = np.ones((3, 2))
    found = choose(*standardised(same, same, same), 2)
    assert found.row_C.tolist() == [0, 1] and found.gain_C.tolist() == [0.0, 0.0]


def test_the_nearest_come_first_and_of_equals_the_first() -> None:
    assert nearest(np.array([[0.0]]), np.array([[2.0], [1.0], [-1.0]])).tolist() == [[1, 2, 0]]


def test_a_large_pool_is_thinned_evenly() -> None:
    assert thinned(3, 5).tolist() == [0, 1, 2]
    assert thinned(9, 5).tolist() == [0, 2, 4, 6, 8]
    rows = thinned(100_003)
    assert len(set(rows)) == 4000 and rows[0] == 0 and rows[-1] == 100_002
