"""Two levels of regressors: each formula against scikit-learn or a case by hand, and what no label may reach."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from sklearn import linear_model
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.preprocessing import RobustScaler as TheirScaler
from sklearn.svm import SVR

from biomass_models.families.stack.config import REGRESSORS, StackConfig
from biomass_models.families.stack.levels import Choice, Stack, fit_stack, level2, out_of_fold_guesses
from biomass_models.families.stack.regressors import Kernel, Ridge, fitted, restored, ridge_path
from biomass_models.families.stack.scaling import FURTHEST, RobustScaler
from biomass_models.families.stack.trees import Forest
from biomass_models.targets import (
    GREEN,
    TARGETS,
    TOTAL,
    from_components,
    identity_gap,
    project_coherent,
    weight_T,
    weights_of,
)
from biomass_models.training.fit import FitError, inner_folds

ROWS, GROUPS = 40, 8
group_M = np.array([f"day{row % GROUPS}" for row in range(ROWS)])
inner_M = inner_folds(group_M, 4, seed=0)
FAST = StackConfig(trees=5, penalties=4)


def world(features: tuple[int, ...] = (60, 9), seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Blocks of features, wide and narrow, that follow the masses; and the masses."""
    rng = np.random.default_rng(seed)
    component = rng.gamma(2.0, 8.0, (ROWS, 3))
    blocks = [
        (component @ rng.normal(size=(3, count)) / 10 + rng.normal(size=(ROWS, count))).astype(np.float32)
        for count in features
    ]
    return blocks, from_components(*component.T)


def guesses(config: StackConfig, blocks: list[np.ndarray], mass_MT: np.ndarray) -> np.ndarray:
    weight_M = np.ones(len(mass_MT))
    choice = Choice.of(config, blocks, mass_MT, inner_M, weight_T, weight_M)
    return out_of_fold_guesses(config, blocks, mass_MT, inner_M, weight_M, choice, seed=1)


# -- scaling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 3, 30, 31])
def test_scaling_is_scikit_learns_robust_one_cut_off(rows: int) -> None:
    rng = np.random.default_rng(0)
    feature_NF = rng.standard_cauchy((rows, 12)).astype(np.float32)
    feature_NF[:, 3] = 7.0  # its range is 0 and counts as 1
    asked_MF = np.vstack([feature_NF, 1e6 * rng.normal(size=(3, 12))]).astype(np.float32)
    scaled = RobustScaler.fit(feature_NF).scale(asked_MF)
    theirs = TheirScaler().fit(feature_NF.astype(np.float64)).transform(asked_MF.astype(np.float64))
    np.testing.assert_allclose(scaled, np.clip(theirs, -FURTHEST, FURTHEST), rtol=1e-4, atol=1e-5)
    assert scaled.dtype == np.float32 and np.abs(scaled).max() == FURTHEST
    assert (scaled[:rows, 3] == 0).all()


# -- regressors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [5, 25, 200])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_ridge_by_its_kernel_is_scikit_learns_on_the_features(features: int, weighted: bool) -> None:
    rng = np.random.default_rng(features)
    feature_MF = rng.normal(size=(25, features)).astype(np.float32)
    asked_NF = rng.normal(size=(6, features)).astype(np.float32)
    goal_MG, weight_M = rng.normal(size=(25, 3)) + 2, rng.uniform(0.2, 1, 25) if weighted else np.ones(25)
    penalty_G = np.array([5.0, 0.3, 5.0])
    expected = np.column_stack(
        [
            linear_model.Ridge(alpha=penalty)
            .fit(feature_MF.astype(np.float64), goal_M, sample_weight=weight_M)
            .predict(asked_NF.astype(np.float64))
            for penalty, goal_M in zip(penalty_G, goal_MG.T, strict=True)
        ]
    )
    pred = Ridge.fit(feature_MF, goal_MG, weight_M, penalty_G).predict(asked_NF)
    np.testing.assert_allclose(pred, expected, atol=2e-6)  # coefficients are kept in float32
    path_ANG = ridge_path(feature_MF, goal_MG, weight_M, asked_NF, np.array([0.3, 5.0]))
    np.testing.assert_allclose(path_ANG[1][:, [0, 2]], expected[:, [0, 2]], atol=1e-8)
    np.testing.assert_allclose(path_ANG[0][:, 1], expected[:, 1], atol=1e-8)


