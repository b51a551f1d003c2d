"""The pruning rule: both conditions, the score expected over all folds, what is never pruned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from biomass_models.targets import FROM_COMPONENTS, FloatArray, squared_error, weighted_r2_score
from ensembles.gram import error_gram
from ensembles.optimum import simplex_optimum
from orchestration.search.pruning import (
    NEVER_FIRST,
    RULES,
    Compared,
    PruneRule,
    convex_gain,
    decide,
    exemption,
    expected_difference,
    paired_p,
)
from orchestration.study.records import Decision

DEFAULT = RULES["default"]
assert DEFAULT is not None


def masses(seed: int, n: int = 60) -> FloatArray:
    return np.random.default_rng(seed).gamma(2.0, 10.0, (n, 3)) @ FROM_COMPONENTS.T


def noisy(truth_nT: FloatArray, seed: int, grams: float) -> FloatArray:
    component_n3 = truth_nT[:, :3] + np.random.default_rng(seed).normal(0, grams, (len(truth_nT), 3))
    return np.maximum(component_n3, 0) @ FROM_COMPONENTS.T


def decision_on(
    trial: FloatArray,
    best: FloatArray,
    truth: FloatArray,
    rule: PruneRule = DEFAULT,
    groups: int = 6,
    folds_done: int = 1,
) -> Decision:
    rows = np.arange(len(truth))
    return decide(
        rule,
        trial,
        compared_with(best, truth),
        truth,
        rows % groups,
        rows,
        after_fold=2,
        folds_done=folds_done,
        folds=5,
    )


def compared_with(best: FloatArray, truth: FloatArray, exempt: tuple[FloatArray, ...] = ()) -> Compared:
    """A single one, which is the ensemble as well."""
    losses = np.array([squared_error(truth, pred) for pred in exempt]).reshape(-1, len(truth))
    return Compared(
        names=("7c1e0000",),
        loss_N=squared_error(truth, best),
        score=weighted_r2_score(truth, best),
        ensemble_NT=best,
        exempt_MN=losses,
    )


def test_a_clearly_worse_copy_of_the_best_is_pruned_and_says_its_numbers() -> None:
    truth = masses(0)
    best = noisy(truth, 1, 3.0)
    worse = (best[:, :3] + 2 * (best - truth)[:, :3].clip(0)) @ FROM_COMPONENTS.T  # the same errors, only larger
    decision = decision_on(worse, best, truth, groups=12)
    assert decision.prune and decision.p < DEFAULT.p_below(5) == 0.00125 and decision.gain < 0.002
    assert str(decision).startswith("pruned after 1 of 5 folds: p = ") and "against 7c1e, blend gain 0.0" in str(
        decision
    )


def test_a_worse_trial_with_errors_of_its_own_is_kept_for_the_blend() -> None:
    truth = masses(0)
    decision = decision_on(noisy(truth, 2, 6.0), noisy(truth, 1, 3.0), truth)
    assert decision.p < 0.01 and decision.gain > 0.002 and not decision.prune


def test_a_trial_as_good_as_the_best_is_kept_even_if_it_adds_nothing() -> None:
    truth = masses(0)
    best = noisy(truth, 1, 3.0)
    decision = decision_on(best, best, truth)
    assert decision.p == 1.0 and decision.gain == 0.0 and not decision.prune
    assert decision.estimate == pytest.approx(weighted_r2_score(truth, best), abs=1e-12)


def test_groups_are_the_unit_of_the_test() -> None:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(6), [3, 10, 4, 7, 5, 9])
    difference = rng.normal(0.5, 1.0, len(group)) + rng.normal(0, 1, 6)[group]
    means = [difference[group == g].mean() for g in range(6)]
    p, groups = paired_p(difference, group)
    assert groups == 6 and p == pytest.approx(ttest_1samp(means, 0.0, alternative="greater").pvalue, rel=1e-9)
    assert paired_p(difference[:3], group[:3]) == (1.0, 1)
    assert paired_p([1.0, 1.0], ["a", "b"]) == (0.0, 2) and paired_p([0.0, 0.0], ["a", "b"]) == (1.0, 2)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_p_is_the_survival_function_of_students_t_to_the_last_bit(mean_G: list[float]) -> None:
    p, groups = paired_p(mean_G, np.arange(len(mean_G)))
    error = float(np.std(mean_G, ddof=1)) / groups**0.5
    if error > 0:
        assert p == student.sf(float(np.mean(mean_G)) / error, groups - 1)


def test_six_dates_alike_prune_at_the_stated_rate() -> None:
    """Where a trial is exactly as good as the best, p lies below the limit in that share of the draws."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 12)
    below = [paired_p(rng.normal(0, 1, 72) + rng.normal(0, 1, 6)[group], group)[0] < 0.01 for _ in range(4000)]
    assert 0.005 < np.mean(below) < 0.016


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 20.0))
def test_the_gain_is_that_of_the_exact_optimum_of_two(seed: int, grams: float) -> None:
    truth = masses(seed, 20)
    one, two = noisy(truth, seed + 1, 4.0), noisy(truth, seed + 2, grams)
    gram = error_gram(np.stack([one, two]), truth, np.arange(20) % 2, np.arange(20) % 5)
    best = simplex_optimum(gram.gram_MM).loss
    assert convex_gain(truth - one, truth - two) == pytest.approx(1 - best / gram.loss_M[0], abs=1e-9)


