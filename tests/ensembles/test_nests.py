"""Nested losses are what an explicit refit by rows gives, and all that is chosen on labels is chosen inside a nest."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from small_libraries import small_library

from biomass_models.data.references import per_target_mean
from biomass_models.targets import FROM_COMPONENTS, TARGETS, weighted_r2_score, weighted_sst
from ensembles.blend import fit_blend
from ensembles.choice import DEFAULT, RULES, SINGLE_BEST, TOP_MEAN
from ensembles.gram import ErrorGram, error_gram
from ensembles.members.duplicates import duplicates_of
from ensembles.nests import assign_nests, nested, nested_all, skilled
from ensembles.rules import Greedy, Pruned


@dataclass(frozen=True)
class Everyone:
    """Equal weights: a rule that learns nothing, whose nested score must be its in-sample score."""

    name: str = "everyone"

    def __call__(self, problem: ErrorGram, seed: int) -> np.ndarray:
        return np.full(problem.members, 1 / problem.members)


@pytest.mark.parametrize("groups", [4, 5, 6, 23])
def test_units_are_dealt_out_whole_and_evenly(groups):
    gram = small_library(2, images=90, groups=groups, folds=3).gram
    nest_RC = assign_nests(gram, seed=3)
    assert nest_RC.shape == (1 if groups <= 5 else 8, gram.cells)
    for nest_C in nest_RC:
        sizes = [len(set(gram.group_C[nest_C == nest])) for nest in range(min(5, groups))]
        assert sum(sizes) == groups and max(sizes) - min(sizes) <= 1
        assert all(len(set(nest_C[gram.group_C == group])) == 1 for group in set(gram.group_C))
    assert len({tuple(nest_C) for nest_C in nest_RC}) == len(nest_RC)
    np.testing.assert_array_equal(nest_RC, assign_nests(gram, seed=3))


def test_a_single_unit_is_nested_by_fold_and_a_single_cell_not_at_all():
    library = small_library(4)
    gram = replace(library, group_N=np.full_like(library.group_N, "all")).gram
    np.testing.assert_array_equal(assign_nests(gram), gram.fold_C[None])
    with pytest.raises(ValueError, match="at least 2 groups, such as dates, or 2 folds"):
        nested(gram.select(gram.fold_C == 2), TOP_MEAN)


@pytest.mark.parametrize("rule", [Greedy(20), SINGLE_BEST, DEFAULT], ids=lambda rule: rule.name)
@pytest.mark.parametrize("noise", [3.0, 9.0], ids=["all with skill", "some without"])
def test_nested_is_an_explicit_refit_by_rows(rule, noise):
    library = small_library(15, seed=4, noise=noise)
    found = nested(library.gram, rule, seed=1)
    scores, sizes = [], set()
    for partition, nest_C in enumerate(assign_nests(library.gram, seed=1)):
        pred_NT = np.empty_like(library.truth_NT)
        for nest in range(5):
            held = np.isin(library.group_N, library.gram.group_C[nest_C == nest])
            train = ~held
            fresh = error_gram(
                library.pred_MNT[:, train], library.truth_NT[train], library.fold_N[train], library.group_N[train]
            )
            shown = skilled_by_rows(library.pred_MNT[:, train], library.truth_NT[train], library.fold_N[train])
            sizes.add(len(shown))
            pred_NT[held] = np.tensordot(rule(fresh.keep(shown), 1), library.pred_MNT[np.ix_(shown, held)], axes=1)
        np.testing.assert_allclose(found.loss_RC[partition], library.loss_by_cell(pred_NT), atol=1e-8)
        scores.append(weighted_r2_score(library.truth_NT, pred_NT))
    assert found.score == pytest.approx(np.mean(scores), abs=1e-12)
    np.testing.assert_allclose(found.weight_RKM.sum(-1), 1)
    assert (min(sizes) < 15) == (noise > 6)


def skilled_by_rows(pred_MNT, truth_NT, fold_N):
    """Rows of the members that are at least as good as the mean of each target over the other folds."""
    mean_NT = np.stack([truth_NT[fold_N != fold].mean(0) for fold in fold_N])
    floor = weighted_r2_score(truth_NT, mean_NT)
    return np.array([row for row, pred_NT in enumerate(pred_MNT) if weighted_r2_score(truth_NT, pred_NT) >= floor])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_a_nest_holds_out_moves_none_of_its_weights(rule):
    """Other labels of the nest's own units, however good they make a member look: a score cannot gain by them."""
    library = small_library(20, seed=2, noise=8.0)
    nest_C = assign_nests(library.gram, partitions=1)[0]
    before = nested(library.gram, rule, partitions=1)
    worst_NT, moved = library.pred_MNT[library.gram.loss_M.argmax()], 0.0
    for nest in range(5):
        held = np.isin(library.group_N, library.gram.group_C[nest_C == nest])
        truth_NT = np.where(held[:, None], worst_NT, library.truth_NT)  # the worst member is perfect there
        after = nested(replace(library, truth_NT=truth_NT).gram, rule, partitions=1)
        np.testing.assert_allclose(after.weight_RKM[0, nest], before.weight_RKM[0, nest], rtol=0, atol=1e-9)
        moved = max(moved, np.abs(after.weight_RKM - before.weight_RKM).max())
    assert moved > 0.01  # in the nests that learn from those units