def test_kernel_ridge_is_scikit_learns_around_the_mean() -> None:
    (feature_MF, _), mass_MT = world()
    weight_M = np.random.default_rng(1).uniform(0.3, 1, ROWS)
    for width in (0.5, 2.0):
        ours = Kernel.ridge(feature_MF, mass_MT, weight_M, penalty=0.4, width=width)
        gamma = width / (feature_MF.shape[1] * feature_MF.astype(np.float64).var())
        mean_T = np.average(mass_MT, axis=0, weights=weight_M)
        theirs = KernelRidge(alpha=0.4, kernel="rbf", gamma=gamma).fit(feature_MF, mass_MT - mean_T, weight_M)
        np.testing.assert_allclose(ours.predict(feature_MF), theirs.predict(feature_MF) + mean_T, atol=1e-4)


def test_svr_is_scikit_learns() -> None:
    (feature_MF, _), mass_MT = world()
    goal_MG, weight_M = (mass_MT - mass_MT.mean(0)) / mass_MT.std(0), np.random.default_rng(1).uniform(0.3, 1, ROWS)
    config = StackConfig(regressor="svr", svr_c=3.0, svr_epsilon=0.05)
    ours = Kernel.svr(feature_MF, goal_MG, weight_M, config).predict(feature_MF)
    for column, goal_M in enumerate(goal_MG.T):
        theirs = SVR(C=3.0, epsilon=0.05, gamma="scale").fit(feature_MF, goal_M, sample_weight=weight_M)
        np.testing.assert_allclose(ours[:, column], theirs.predict(feature_MF), atol=2e-3)  # its solver ends at 1e-3


def test_extra_trees_are_read_from_arrays_as_scikit_learn_reads_them() -> None:
    (feature_MF, _), mass_MT = world()
    weight_M = np.random.default_rng(1).uniform(0.3, 1, ROWS)
    ours = Forest.fit(feature_MF, mass_MT, weight_M, count=7, leaf=2, features=0.3, seed=4)
    theirs = ExtraTreesRegressor(7, min_samples_leaf=2, max_features=0.3, random_state=4)
    asked_NF = world(seed=9)[0][0]
    theirs.fit(feature_MF, mass_MT, sample_weight=weight_M)
    np.testing.assert_allclose(ours.predict(asked_NF), theirs.predict(asked_NF), rtol=1e-12)


