"""The metric against scikit-learn and by hand; the projection against brute force and its laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import nnls
from sklearn.metrics import r2_score

from biomass_models.data.cell_weights import row_weights
from biomass_models.targets import (
    FROM_COMPONENTS,
    TARGETS,
    from_components,
    identity_gap,
    norm_of,
    project_coherent,
    squared_error,
    weight_T,
    weighted_r2_score,
    weighted_sst,
    weights_of,
)

grams = st.floats(-200, 200, allow_nan=False)
masses_65 = arrays(np.float64, (6, 5), elements=grams)
components_63 = arrays(np.float64, (6, 3), elements=st.floats(0, 200))


def _loss(truth_NT: np.ndarray, pred_NT: np.ndarray) -> float:
    return float((weight_T * (truth_NT - pred_NT) ** 2).sum())


def test_weights_are_the_competitions() -> None:
    assert dict(zip(TARGETS, weight_T.tolist(), strict=True)) == {
        "Dry_Green_g": 0.1,
        "Dry_Dead_g": 0.1,
        "Dry_Clover_g": 0.1,
        "GDM_g": 0.2,
        "Dry_Total_g": 0.5,
    }


def test_score_by_hand() -> None:
    truth_NT = np.array([[0, 0, 0, 0, 0], [0, 10, 0, 0, 10]])
    # grand weighted mean m = (0.1 * 10 + 0.5 * 10) / 2 = 3; SST = (2 - 0.6) * 3^2 + 0.6 * 7^2 = 12.6 + 29.4 = 42
    pred_NT = np.array([[0, 0, 0, 0, 2], [1, 10, 0, 0, 10]])
    # SSE = 0.5 * 2^2 + 0.1 * 1^2 = 2.1
    assert weighted_sst(truth_NT) == pytest.approx(42.0)
    assert weighted_r2_score(truth_NT, pred_NT) == pytest.approx(1 - 2.1 / 42)


@given(truth_NT=masses_65, pred_NT=masses_65)
@settings(deadline=None)
def test_score_is_sklearns_on_raveled_rows(truth_NT: np.ndarray, pred_NT: np.ndarray) -> None:
    if np.ptp(truth_NT) < 1e-3:
        return
    oracle = r2_score(truth_NT.ravel(), pred_NT.ravel(), sample_weight=np.tile(weight_T, len(truth_NT)))
    assert weighted_r2_score(truth_NT, pred_NT) == pytest.approx(oracle, rel=1e-9, abs=1e-9)


def test_constants() -> None:
    rng = np.random.default_rng(0)
    truth_NT = from_components(*rng.gamma(1.0, [[26.0], [12.0], [7.0]], (3, 40)))
    grand = (weight_T * truth_NT).sum() / len(truth_NT)
    assert weighted_r2_score(truth_NT, truth_NT) == 1.0
    assert weighted_r2_score(truth_NT, np.full_like(truth_NT, grand)) == pytest.approx(0.0, abs=1e-12)
    per_target = np.broadcast_to(truth_NT.mean(0), truth_NT.shape)
    assert weighted_r2_score(truth_NT, per_target) > 0.05
    # another number that is often taken for the metric
    by_output = r2_score(truth_NT, per_target, multioutput=weight_T)
    assert by_output == pytest.approx(0.0, abs=1e-12)


def test_score_refuses_what_it_cannot_score() -> None:
    good = np.arange(10.0).reshape(2, 5)
    with pytest.raises(ValueError, match="images, 5"):
        weighted_r2_score(good, good[:1])
    with pytest.raises(ValueError, match="finite"):
        weighted_r2_score(good, np.where(good == 3, np.nan, good))
    with pytest.raises(ValueError, match="spread"):
        weighted_r2_score(np.zeros((3, 5)), good[[0, 1, 1]])


@given(pred_NT=masses_65)
@settings(max_examples=150, deadline=None)
def test_projection_is_the_weighted_nnls_solution(pred_NT: np.ndarray) -> None:
    root = np.sqrt(weight_T)
    oracle = np.array([FROM_COMPONENTS @ nnls(root[:, None] * FROM_COMPONENTS, root * row)[0] for row in pred_NT])
    # faces are compared by squared distance, so positions are good to sqrt(eps) of the largest mass: 200 g -> 3e-6 g
    np.testing.assert_allclose(project_coherent(pred_NT), oracle, atol=1e-5)


@pytest.mark.slow
@given(pred_NT=masses_65, parts=components_63)
@settings(deadline=None)
def test_projection_laws(pred_NT: np.ndarray, parts: np.ndarray) -> None:
    projected = project_coherent(pred_NT)
    truth_NT = from_components(parts[:, 0], parts[:, 1], parts[:, 2])
    assert identity_gap(projected).max() < 1e-9
    assert projected.min() >= 0
    np.testing.assert_allclose(project_coherent(projected), projected, atol=1e-9)
    np.testing.assert_allclose(project_coherent(truth_NT), truth_NT, atol=1e-9)
    assert _loss(truth_NT, projected) <= _loss(truth_NT, pred_NT) + 1e-6


def test_projection_keeps_leading_axes() -> None:
    pred_MNT = np.random.default_rng(0).normal(10, 20, (3, 4, 5))
    projected = project_coherent(pred_MNT)
    assert projected.shape == pred_MNT.shape
    np.testing.assert_array_equal(projected[1], project_coherent(pred_MNT[1]))
    with pytest.raises(ValueError, match="5 targets"):
        project_coherent(np.zeros((4, 3)))


def test_identity_gap_by_hand() -> None:
    mass_NT = np.array([[1.0, 2.0, 3.0, 4.0, 6.0], [1.0, 2.0, 3.0, 4.5, 6.0]])
    np.testing.assert_allclose(identity_gap(mass_NT), [0.0, 0.5])


def test_masses_that_are_all_alike_have_no_spread_whatever_rounding_leaves() -> None:
    assert weighted_sst(np.full((7, 5), 2.0)) == weighted_sst(np.full((7, 5), 0.1)) == 0.0
    with pytest.raises(ValueError, match="without any spread"):
        weighted_r2_score(np.full((7, 5), 0.1), np.zeros((7, 5)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_projection_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        project_coherent([[1.0, bad, 2.0, 3.0, 4.0]])


def test_a_single_row_is_projected_like_a_table_of_one() -> None:
    row = [3.0, -1.0, 2.0, 9.0, 4.0]
    assert project_coherent(row).shape == (5,)
    np.testing.assert_array_equal(project_coherent(row), project_coherent([row])[0])


# -- what was not measured ---------------------------------------------------------------------------------------------

PATTERNS = st.lists(st.booleans(), min_size=5, max_size=5).filter(any)


@given(truth_NT=masses_65, pred_NT=masses_65, measured_NT=arrays(np.bool_, (6, 5)))
@settings(deadline=None)
def test_cells_that_were_not_measured_leave_both_sums_and_the_mean(
    truth_NT: np.ndarray, pred_NT: np.ndarray, measured_NT: np.ndarray
) -> None:
    known = truth_NT[measured_NT]
    if len(known) < 2 or np.ptp(known) < 1e-3:
        return
    weight = np.tile(weight_T, (6, 1))[measured_NT]
    oracle = r2_score(known, pred_NT[measured_NT], sample_weight=weight)
    partial_NT = np.where(measured_NT, truth_NT, np.nan)
    assert weighted_r2_score(partial_NT, pred_NT) == pytest.approx(oracle, rel=1e-9, abs=1e-9)


def test_what_stands_in_a_cell_that_was_not_measured_plays_no_part() -> None:
    rng = np.random.default_rng(0)
    truth_NT, pred_NT = rng.gamma(2, 10, (2, 20, 5))
    unmeasured_NT = rng.random((20, 5)) < 0.4
    partial_NT = np.where(unmeasured_NT, np.nan, truth_NT)
    weight = weights_of(partial_NT)
    found = set()
    for cell in (np.nan, 0.0, 1e9):
        own, other = np.where(unmeasured_NT, cell, truth_NT), np.where(unmeasured_NT, cell, pred_NT)
        score = weighted_r2_score(own, other, weight)
        found.add((score, weighted_sst(own, weight), squared_error(own, other, weight).tobytes()))
    assert len(found) == 1
    assert found.pop()[0] == weighted_r2_score(partial_NT, pred_NT)


def test_weights_are_the_published_ones_where_all_was_measured() -> None:
    truth_NT = np.ones((4, 5))
    assert weights_of(truth_NT) is weight_T
    truth_NT[1, 2] = np.nan
    np.testing.assert_array_equal(weights_of(truth_NT)[1], [0.1, 0.1, 0.0, 0.2, 0.5])
    np.testing.assert_array_equal(norm_of(weights_of(truth_NT)), weight_T)


OWN = np.array([1.0, 2.0, 0.0, 3.0, 6.0]) / 12  # of green, dead, GDM, total


@pytest.mark.parametrize("base_T", [weight_T, OWN], ids=["published", "own"])
def test_weights_in_a_projection_know_no_number_of_photographs(base_T: np.ndarray) -> None:
    """Dead only where a quadrat has 2 photographs, green only where it has 3; the total where it has 1, 2 or 3."""
    measured_NT = np.array([[0, 0, 0, 0, 1], [0, 1, 0, 0, 1], [1, 0, 0, 0, 1], [0, 0, 0, 0, 1]], dtype=bool)
    photographs_N = np.array([1, 2, 3, 3])
    weight = np.where(measured_NT, base_T / photographs_N[:, None], 0.0)
    np.testing.assert_allclose(norm_of(weight), np.where(measured_NT.any(0), base_T, 0.0), rtol=1e-12)
    np.testing.assert_allclose(row_weights(weight, 4), 1 / photographs_N)
    np.testing.assert_allclose(norm_of(weight[::-1]), norm_of(weight))


def test_weights_in_a_projection_of_masses_that_no_row_has_together() -> None:
    alone = np.array([[0, 0, 0, 0, 1], [1, 0, 0, 0, 0]], dtype=bool)
    weight = np.where(alone, weight_T / np.array([[1], [2]]), 0.0)
    np.testing.assert_array_equal(norm_of(weight), weight.max(axis=0))


@pytest.mark.slow
@given(pred_NT=masses_65, measured=PATTERNS, parts=components_63)
@settings(max_examples=150, deadline=None)
def test_projection_onto_what_was_measured(pred_NT: np.ndarray, measured: list[bool], parts: np.ndarray) -> None:
    measured_T = np.array(measured)
    norm_T = np.where(measured_T, weight_T, 0.0)
    projected = project_coherent(pred_NT, norm_T)
    assert np.isnan(projected[:, ~measured_T]).all()
    root = np.sqrt(weight_T[measured_T])
    known = FROM_COMPONENTS[measured_T]
    oracle = np.array([known @ nnls(root[:, None] * known, root * row[measured_T])[0] for row in pred_NT])
    np.testing.assert_allclose(projected[:, measured_T], oracle, atol=1e-5)
    truth_NT = np.where(measured_T, from_components(parts[:, 0], parts[:, 1], parts[:, 2]), np.nan)
    assert squared_error(truth_NT, projected).sum() <= squared_error(truth_NT, pred_NT).sum() + 1e-6
    for cell in (np.nan, 0.0, 1e9):
        other = project_coherent(np.where(measured_T, pred_NT, cell), norm_T)
        assert other.tobytes() == projected.tobytes()
