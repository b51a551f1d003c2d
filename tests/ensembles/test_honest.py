"""Honest scores are what an explicit refit by rows gives, and what the truth says on average."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from small_libraries import small_library

from biomass_models.targets import FROM_COMPONENTS, weight_T, weighted_r2_score, weighted_sst
from ensembles.blend import fit_blend
from ensembles.choice import DEFAULT, SINGLE_BEST, TOP_MEAN
from ensembles.gram import ErrorGram, error_gram
from ensembles.honest import (
    bias_corrected_bootstrap,
    nested,
    nested_all,
    nests_of,
    paired_bootstrap,
    paired_difference,
    score_estimate,
)
from ensembles.members.duplicates import duplicates_of
from ensembles.rules import Greedy, Pruned, TopMean


@dataclass(frozen=True)
class Everyone:
    """Equal weights: a rule that learns nothing, whose nested score must be its in-sample score."""

    name: str = "everyone"

    def __call__(self, problem: ErrorGram, seed: int) -> np.ndarray:
        return np.full(problem.members, 1 / problem.members)


@pytest.mark.parametrize("by", ["fold", "group"])
@pytest.mark.parametrize("rule", [Greedy(20), SINGLE_BEST, DEFAULT], ids=lambda rule: rule.name)
def test_nested_is_an_explicit_refit_by_rows(rule, by):
    library = small_library(15, seed=4)
    key_N = library.fold_N if by == "fold" else library.group_N
    pred_NT = np.empty_like(library.truth_NT)
    for key in np.unique(key_N):
        train, held = key_N != key, key_N == key
        fresh = error_gram(
            library.pred_MNT[:, train], library.truth_NT[train], library.fold_N[train], library.group_N[train]
        )
        pred_NT[held] = np.tensordot(rule(fresh, 0), library.pred_MNT[:, held], axes=1)
    found = nested(library.gram, rule, by)
    assert found.score == pytest.approx(weighted_r2_score(library.truth_NT, pred_NT), abs=1e-12)
    np.testing.assert_allclose(found.loss_C, library.loss_by_cell(pred_NT), atol=1e-8)
    np.testing.assert_allclose(found.weight_KM.sum(1), 1)


def test_a_rule_that_learns_nothing_loses_nothing():
    library = small_library()
    expected = weighted_r2_score(library.truth_NT, library.pred_MNT.mean(0))
    for by in ("fold", "group"):
        assert nested(library.gram, Everyone(), by).score == pytest.approx(expected, abs=1e-12)


def test_rules_scored_together_score_as_alone():
    gram = small_library(15).gram
    together = nested_all(gram, [Greedy(), TOP_MEAN], "group")
    for rule, found in zip([Greedy(), TOP_MEAN], together, strict=True):
        np.testing.assert_array_equal(found.loss_C, nested(small_library(15).gram, rule, "group").loss_C)


def test_prefilter_shows_a_rule_the_best_of_its_own_training_cells():
    gram = small_library(30).gram
    filtered, pruned = nested(gram, Greedy(), prefilter=7), nested(gram, Pruned(Greedy(), 7))
    np.testing.assert_allclose(filtered.weight_KM, pruned.weight_KM)
    assert ((filtered.weight_KM > 0).sum(1) <= 7).all()


def test_ten_thousand_members_are_blended_in_bounded_memory():
    """No rule ever sees more than the prefilter's thousand, and no 10 000 x 10 000 matrix (800 MB) is made."""
    library = small_library(10_000, images=40, groups=8, folds=4)
    shown = []

    @dataclass(frozen=True)
    class Spy:
        name: str = "spy"

        def __call__(self, problem: ErrorGram, seed: int) -> np.ndarray:
            shown.append(problem.members)
            return Greedy()(problem, seed)

    tracemalloc.start()
    assert len(duplicates_of(library.gram)) < 10
    found = nested(library.gram, Spy())
    card = fit_blend(library, Spy(), bootstrap_draws=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(shown) == 1000 and peak < 200e6
    assert card.nested_score == pytest.approx(found.score) and card.library_size == 10_000


def test_many_groups_share_nests_and_one_nest_is_refused():
    gram = small_library(4, images=90, groups=30).gram
    nest_C, labels = nests_of(gram, "group", at_most=7)
    assert len(labels) == 7 and set(nest_C) == set(range(7))
    with pytest.raises(ValueError, match="at least 2 folds"):
        nested(gram.select(gram.fold_C == 2), TOP_MEAN, "fold")


def test_noise_members_buy_nothing():
    """500 members of noise beside 5 models: what the default gains from them, nested, is 0 within its error."""
    rng = np.random.default_rng(0)
    gains, errors = [], []
    for seed in range(6):
        library = small_library(5, images=200, groups=20, seed=seed)
        mean_T = library.truth_NT.mean(0)[:3]
        noise_MN3 = np.maximum(mean_T + rng.normal(0, 5, (500, 200, 3)), 0)
        everyone = np.concatenate([library.pred_MNT, noise_MN3 @ FROM_COMPONENTS.T])
        gram = error_gram(everyone, library.truth_NT, library.fold_N, library.group_N)
        with_noise, without = nested(gram, DEFAULT), nested(gram.keep(range(5)), DEFAULT)
        gain = paired_difference(gram, with_noise.loss_C, without.loss_C)
        gains.append(gain.value)
        errors.append(gain.se)
    assert abs(np.mean(gains)) <= np.mean(errors) + 1e-9


def test_paired_difference_by_hand():
    library = small_library(6)
    gram = library.gram
    left, right = (library.loss_by_cell(library.pred_MNT[member]) for member in (0, 3))
    found = paired_difference(gram, left, right)
    scores = [weighted_r2_score(library.truth_NT, library.pred_MNT[member]) for member in (0, 3)]
    assert found.value == pytest.approx(scores[0] - scores[1], abs=1e-12)
    assert found.low < found.value < found.high
    flipped = paired_difference(gram, right, left)
    assert flipped.value == pytest.approx(-found.value) and flipped.se == pytest.approx(found.se)
    same = paired_difference(gram, left, left)
    assert same.value == 0 and same.se == 0
    by_rows = paired_bootstrap(library.truth_NT, library.pred_MNT[0], library.pred_MNT[3], library.group_N)
    assert (by_rows.value, by_rows.se, by_rows.low) == pytest.approx((found.value, found.se, found.low))


def test_standard_error_is_that_of_rows_drawn_by_group():
    library = small_library(3, images=200, groups=25)
    found = score_estimate(library.gram, library.loss_by_cell(library.pred_MNT[0]))
    rng, groups = np.random.default_rng(5), np.unique(library.group_N)
    rows_of = {group: np.flatnonzero(library.group_N == group) for group in groups}
    scores = []
    for _ in range(600):
        rows = np.concatenate([rows_of[group] for group in rng.choice(groups, len(groups))])
        scores.append(weighted_r2_score(library.truth_NT[rows], library.pred_MNT[0][rows]))
    assert found.se == pytest.approx(np.std(scores) * np.sqrt(25 / 24), rel=0.12)
    assert found.low == pytest.approx(np.quantile(scores, 0.025), abs=0.35 * found.se)


def test_bootstrap_of_a_fixed_blend_is_its_score_and_of_a_choice_is_less_than_in_sample():
    library = small_library(25, images=200, groups=25)
    everyone = 1 - library.gram.loss_of(np.full(25, 1 / 25))
    fixed = bias_corrected_bootstrap(library.gram, Everyone(), draws=300)
    assert fixed.value == pytest.approx(everyone, abs=0.02)
    greedy = bias_corrected_bootstrap(library.gram, Greedy(), draws=100)
    assert greedy.value < 1 - library.gram.loss_of(Greedy()(library.gram, 0))
    again = bias_corrected_bootstrap(library.gram, Greedy(), draws=100)
    assert again == greedy


def test_bootstrap_draws_by_rows():
    library = small_library(6)
    rng, groups = np.random.default_rng([3, 10]), np.unique(library.group_N)
    mean = (weight_T * library.truth_NT).sum(-1).mean()
    loss = spread = 0.0
    for _ in range(2):
        drawn = np.bincount(rng.integers(0, 10, 10), minlength=10)
        pairs = zip(groups, drawn, strict=True)
        inside = np.concatenate([np.tile(np.flatnonzero(library.group_N == group), n) for group, n in pairs])
        out = np.flatnonzero(np.isin(library.group_N, groups[drawn == 0]))
        scores = [weighted_r2_score(library.truth_NT[inside], pred_NT[inside]) for pred_NT in library.pred_MNT]
        best_NT = library.pred_MNT[int(np.argmax(scores))]
        loss += (weight_T * (library.truth_NT[out] - best_NT[out]) ** 2).sum()
        spread += (weight_T * (library.truth_NT[out] - mean) ** 2).sum()
    found = bias_corrected_bootstrap(library.gram, TopMean(1), draws=2, seed=3)
    assert found.value == pytest.approx(1 - loss / spread, abs=1e-12)


def test_sst_of_cells_adds_up():
    library = small_library()
    assert library.gram.sst == pytest.approx(weighted_sst(library.truth_NT))
