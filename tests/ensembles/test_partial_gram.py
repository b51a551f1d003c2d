"""The Gram where not every mass was measured: what the metric says of the cells that count, and of no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from small_libraries import PARTIAL, member_predictions, partial_weights, small_library, truth_frame

from biomass_models.targets import TARGETS, TOTAL, weight_T, weighted_square, weighted_sst, weights_in
from ensembles.gram import error_gram, target_gram
from ensembles.members.checks import Comparison, per_target_mean


def arrays(kind: str, members: int = 12, images: int = 60, seed: int = 0):
    """pred_MNT, truth_NT that is NaN where nothing was measured, weight, fold_N, group_N."""
    truth = truth_frame(images, seed=seed)
    weight = partial_weights(kind, images, seed)
    truth_NT = np.where(weight > 0, truth[list(TARGETS)].to_numpy(), np.nan)
    group_N = truth["group"].to_numpy().astype(np.str_)
    return member_predictions(truth, members, seed=seed), truth_NT, weight, truth["fold"].to_numpy(), group_N


@pytest.mark.parametrize("kind", PARTIAL)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), members=st.integers(1, 30), images=st.integers(20, 60))
def test_the_loss_of_a_blend_is_that_of_its_rows(kind, seed, members, images):
    pred_MNT, truth_NT, weight, fold_N, group_N = arrays(kind, members, images, seed)
    gram = error_gram(pred_MNT, truth_NT, fold_N, group_N, weight=weight)
    weight_M = np.random.default_rng(seed).dirichlet(np.ones(members))
    counts = weight > 0
    residual = (truth_NT - np.tensordot(weight_M, pred_MNT, axes=1))[counts]
    masses, own = truth_NT[counts], weight[counts]
    mean = (own * masses).sum() / own.sum()
    expected = (own * residual**2).sum() / (own * (masses - mean) ** 2).sum()
    assert weight_M @ gram.gram_MM @ weight_M == pytest.approx(expected, abs=1e-11)
    assert gram.loss_of(weight_M) == pytest.approx(expected, abs=1e-11)
    assert gram.sst == pytest.approx(weighted_sst(truth_NT, weight))
    assert all(factor.shape[1] <= members for factor in gram.factors)


@pytest.mark.parametrize("kind", PARTIAL)
@pytest.mark.parametrize("held", [[0], [0, 3, 4, 5, 6, 7, 8]])
def test_cells_and_members_are_cut_as_rows_are(kind, held):
    pred_MNT, truth_NT, weight, fold_N, group_N = arrays(kind)
    gram = error_gram(pred_MNT, truth_NT, fold_N, group_N, weight=weight)
    keep_C, index = ~np.isin(np.arange(gram.cells), held), [7, 2, 5]
    rows = np.isin(group_N, gram.group_C[keep_C])
    fresh = error_gram(
        pred_MNT[np.ix_(index, rows)], truth_NT[rows], fold_N[rows], group_N[rows], weight=weights_in(weight, rows)
    )
    part = gram.select(keep_C).keep(index)
    np.testing.assert_allclose(part.gram_MM, fresh.gram_MM, atol=1e-12)
    assert part.per_target_mean_loss == pytest.approx(fresh.per_target_mean_loss)


@pytest.mark.parametrize("kind", PARTIAL)
def test_the_per_target_mean_by_brute_force(kind):
    pred_MNT, truth_NT, weight, fold_N, group_N = arrays(kind)
    loss = 0.0
    for target in range(5):
        for fold in np.unique(fold_N):
            others = (fold_N != fold) & (weight[:, target] > 0)
            held = (fold_N == fold) & (weight[:, target] > 0)
            if held.any():
                mean = np.average(truth_NT[others, target], weights=weight[others, target])
                loss += (weight[held, target] * (truth_NT[held, target] - mean) ** 2).sum()
    gram = error_gram(pred_MNT, truth_NT, fold_N, group_N, weight=weight)
    assert gram.per_target_mean_loss == pytest.approx(loss / weighted_sst(truth_NT, weight))
    pred_NT = per_target_mean(truth_NT, fold_N, weight)
    assert weighted_square(truth_NT - pred_NT, weight).sum() == pytest.approx(loss)
    comparison = Comparison.of(truth_NT, fold_N, np.arange(len(truth_NT)).astype(np.str_), weight)
    assert comparison.mean_score == pytest.approx(1 - gram.per_target_mean_loss)


def test_a_target_that_one_fold_alone_has_is_expected_at_its_own_mean():
    pred_MNT, truth_NT, _, fold_N, group_N = arrays("total and clover")
    truth_NT[fold_N != 1, 2] = np.nan
    pred_NT = per_target_mean(truth_NT, fold_N, np.where(np.isnan(truth_NT), 0.0, weight_T))
    assert pred_NT[fold_N == 1, 2] == pytest.approx(truth_NT[fold_N == 1, 2].mean())
    gram = error_gram(pred_MNT, truth_NT, fold_N, group_N)
    expected = weighted_square(truth_NT - pred_NT, np.where(np.isnan(truth_NT), 0.0, weight_T)).sum()
    assert gram.per_target_mean_loss == pytest.approx(expected / gram.sst)


def test_published_weights_of_cells_give_the_published_numbers():
    library = small_library(20)
    weight = np.tile(weight_T, (60, 1))
    found = error_gram(library.pred_MNT, library.truth_NT, library.fold_N, library.group_N, weight=weight)
    for name in ("gram_MM", "loss_M", "sst", "per_target_mean_loss", "moment_C3"):
        np.testing.assert_allclose(getattr(found, name), getattr(library.gram, name), rtol=1e-12)
    one_N = np.ones(60)
    for target, gram in enumerate(library.target_grams):
        pred_MN, truth_N = library.pred_MNT[:, :, target], library.truth_NT[:, target]
        own = target_gram(pred_MN, truth_N, library.fold_N, library.group_N, weight_N=one_N)
        np.testing.assert_allclose(own.gram_MM, gram.gram_MM, rtol=1e-12)


@pytest.mark.parametrize("kind", PARTIAL)
@pytest.mark.parametrize("fill", [0.0, 1e9, np.inf])
def test_what_stands_in_a_cell_that_was_not_measured_changes_no_byte(kind, fill):
    pred_MNT, truth_NT, weight, fold_N, group_N = arrays(kind)

    def content(truth_NT, pred_MNT):
        gram = error_gram(pred_MNT, truth_NT, fold_N, group_N, weight=weight)
        numbers = np.array([gram.sst, gram.per_target_mean_loss])
        parts = (*gram.factors, gram.moment_C3, gram.sum_CT, gram.count_CT, gram.gram_MM, numbers)
        return [part.tobytes() for part in parts]

    expected = content(truth_NT, np.where(weight > 0, pred_MNT, np.nan))
    assert content(np.where(weight > 0, truth_NT, fill), np.where(weight > 0, pred_MNT, fill)) == expected


@pytest.mark.parametrize("members", [3, 40])
def test_one_targets_gram_is_r2_of_the_rows_that_have_it(members):
    pred_MNT, truth_NT, weight, fold_N, group_N = arrays("some clover, own weights", members)
    known_N = weight[:, 2] > 0
    gram = target_gram(pred_MNT[:, :, 2], truth_NT[:, 2], fold_N, group_N, weight_N=weight[:, 2])
    expected = r2_score(truth_NT[known_N, 2], pred_MNT[1, known_N, 2], sample_weight=weight[known_N, 2])
    assert 1 - gram.loss_M[1] == pytest.approx(expected)
    assert gram.sst > 0
    never = target_gram(pred_MNT[:, :, 0], truth_NT[:, 0], fold_N, group_N)
    assert never.sst == 0
    once_N = np.where(np.arange(60) == 17, 0.1, 0.0)
    assert target_gram(pred_MNT[:, :, 4], truth_NT[:, TOTAL], fold_N, group_N, weight_N=once_N).sst == 0


def test_values_that_count_and_are_not_finite_are_refused():
    pred_MNT, truth_NT, weight, fold_N, group_N = arrays("total and clover")
    with pytest.raises(ValueError, match="spread"):
        error_gram(pred_MNT, np.where(weight > 0, 3.0, np.nan), fold_N, group_N)
    pred_MNT[3, 5, TOTAL] = np.nan
    with pytest.raises(ValueError, match="finite"):
        error_gram(pred_MNT, truth_NT, fold_N, group_N, weight=weight)
