"""Errors are what a jackknife by rows gives, and the intervals follow from them by the formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t
from small_libraries import small_library

from biomass_models.targets import FROM_COMPONENTS, squared_error, weighted_r2_score
from ensembles.choice import SINGLE_BEST, TOP_MEAN
from ensembles.gram import error_gram
from ensembles.honest import interval_for_new, paired_difference, score_estimate, units_of
from ensembles.nests import nested_all


def left_out_scores(library, pred_NT, key_N):
    kept = [key_N != key for key in np.unique(key_N)]
    return np.array([weighted_r2_score(library.truth_NT[rows], pred_NT[rows]) for rows in kept])


def jackknife(value_G):
    return np.sqrt((len(value_G) - 1) * value_G.var())


def test_the_error_of_a_score_is_a_jackknife_by_rows_over_groups():
    library = small_library(3, images=200, groups=25)
    pred_NT = library.pred_MNT[0]
    found = score_estimate(library.gram, library.loss_by_cell(pred_NT))
    assert found.value == pytest.approx(weighted_r2_score(library.truth_NT, pred_NT), abs=1e-12)
    assert found.se == pytest.approx(jackknife(left_out_scores(library, pred_NT, library.group_N)))
    loss = 1 - found.value
    for new, factor in ((None, 1.0), (25, np.sqrt(2)), (12, np.sqrt(1 + 25 / 12))):
        reach = t.ppf(0.975, 24) * found.se / loss * factor
        interval = (found.low, found.high) if new is None else interval_for_new(found, 25, new)
        assert interval == pytest.approx((1 - loss * np.exp(reach), 1 - loss * np.exp(-reach)))


def test_units_are_coarser_than_groups_where_they_are_named():
    library = small_library(3, images=200, groups=24)
    gram = error_gram(library.pred_MNT, library.truth_NT, library.fold_N, library.group_N, library.state_N)
    found = score_estimate(gram, library.loss_by_cell(library.pred_MNT[0]))
    assert units_of(gram) == 2
    assert found.se == pytest.approx(jackknife(left_out_scores(library, library.pred_MNT[0], library.state_N)))
    with pytest.raises(ValueError, match="a unit must hold whole groups"):
        error_gram(library.pred_MNT, library.truth_NT, library.fold_N, library.group_N, np.arange(200).astype(str))


def test_the_error_of_a_difference_is_that_of_its_jackknife_and_of_its_partitions():
    library = small_library(10)
    gram = library.gram
    left, right = nested_all(gram, [TOP_MEAN, SINGLE_BEST])
    found = paired_difference(gram, left.loss_RC, right.loss_RC)
    scores = [1 - each.loss_RC.sum(1) / gram.sst for each in (left, right)]
    assert found.value == pytest.approx(np.mean(scores[0] - scores[1]), abs=1e-12)
    gain_C = (right.loss_RC - left.loss_RC).mean(0)
    value_G = np.array(
        [gain_C[keep].sum() / gram.select(keep).sst for keep in (gram.group_C != name for name in set(gram.group_C))]
    )
    between = (scores[0] - scores[1]).std(ddof=1)
    assert between > 0
    assert found.se == pytest.approx(np.hypot(jackknife(value_G), between * np.sqrt(1 + 1 / 8)))
    reach = t.ppf(0.975, 9) * found.se
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach))


def test_a_difference_of_fixed_predictions_has_no_partitions():
    library = small_library(6)
    gram = library.gram
    left, right = (library.loss_by_cell(library.pred_MNT[member]) for member in (0, 3))
    found, flipped = paired_difference(gram, left, right), paired_difference(gram, right, left)
    value_G = left_out_scores(library, library.pred_MNT[0], library.group_N) - left_out_scores(
        library, library.pred_MNT[3], library.group_N
    )
    assert found.se == pytest.approx(jackknife(value_G))
    assert flipped.value == pytest.approx(-found.value) and flipped.se == pytest.approx(found.se)
    same = paired_difference(gram, left, left)
    assert same.value == 0 and same.se == 0


def test_one_unit_leaves_no_error_and_a_perfect_score_has_none():
    library = small_library(3)
    truth_NT, everyone = library.truth_NT, np.full_like(library.group_N, "all")
    gram = error_gram(library.pred_MNT, truth_NT, library.fold_N, everyone)
    loss_C = np.array([squared_error(truth_NT, library.pred_MNT[0])[library.fold_N == fold].sum() for fold in range(5)])
    for found in (score_estimate(gram, loss_C), paired_difference(gram, loss_C, 2 * loss_C)):
        assert np.isnan([found.se, found.low, found.high]).all() and np.isfinite(found.value)
    perfect = score_estimate(library.gram, np.zeros(library.gram.cells))
    assert (perfect.value, perfect.se, perfect.low, perfect.high) == (1, 0, 1, 1)


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say():
    """Fixed predictions on 400 samples of 28 dates, from 2000 dates whose scores are the truth.

    Errors that are 30 % too small, or that leave out what new dates vary by, cover 74 to 85 %.
    """
    rng, dates, size = np.random.default_rng(0), 2000, 4
    date_N = np.repeat(np.arange(dates), size)
    mass_N3 = rng.gamma(2.0, [13.0, 6.0, 4.0], (dates * size, 3)) * rng.uniform(0.5, 1.5, (dates, 3))[date_N]
    error_MN3 = rng.normal(0, 6, (2, *mass_N3.shape)) + rng.normal(0, 4, (2, dates, 3))[:, date_N]
    truth_NT, pred_MNT = mass_N3 @ FROM_COMPONENTS.T, (mass_N3 + error_MN3) @ FROM_COMPONENTS.T
    true_M = [weighted_r2_score(truth_NT, pred_NT) for pred_NT in pred_MNT]
    covered = np.zeros((400, 4))
    for sample_4 in covered:
        drawn = rng.choice(dates, 28 + 28, replace=False)
        rows, others, few = (np.flatnonzero(np.isin(date_N, part)) for part in (drawn[:28], drawn[28:], drawn[28:40]))
        gram = error_gram(pred_MNT[:, rows], truth_NT[rows], date_N[rows] % 5, date_N[rows].astype(str))
        score = score_estimate(gram, gram.loss_CM[:, 0])
        gain = paired_difference(gram, gram.loss_CM[:, 0], gram.loss_CM[:, 1])
        sample_4[0] = score.low <= true_M[0] <= score.high
        sample_4[1] = gain.low <= true_M[0] - true_M[1] <= gain.high
        for place, (new, count) in enumerate(((others, 28), (few, 12)), start=2):
            low, high = interval_for_new(score, 28, count)
            sample_4[place] = low <= weighted_r2_score(truth_NT[new], pred_MNT[0, new]) <= high
    assert ((covered.mean(0) > 0.92) & (covered.mean(0) < 0.98)).all(), covered.mean(0)
