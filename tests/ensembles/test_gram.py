"""The Gram says what the metric says: on all rows, on any cells, for any weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from small_libraries import member_predictions, small_library, truth_frame

from biomass_models.targets import TARGETS, weight_T, weighted_r2_score, weighted_sst
from ensembles.gram import cells_of, error_gram, target_gram


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), members=st.integers(1, 30), images=st.integers(12, 80))
def test_quadratic_form_is_sklearns_r2_of_the_blend(seed, members, images):
    library = small_library(members, images, groups=6, folds=3, seed=seed)
    weight_M = np.random.default_rng(seed).dirichlet(np.ones(len(library.names)))
    blend_NT = np.tensordot(weight_M, library.pred_MNT, axes=1)
    tiled = np.tile(weight_T, len(blend_NT))
    expected = r2_score(library.truth_NT.ravel(), blend_NT.ravel(), sample_weight=tiled)
    assert 1 - weight_M @ library.gram.gram_MM @ weight_M == pytest.approx(expected, abs=1e-12)
    assert 1 - library.gram.loss_of(weight_M) == pytest.approx(expected, abs=1e-12)


def test_a_truth_off_the_identities_is_counted_exactly():
    truth = truth_frame()
    pred_MNT = member_predictions(truth)
    truth_NT = truth[list(TARGETS)].to_numpy() + np.random.default_rng(0).normal(0, 1.0, (len(truth), 5))
    gram = error_gram(pred_MNT, truth_NT, truth["fold"], truth["group"])
    scores = [weighted_r2_score(truth_NT, pred_NT) for pred_NT in pred_MNT]
    np.testing.assert_allclose(1 - gram.gram_MM.diagonal(), scores, atol=1e-12)
    np.testing.assert_allclose(1 - gram.loss_M, scores, atol=1e-12)


@pytest.mark.parametrize("members", [3, 40])  # 3: factors are shortened; 40: they are not
def test_cells_hold_their_own_rows(members):
    library = small_library(members)
    gram, weight_M = library.gram, np.random.default_rng(1).dirichlet(np.ones(members))
    assert max(factor.shape[1] for factor in gram.factors) <= max(members, 3 * 6 + 1)
    rows_of_cell, fold_C, group_C = cells_of(library.fold_N, library.group_N)
    assert sorted(np.concatenate(rows_of_cell)) == list(range(len(library.truth_NT)))
    blend_NT = np.tensordot(weight_M, library.pred_MNT, axes=1)
    for cell, rows in enumerate(rows_of_cell):
        assert set(library.fold_N[rows]) == {fold_C[cell]} and set(library.group_N[rows]) == {group_C[cell]}
        square = (weight_T * (library.truth_NT[rows] - blend_NT[rows]) ** 2).sum()
        assert gram.loss_by_cell(weight_M)[cell] == pytest.approx(square)
    np.testing.assert_allclose(gram.loss_by_cell(weight_M), library.loss_by_cell(blend_NT))


@pytest.mark.parametrize("held", [[0], [0, 3, 4, 5, 6, 7, 8]])  # few cut off: by subtraction; many: from the factors
@pytest.mark.parametrize("warm", [False, True])
def test_selected_cells_equal_a_gram_of_their_rows(held, warm):
    library = small_library()
    if warm:
        library.gram.gram_MM  # noqa: B018  the cached Gram is then what the part is cut from
    keep_C = ~np.isin(np.arange(library.gram.cells), held)
    rows = np.concatenate([rows for rows, kept in zip(library.rows_of_cell, keep_C, strict=True) if kept])
    fresh = error_gram(library.pred_MNT[:, rows], library.truth_NT[rows], library.fold_N[rows], library.group_N[rows])
    part = library.gram.select(keep_C)
    np.testing.assert_allclose(part.gram_MM, fresh.gram_MM, atol=1e-12)
    np.testing.assert_allclose(part.loss_M, fresh.loss_M, atol=1e-12)
    assert part.sst == pytest.approx(weighted_sst(library.truth_NT[rows]))


@pytest.mark.parametrize("index", [[7, 2, 5], [7, 2, 5, 0, 1, 11, 10, 3]], ids=["few", "most"])
@pytest.mark.parametrize("cached", [False, True])
def test_kept_members_and_cells_equal_rows_taken_again(index, cached):
    library = small_library()
    keep_C = np.arange(10) % 4 > 0
    rows = np.concatenate([rows for rows, kept in zip(library.rows_of_cell, keep_C, strict=True) if kept])
    pred = library.pred_MNT[np.ix_(index, rows)]
    fresh = error_gram(pred, library.truth_NT[rows], library.fold_N[rows], library.group_N[rows])
    if cached:
        library.gram.gram_MM  # noqa: B018  the shortcut through a cached Gram must give the same
    for found in (library.gram.select(keep_C).keep(index), library.gram.keep(index).select(keep_C)):
        np.testing.assert_allclose(found.gram_MM, fresh.gram_MM, atol=1e-12)
        assert found.per_target_mean_loss == pytest.approx(fresh.per_target_mean_loss)


def test_target_gram_is_plain_r2_of_that_target():
    library = small_library()
    gram = target_gram(library.pred_MNT[:, :, 4], library.truth_NT[:, 4], library.fold_N, library.group_N)
    assert 1 - gram.loss_M[3] == pytest.approx(r2_score(library.truth_NT[:, 4], library.pred_MNT[3, :, 4]))


def test_predictions_off_the_identities_and_flat_truths_are_refused():
    truth = truth_frame()
    pred_MNT, truth_NT = member_predictions(truth), truth[list(TARGETS)].to_numpy()
    with pytest.raises(ValueError, match="project_coherent"):
        error_gram(pred_MNT + np.array([0, 0, 0, 0, 1.0]), truth_NT, truth["fold"], truth["group"])
    with pytest.raises(ValueError, match="spread"):
        flat_NT = np.zeros_like(truth_NT)
        error_gram(pred_MNT, flat_NT, truth["fold"], truth["group"])
    with pytest.raises(ValueError, match="at least one"):
        small_library().gram.select(np.zeros(10, dtype=bool))
