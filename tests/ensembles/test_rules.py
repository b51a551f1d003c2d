"""One contract for every rule, and an oracle for each kind."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_libraries import small_library

from biomass_models.targets import squared_error, weighted_r2_score
from ensembles.choice import DEFAULT, RULES, TOP_MEAN, CandidateRule, candidate_rules, rule_named
from ensembles.honest import paired_difference
from ensembles.nests import nested_all
from ensembles.optimum import duality_gap, simplex_optimum
from ensembles.rules import BaggedGreedy, Greedy, Optimum, Pruned, Shrunk, TopMean, greedy_bags

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))


@every_rule
@pytest.mark.parametrize("members", [1, 2, 30])
def test_weights_lie_on_the_simplex(rule, members):
    weight_M = rule(small_library(members).gram, 0)
    assert weight_M.shape == (members,) and (weight_M >= 0).all()
    assert weight_M.sum() == pytest.approx(1.0, abs=1e-12)


@every_rule
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_members_does_not_matter(rule, seed):
    gram = small_library(20, seed=seed).gram
    order = np.random.default_rng(seed).permutation(gram.members)
    np.testing.assert_allclose(rule(gram.keep(order), 3), rule(gram, 3)[order], atol=1e-7)


@every_rule
def test_same_seed_same_weights(rule):
    first, second = (rule(small_library(20).gram, 11) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_another_seed_draws_other_bags():
    gram = small_library(20).gram
    assert not np.array_equal(BaggedGreedy()(gram, 1), BaggedGreedy()(gram, 2))


@every_rule
def test_a_member_doubled_inside_the_gram_does_no_harm_in_sample(rule):
    gram = small_library(8).gram
    doubled = gram.keep([*range(8), 0, 3])
    worst = 1 - gram.loss_M.max()
    assert worst <= 1 - doubled.loss_of(rule(doubled, 0))
    if rule.name in ("single-best", "greedy", "optimum"):  # these optimise: a copy can neither help nor hurt
        assert doubled.loss_of(rule(doubled, 0)) == pytest.approx(gram.loss_of(rule(gram, 0)), abs=1e-12)


def greedy_by_rows(library, allowed, steps):
    """The definition: at each step every candidate blend is formed and scored on all rows."""
    picks, best_score, best = [], -np.inf, 0
    for _ in range(steps):
        scores = {
            member: weighted_r2_score(library.truth_NT, library.pred_MNT[[*picks, member]].mean(0))
            for member in allowed
        }
        picks.append(max(scores, key=scores.__getitem__))
        if scores[picks[-1]] > best_score:
            best_score, best = scores[picks[-1]], len(picks)
    return np.bincount(picks[:best], minlength=len(library.names)) / best


@pytest.mark.parametrize("seed", range(6))
def test_greedy_makes_the_row_based_selection(seed):
    library = small_library(15, seed=seed)
    expected = greedy_by_rows(library, range(15), steps=20)
    np.testing.assert_array_equal(Greedy(steps=20)(library.gram, 0), expected)


def test_bags_in_lock_step_make_each_bags_own_selection():
    library = small_library(15)
    allowed_BM = np.random.default_rng(0).random((7, 15)) < 0.4
    allowed_BM[:, 0] = True
    weight_BM = greedy_bags(library.gram.gram_MM, allowed_BM, 12)
    for allowed_M, weight_M in zip(allowed_BM, weight_BM, strict=True):
        np.testing.assert_allclose(weight_M, greedy_by_rows(library, np.flatnonzero(allowed_M), 12), atol=1e-15)
    with pytest.raises(ValueError, match="at least one member"):
        greedy_bags(library.gram.gram_MM, np.zeros((1, 15), dtype=bool), 5)


def test_simple_rules_by_hand():
    gram = small_library(6).gram
    order = np.argsort(gram.gram_MM.diagonal())
    expected = np.zeros(6)
    expected[order[:3]] = 1 / 3
    np.testing.assert_allclose(TopMean(3)(gram, 0), expected)
    assert TopMean(1)(gram, 0)[order[0]] == 1
    np.testing.assert_allclose(TopMean(99)(gram, 0), np.full(6, 1 / 6))
    pull = Shrunk(Optimum(), pull=0.25, k=3)(gram, 0)
    np.testing.assert_allclose(pull, 0.75 * Optimum()(gram, 0) + 0.25 * expected)
    assert (Pruned(Optimum(), 2)(gram, 0)[order[2:]] == 0).all()


def test_pruning_shows_neither_more_than_its_size_nor_members_far_behind():
    gram = small_library(10).gram
    loss_M = gram.loss_M
    for size, slack in ((3, 100.0), (10, 1.3), (10, 1.0)):
        shown = Pruned(TopMean(99), size, slack)(gram, 0) > 0
        expected = (loss_M <= np.sort(loss_M)[size - 1]) & (loss_M <= slack * loss_M.min())
        np.testing.assert_array_equal(shown, expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), members=st.integers(1, 40), rank=st.integers(1, 40))
def test_optimum_is_certified_and_no_random_blend_beats_it(seed, members, rank):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(members, rank)) + 3 * rng.normal(size=rank)
    gram_MM = factor @ factor.T / rank
    found = simplex_optimum(gram_MM)
    assert found.gap < 1e-10 and duality_gap(gram_MM, found.weight_M) == pytest.approx(found.gap, abs=1e-13)
    assert (found.weight_M >= 0).all() and found.weight_M.sum() == pytest.approx(1, abs=1e-12)
    random_RM = rng.dirichlet(np.full(members, 0.3), size=50)
    assert found.loss <= np.einsum("rm,mn,rn->r", random_RM, gram_MM, random_RM).min() + 1e-10


def test_optimum_of_two_by_the_formula_and_of_few_by_brute_force():
    gram_MM = np.array([[2.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(simplex_optimum(gram_MM).weight_M, [0.25, 0.75], atol=1e-12)
    gram = small_library(5).gram.gram_MM
    best = np.inf
    for size in range(1, 6):
        for face in itertools.combinations(range(5), size):
            ray = np.linalg.solve(gram[np.ix_(face, face)], np.ones(size))
            if (ray >= 0).all():
                best = min(best, 1 / ray.sum())
    assert simplex_optimum(gram).loss == pytest.approx(best, abs=1e-12)


def test_optimum_survives_copies_and_refuses_nonsense():
    gram = small_library(8).gram.keep([0, 1, 2, 3, 3, 2, 1, 0, 4, 4, 5, 6, 7, 7, 7]).gram_MM
    assert simplex_optimum(gram).gap < 1e-10
    assert simplex_optimum(np.zeros((3, 3))).loss == 0
    with pytest.raises(ValueError, match="square and finite"):
        simplex_optimum(np.array([[np.nan]]))


def test_the_rule_of_a_place_is_the_most_different_one_that_is_as_good():
    gram = small_library(12, images=200, groups=20).gram
    rules = (DEFAULT, TopMean(1), TopMean(12), TopMean(3))
    found = candidate_rules(gram, DEFAULT, rules, 4)
    own, *others = nested_all(gram, rules, partitions=2)
    losses = {
        rule: paired_difference(gram, own.loss_RC, other.loss_RC) for rule, other in zip(rules[1:], others, strict=True)
    }
    as_good = [rule for rule, loss in losses.items() if loss.value <= loss.se]
    assert found[0] == (DEFAULT, 0.0) and {rule for rule, _ in found[1:]} <= set(as_good) and len(found) > 2

    def blend_N(rule):
        library = small_library(12, images=200, groups=20)
        return np.tensordot(rule(gram, 0), library.pred_MNT, axes=1)

    apart = {rule: np.sqrt(squared_error(blend_N(rule), blend_N(DEFAULT)).mean()) for rule in as_good}
    assert found[1][0] == max(apart, key=apart.__getitem__) and found[1][1] == pytest.approx(max(apart.values()))
    second = CandidateRule(2, DEFAULT, rules)
    assert second.choose(gram, 0) == found[1][0]
    np.testing.assert_array_equal(second(gram, 0), found[1][0](gram, 0))
    assert CandidateRule(9, DEFAULT, rules).choose(gram, 0) == found[-1][0]


def test_without_anything_to_choose_by_there_is_one_candidate():
    single = small_library(12).gram.select(np.arange(10) == 4)
    assert candidate_rules(single, DEFAULT, tuple(RULES.values()), 3) == [(DEFAULT, 0.0)]


def test_the_default_is_bagged_greedy_of_the_best_25_with_half_of_the_weight_on_the_mean_of_12():
    gram = small_library(40, images=200, groups=20).gram
    best = np.argsort(gram.loss_M, kind="stable")[:25]
    best = best[gram.loss_M[best] <= 1.3 * gram.loss_M[best[0]]]
    expected_M = np.zeros(40)
    expected_M[best] = 0.5 * BaggedGreedy()(gram.keep(best), 7) + 0.5 * TopMean(12)(gram.keep(best), 7)
    np.testing.assert_allclose(DEFAULT(gram, 7), expected_M)


def test_rules_by_name():
    assert rule_named("top-7") == TopMean(7) and rule_named("top-5") is TOP_MEAN
    assert rule_named("shrunk-bagged-greedy-of-25") is DEFAULT  # its name before it was the default
    second = CandidateRule(2, TopMean(7), tuple(RULES.values()))
    assert rule_named(second.name) == second
    for name in ("gready", "top-0", "top-", "candidate-1-after-default"):
        with pytest.raises(ValueError, match="bagged-greedy"):
            rule_named(name)


@pytest.mark.parametrize(
    "build",
    [
        lambda: TopMean(0),
        lambda: Greedy(steps=0),
        lambda: BaggedGreedy(bags=0),
        lambda: BaggedGreedy(share=0.0),
        lambda: Pruned(Greedy(), 0),
        lambda: Pruned(Greedy(), slack=0.9),
        lambda: Shrunk(Greedy(), pull=1.5),
        lambda: CandidateRule(1, DEFAULT, ()),
    ],
)
def test_rules_check_themselves(build):
    with pytest.raises(ValueError, match=r"got|at least"):
        build()