def test_a_rule_that_learns_nothing_loses_nothing():
    library = small_library(12, noise=2.0)
    assert not library.unskilled
    expected = weighted_r2_score(library.truth_NT, library.pred_MNT.mean(0))
    assert nested(library.gram, Everyone()).score == pytest.approx(expected, abs=1e-12)


def test_rules_scored_together_score_as_alone():
    gram = small_library(15).gram
    for rule, found in zip([Greedy(), TOP_MEAN], nested_all(gram, [Greedy(), TOP_MEAN]), strict=True):
        np.testing.assert_array_equal(found.loss_RC, nested(small_library(15).gram, rule).loss_RC)


def test_prefilter_shows_a_rule_the_best_of_its_own_training_cells():
    gram = small_library(30).gram
    (filtered,), pruned = nested_all(gram, [Greedy()], prefilter=7), nested(gram, Pruned(Greedy(), 7, slack=1e9))
    np.testing.assert_allclose(filtered.weight_RKM, pruned.weight_RKM)
    assert ((filtered.weight_RKM > 0).sum(-1) <= 7).all()


def test_skill_is_that_of_the_per_target_mean_out_of_fold():
    library = small_library(20, noise=9.0)
    expected = weighted_r2_score(library.truth_NT, per_target_mean(*tables_of(library)))
    assert 1 - library.gram.per_target_mean_loss == pytest.approx(expected, abs=1e-12)
    scores = np.array([weighted_r2_score(library.truth_NT, pred_NT) for pred_NT in library.pred_MNT])
    np.testing.assert_array_equal(skilled(library.gram), scores >= expected)
    assert 0 < len(library.unskilled) < 20
    part = library.gram.select(library.gram.fold_C < 2)  # two folds: each has the other's mean
    rows = library.fold_N < 2
    mean_NT = np.stack([library.truth_NT[library.fold_N == 1 - fold].mean(0) for fold in library.fold_N[rows]])
    assert 1 - part.per_target_mean_loss == pytest.approx(weighted_r2_score(library.truth_NT[rows], mean_NT), abs=1e-12)


def tables_of(library):
    """The truth's table and its folds."""
    table = pd.DataFrame(library.truth_NT, columns=list(TARGETS)).assign(image_id=library.image_id_N)
    folds = pd.DataFrame({"image_id": library.image_id_N, "fold": library.fold_N, "group": library.group_N})
    return table, folds


def test_skill_is_decided_inside_the_nest():
    """A member that is bad on all rows but good on a nest's training cells takes part there, and pays for it."""
    library = small_library(4, images=200, groups=20, noise=2.0)
    bad_N = np.isin(library.group_N, np.unique(library.group_N)[:2])
    pred_NT = (library.truth_NT[:, :3] + np.where(bad_N, 150.0, 0.5)[:, None]) @ FROM_COMPONENTS.T
    library = replace(library, names=("bad", "m1", "m2", "m3"), pred_MNT=np.stack([pred_NT, *library.pred_MNT[1:]]))
    assert [name for name, _ in library.unskilled] == ["bad"]
    weight_RK = nested(library.gram, TOP_MEAN).weight_RKM[:, :, 0]
    assert 0 < (weight_RK > 0).sum() < weight_RK.size
    card = fit_blend(library, TOP_MEAN)
    assert "bad" not in card.members and "below the per-target mean's" in dict(card.left_out)["bad"]
    assert card.library_size == 3 and card.nested_score < card.in_sample_score - 0.1


@pytest.mark.slow
def test_ten_thousand_members_are_blended_in_bounded_memory():
    """No rule ever sees more than the prefilter's thousand, and no 10 000 x 10 000 matrix (800 MB) is made."""
    library = small_library(10_000, images=40, groups=8, folds=4)
    shown = []

    @dataclass(frozen=True)
    class Spy:
        name: str = "spy"

        def __call__(self, problem: ErrorGram, seed: int) -> np.ndarray:
            shown.append(problem.members)
            return TOP_MEAN(problem, seed)

    tracemalloc.start()
    assert len(duplicates_of(library.gram)) < 10
    found = nested(library.gram, Spy())
    card = fit_blend(library, Spy())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(shown) == 1000 and peak < 200e6
    assert card.nested_score == pytest.approx(found.score)
    assert card.library_size + len(library.unskilled) == 10_000


@pytest.mark.parametrize("seed", range(2))
def test_noise_members_buy_nothing(seed):
    """500 members of noise beside 5 models: none has skill in any nest, and not a bit of the losses moves."""
    library = small_library(5, images=200, groups=20, seed=seed)
    noise_MN3 = np.random.default_rng(seed).normal(library.truth_NT.mean(0)[:3], 5, (500, 200, 3))
    everyone = np.concatenate([library.pred_MNT, np.maximum(noise_MN3, 0) @ FROM_COMPONENTS.T])
    gram = error_gram(everyone, library.truth_NT, library.fold_N, library.group_N)
    with_noise, without = nested(gram, DEFAULT), nested(gram.keep(range(5)), DEFAULT)
    np.testing.assert_array_equal(with_noise.loss_RC, without.loss_RC)


def test_sst_of_cells_adds_up():
    library = small_library()
    assert library.gram.sst == pytest.approx(weighted_sst(library.truth_NT))