def test_the_gain_of_perfect_or_equal_ensembles_is_nothing() -> None:
    residual = masses(0) - masses(1)
    assert convex_gain(residual, residual) == 0.0 and convex_gain(np.zeros_like(residual), residual) == 0.0


def test_the_estimate_is_the_score_once_every_fold_is_there() -> None:
    truth = masses(5)
    best, trial = noisy(truth, 1, 3.0), noisy(truth, 2, 5.0)
    assert decision_on(trial, best, truth, folds_done=5).estimate == pytest.approx(
        weighted_r2_score(truth, trial), abs=1e-12
    )


def test_with_few_trials_to_learn_from_the_slopes_are_those_of_the_specification() -> None:
    """After one of five folds a quarter of the difference is expected to stay; between them the line is straight."""
    nothing = np.empty((0, 10))
    for share, slope in ((0.2, 0.25), (0.4, 0.46), (0.6, 0.65), (0.8, 0.83), (1 / 3, 0.25 + 0.21 * 2 / 3)):
        assert expected_difference(8.0, nothing, np.arange(2), share) == pytest.approx(8.0 * slope, rel=1e-12)


def test_a_few_exempt_trials_give_the_level_and_many_the_slope() -> None:
    """By hand: three trials that differ by 1, 2, 6 on the first fold's rows and by 2, 3, 4 over all rows."""
    exempt_MN = np.array([[1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 4.0, 4.0], [6.0, 6.0, 2.0, 2.0]])
    few = expected_difference(5.0, exempt_MN, np.array([0, 1]), 0.4)
    assert few == pytest.approx(3.0 + 0.46 * (5.0 - 3.0))
    many = np.repeat(exempt_MN, 4, axis=0)  # twelve: slope = sum((-2, -1, 3) * (2, 3, 4)) / 14 = 5 / 14
    assert expected_difference(5.0, many, np.array([0, 1]), 0.4) == pytest.approx(3.0 + 5 / 14 * 2.0)
    alike = np.ones((12, 4))  # nothing to learn a slope from
    assert expected_difference(5.0, alike, np.array([0, 1]), 0.4) == pytest.approx(1.0 + 0.46 * 4.0)


def test_the_estimate_undoes_the_luck_of_a_fold() -> None:
    """On easy rows a bad trial scores high; compared with the others on the same rows it does not."""
    truth = masses(6, 200)
    hard = np.arange(200) < 100
    best, trial = noisy(truth, 1, 3.0), noisy(truth, 2, 6.0)
    best[hard] = noisy(truth[hard], 3, 12.0)
    trial[hard] = (best[hard][:, :3] + (trial - truth)[hard][:, :3]).clip(0) @ FROM_COMPONENTS.T
    easy = np.flatnonzero(~hard)
    rows = np.arange(200) % 6
    decision = decide(
        DEFAULT, trial[easy], compared_with(best, truth), truth, rows, easy, after_fold=0, folds_done=1, folds=2
    )
    true, naive = weighted_r2_score(truth, trial), weighted_r2_score(truth[easy], trial[easy])
    assert abs(decision.estimate - true) < 0.5 * abs(naive - true)


def test_the_mean_of_losses_is_compared_with_and_not_the_loss_of_a_mean() -> None:
    """Two compared trials whose errors cancel in their mean: a trial as good as each of them has a difference of 0."""
    truth = np.round(masses(7))  # whole grams, whose sums are exact
    error = np.round(np.random.default_rng(8).normal(0, 3.0, (len(truth), 3))) @ FROM_COMPONENTS.T
    one, other = truth + error, truth - error
    both = Compared(
        names=("a", "b"),
        loss_N=(squared_error(truth, one) + squared_error(truth, other)) / 2,
        score=(weighted_r2_score(truth, one) + weighted_r2_score(truth, other)) / 2,
        ensemble_NT=truth,
        exempt_MN=np.empty((0, len(truth))),
    )
    rows = np.arange(len(truth))
    decision = decide(DEFAULT, other, both, truth, rows % 6, rows, after_fold=0, folds_done=1, folds=5)
    assert decision.p == 1.0 and not decision.prune
    assert str(decision).startswith("kept after 1 of 5 folds") and "against a, b" in str(decision)


def test_rows_must_match() -> None:
    truth = masses(0)
    with pytest.raises(ValueError, match="same rows"):
        decision_on(truth[:5], truth, truth)


def test_what_is_never_pruned() -> None:
    assert exemption(NEVER_FIRST - 1, "net", {"net"}, "a") == f"one of the first {NEVER_FIRST}"
    assert exemption(NEVER_FIRST, "other", {"net"}, "a") == "first of its backbone"
    lots = [exemption(99, "net", {"net"}, f"trial-{k}") for k in range(2000)]
    assert set(lots) == {None, "exempt by lot"}
    assert 0.03 < sum(lot is not None for lot in lots) / 2000 < 0.07
    assert lots == [exemption(99, "net", {"net"}, f"trial-{k}") for k in range(2000)]


def test_strict_prunes_whatever_default_prunes() -> None:
    strict = RULES["strict"]
    assert strict is not None and strict.alpha > DEFAULT.alpha and strict.gain_below > DEFAULT.gain_below
    assert RULES["off"] is None