@pytest.mark.parametrize("regressor", REGRESSORS)
def test_each_goal_learns_from_the_rows_that_have_it(regressor: str) -> None:
    """A goal with blanks is fitted as it would be alone on its rows, and comes back from its arrays."""
    (feature_MF, _), mass_MT = world()
    part_MT = mass_MT.copy()
    part_MT[::3, :2], part_MT[:, 3] = np.nan, np.nan
    config = replace(FAST, regressor=regressor)

    def fit(mass: np.ndarray, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        one = fitted(config, feature_MF[rows], mass[rows], np.ones(ROWS)[rows], np.full(5, 5.0), seed=0)
        assert (restored(regressor, one.arrays()).predict(feature_MF) == one.predict(feature_MF)).all()
        return one.predict(feature_MF)

    pred_NT, whole_NT, known = fit(part_MT), fit(mass_MT), ~np.isnan(part_MT[:, 0])
    assert (pred_NT[:, 3] == 0).all() and np.isfinite(pred_NT).all()
    if regressor in ("ridge", "svr"):  # trees split for all their goals at once
        np.testing.assert_allclose(pred_NT[:, [2, 4]], whole_NT[:, [2, 4]], atol=1e-9)
    if regressor == "ridge":  # the width of a kernel is that of all rows
        np.testing.assert_allclose(pred_NT[:, :2], fit(mass_MT, known)[:, :2], atol=1e-9)


# -- two levels --------------------------------------------------------------------------------------------------------


def test_level_2_is_scikit_learns_ridge_for_each_goal_on_its_own_guesses() -> None:
    rng = np.random.default_rng(0)
    guess_BMG, value_MG, weight_M = rng.normal(size=(3, 20, 4)), rng.normal(size=(20, 4)), rng.uniform(0.2, 1, 20)
    value_MG[::4, 1], value_MG[:, 3] = np.nan, np.nan
    coefficient_GB, intercept_G = level2(guess_BMG, value_MG, weight_M, penalty=1.0)
    for goal in range(3):
        known = ~np.isnan(value_MG[:, goal])
        oracle = linear_model.Ridge(alpha=1.0)
        oracle.fit(guess_BMG[:, known, goal].T, value_MG[known, goal], sample_weight=weight_M[known])
        np.testing.assert_allclose(coefficient_GB[goal], oracle.coef_, atol=1e-12)
        assert intercept_G[goal] == pytest.approx(oracle.intercept_)
    assert (coefficient_GB[3] == 0).all() and intercept_G[3] == 0


def test_a_case_by_hand() -> None:
    """Four rows, one feature that is 0, 1, 2, 3 and total = 10 * feature; two inner folds; only the total was measured.

    Without rows 0 and 1: median 2.5, range .5, scaled -1 and 1, z-scores -1 and 1 (sd 5 g), penalty 2: slope
    2 / (2 + 2) = .5; rows 0 and 1 lie at -5 and -3, so that their guesses are 25 + 5 * (-2.5, -1.5) = 12.5 and 17.5 g.
    Without rows 2 and 3 in the same way 5 + 5 * (1.5, 2.5). Level 2, penalty 50: the guesses' squares around 15 sum to
    25, their products with the masses to 50.
    """
    config = StackConfig(penalty=2.0, level2_penalty=50.0, goals="grams")
    feature_M1 = np.arange(4, dtype=np.float32)[:, None]
    mass_MT = np.full((4, 5), np.nan)
    mass_MT[:, TOTAL] = [0.0, 10.0, 20.0, 30.0]
    two_M = np.array([0, 0, 1, 1])
    weight = weights_of(mass_MT)
    choice = Choice(np.array([2.0]), spaces=1)
    guess = out_of_fold_guesses(config, [feature_M1], mass_MT, two_M, np.ones(4), choice, seed=0)
    np.testing.assert_allclose(guess[0, :, TOTAL], [12.5, 17.5, 12.5, 17.5], rtol=1e-6)
    stack, penalty_BS = fit_stack(config, [feature_M1], mass_MT, two_M, weight, seed=0)
    products = (12.5 - 15) * (0 - 15) + (17.5 - 15) * (10 - 15) + (12.5 - 15) * (20 - 15) + (17.5 - 15) * (30 - 15)
    assert products == 50
    slope = products / (25 + 50)
    assert penalty_BS.tolist() == [[2.0]] and stack.coefficient_GB[TOTAL, 0] == pytest.approx(slope)
    # all rows: median 1.5, range 1.5; scaled -1, -1/3, 1/3, 1; sum of squares 20 / 9, with the z-scores' spread of
    # sqrt(125): slope (20 / 9 * 15) / (20 / 9 + 2) g
    level1 = 15 + 15 * (20 / 9) / (20 / 9 + 2) * np.array([-1, -1 / 3, 1 / 3, 1])
    pred_NT = stack.predict([feature_M1])
    np.testing.assert_allclose(pred_NT[:, TOTAL], 15 + slope * (level1 - 15), rtol=1e-6)
    assert (np.delete(pred_NT, TOTAL, axis=1) == 0).all()


def test_spaces_are_averaged_in_grams_and_the_result_is_coherent() -> None:
    blocks, mass_MT = world()
    parts = [fit_stack(replace(FAST, goals=goals), blocks, mass_MT, inner_M, weight_T, seed=0)[0] for goals in
             ("both", "grams", "log1p")]  # fmt: skip
    both, grams, log1p = parts
    np.testing.assert_allclose(both.coefficient_GB, np.vstack([grams.coefficient_GB, log1p.coefficient_GB]), atol=1e-9)
    asked = world(seed=5)[0]
    value = [
        np.einsum("bng,gb->ng", np.stack([one.guess(block) for one, block in zip(part.level1_B, asked, strict=True)]),
                  part.coefficient_GB) + part.intercept_G
        for part in (grams, log1p)
    ]  # fmt: skip
    mean_NT = np.maximum((value[0] + np.expm1(value[1])) / 2, 0.0)
    pred_NT = both.predict(asked)
    assert (value[0] < 2 * mass_MT.max(0)).all()  # the cap is not met here
    np.testing.assert_allclose(pred_NT, project_coherent(mean_NT), atol=1e-6)
    assert (pred_NT >= 0).all() and identity_gap(pred_NT).max() < 1e-9


def test_predictions_stay_within_reason_far_from_the_training_rows() -> None:
    blocks, mass_MT = world()
    stack, _ = fit_stack(FAST, blocks, mass_MT, inner_M, weight_T, seed=0)
    pred_NT = stack.predict([1e6 * block for block in blocks])
    assert np.isfinite(pred_NT).all() and (pred_NT <= 4 * mass_MT.max()).all()


@pytest.mark.parametrize(("regressor", "chosen"), [*product(REGRESSORS, [False]), ("ridge", True)])
def test_no_label_of_an_inner_fold_reaches_its_own_guesses(regressor: str, chosen: bool) -> None:
    """Scalers, regressors and penalties: all is learned without the fold; the other rows' guesses do move."""
    config = replace(FAST, regressor=regressor, choose_penalty=chosen)
    blocks, mass_MT = world()
    first = guesses(config, blocks, mass_MT)
    for fold in np.unique(inner_M):
        changed, own = mass_MT.copy(), inner_M == fold
        changed[own] = changed[own] * 9 + 50
        second = guesses(config, blocks, changed)
        assert second[:, own].tobytes() == first[:, own].tobytes()
        assert np.abs(second[:, ~own] - first[:, ~own]).max() > 1e-3


def test_a_penalty_is_chosen_by_the_other_inner_folds_by_brute_force() -> None:
    config = replace(FAST, choose_penalty=True, penalties=6, log10_penalty_low=-1.0, log10_penalty_high=4.0)
    (wide, narrow), mass_MT = world()
    choice = Choice.of(config, [wide, narrow], mass_MT, inner_M, weight_T, np.ones(ROWS))
    grid = np.logspace(-1, 4, 6)
    for block, feature_MF in enumerate((wide, narrow)):
        for left_out in (None, 0, 1, 2, 3):
            error = np.zeros((2, len(grid)))
            for held in (fold for fold in range(4) if fold != left_out):
                rest, rows = (inner_M != held) & (inner_M != left_out), inner_M == held
                scaler = RobustScaler.fit(feature_MF[rest])
                for place, penalty in enumerate(grid):
                    for space, (there, back) in enumerate(((lambda x: x, lambda x: x), (np.log1p, np.expm1))):
                        model = linear_model.Ridge(alpha=penalty).fit(scaler.scale(feature_MF[rest]).astype(float),
                                                                      there(mass_MT[rest]))  # fmt: skip
                        value = model.predict(scaler.scale(feature_MF[rows]).astype(float))
                        pred = np.maximum(back(np.minimum(value, there(2 * mass_MT[rest].max(0)))), 0)
                        error[space, place] += (weight_T * (pred - mass_MT[rows]) ** 2).sum()
            assert choice.without(block, left_out).tolist() == grid[error.argmin(1)].tolist()


def test_stored_arrays_predict_the_same() -> None:
    blocks, mass_MT = world()
    for regressor in REGRESSORS:
        config = replace(FAST, regressor=regressor)
        stack, _ = fit_stack(config, blocks, mass_MT, inner_M, weight_T, seed=0)
        again = Stack.from_arrays(config, stack.arrays())
        assert again.predict(blocks).tobytes() == stack.predict(blocks).tobytes()


def test_what_was_not_measured_is_not_looked_at() -> None:
    blocks, mass_MT = world()
    measured = np.ones_like(mass_MT, dtype=bool)
    measured[::2, GREEN], measured[:, 1] = False, False
    weight = np.where(measured, weight_T, 0.0)
    stack, _ = fit_stack(FAST, blocks, np.where(measured, mass_MT, np.nan), inner_M, weight, seed=0)
    pred_NT = stack.predict(blocks)
    assert stack.norm_T.tolist() == [0.1, 0.0, 0.1, 0.2, 0.5]
    assert (pred_NT[:, 1] == 0).all() and np.isfinite(pred_NT).all() and (pred_NT >= 0).all()
    np.testing.assert_allclose(pred_NT[:, 3], pred_NT[:, 0] + pred_NT[:, 2], atol=1e-9)  # identities of what is known
    assert len(TARGETS) == pred_NT.shape[1]


def test_photographs_of_one_quadrat_count_as_one_in_a_ridge() -> None:
    """Every row twice at half its weight is every row once."""
    (wide, _), mass_MT = world()
    feature_MF = RobustScaler.fit(wide).scale(wide)
    once = Ridge.fit(feature_MF, mass_MT, np.ones(ROWS), np.full(5, 5.0))
    twice = Ridge.fit(np.vstack([feature_MF] * 2), np.vstack([mass_MT] * 2), np.full(2 * ROWS, 0.5), np.full(5, 5.0))
    np.testing.assert_allclose(twice.predict(feature_MF), once.predict(feature_MF), rtol=1e-6)


def test_inner_folds_keep_groups_whole_and_need_two() -> None:
    assert all(len(set(inner_M[group_M == name])) == 1 for name in set(group_M))
    assert set(inner_M) == {0, 1, 2, 3} and set(inner_folds(group_M, 50, 0)) == set(range(GROUPS))
    with pytest.raises(FitError, match="at least 2 groups"):
        inner_folds(np.array(["a"] * 5), 4, 0)
