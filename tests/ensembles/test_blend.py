"""Card, follow-ups and application of a blend."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LinearRegression
from small_libraries import member_predictions, small_library, truth_frame

from biomass_models.targets import FROM_COMPONENTS, TARGETS, identity_gap, weighted_r2_score
from ensembles.blend import apply_blend, fit_blend, render_card
from ensembles.candidates import choose_candidates
from ensembles.card import Card
from ensembles.choice import RULES, SINGLE_BEST, TOP_MEAN
from ensembles.honest import nested, paired_difference
from ensembles.members.library import library_from_arrays
from ensembles.recipe import (
    FOLLOW_UPS,
    PRIOR_IMAGES,
    Recipe,
    calibration,
    decided,
    fit_recipe,
    floors,
    honest_rows,
    with_zeros,
)
from ensembles.rules import Greedy, Optimum, TopMean

pytestmark = pytest.mark.slow


def predictions_of(library):
    return dict(zip(library.names, library.pred_MNT, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_a_card_tells_what_its_blend_does(rule):
    library = small_library(15, images=100)
    card = fit_blend(library, rule, seed=2, bootstrap_draws=10)
    blend_NT = apply_blend(card, predictions_of(library))
    assert card.in_sample_score == pytest.approx(weighted_r2_score(library.truth_NT, blend_NT), abs=1e-12)
    assert card.nested_score == pytest.approx(nested(library.gram, RULES[rule], "fold", seed=2).score, abs=1e-12)
    assert card.nested_group_score == pytest.approx(nested(library.gram, RULES[rule], "group", seed=2).score, abs=1e-12)
    assert card.best_single_nested_score == pytest.approx(nested(library.gram, SINGLE_BEST).score)
    assert card.top5_nested_score == pytest.approx(nested(library.gram, TOP_MEAN).score)
    assert sum(card.members.values()) == pytest.approx(1) and list(card.members.values()) == sorted(
        card.members.values(), reverse=True
    )
    assert card.in_sample_score <= card.ceiling_score + 1e-10 and card.ceiling_gap < 1e-10
    assert identity_gap(blend_NT).max() < 1e-9 and (blend_NT >= 0).all()
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_scores_by_target_state_and_fold_by_rows():
    library = small_library(10, images=100)
    card = fit_blend(library, "greedy", bootstrap_draws=0)
    honest_NT = honest_rows(library, Recipe(rule=Greedy()))
    error_T = ((library.truth_NT - honest_NT) ** 2).sum(0)
    spread_T = ((library.truth_NT - library.truth_NT.mean(0)) ** 2).sum(0)
    for target, name in enumerate(TARGETS):
        assert card.targets[name].nested_r2 == pytest.approx(1 - error_T[target] / spread_T[target])
        assert card.targets[name].nested_rmse == pytest.approx(np.sqrt(error_T[target] / 100))
    for state, score in card.state_scores.items():
        rows = library.state_N == state
        assert score == pytest.approx(weighted_r2_score(library.truth_NT[rows], honest_NT[rows]))
    for fold, score in card.nested_fold_scores.items():
        rows = library.fold_N == int(fold)
        assert score == pytest.approx(weighted_r2_score(library.truth_NT[rows], honest_NT[rows]))
    assert card.bootstrap is None and len(card.group_scores) == 10
    residual_KE = (library.truth_NT - library.pred_MNT) * np.sqrt([0.1, 0.1, 0.1, 0.2, 0.5])
    chosen = [library.names.index(name) for name in card.members]
    unit_KE = residual_KE[chosen].reshape(len(chosen), -1)
    unit_KE /= np.linalg.norm(unit_KE, axis=1, keepdims=True)
    cosine_KK = unit_KE @ unit_KE.T
    pairs = np.triu_indices(len(chosen), 1)
    assert card.diversity == pytest.approx(cosine_KK[pairs].mean())


def test_references_are_compared_as_they_are_projected():
    library = small_library(10)
    mean_NT = np.tile(library.truth_NT.mean(0), (len(library.truth_NT), 1))
    card = fit_blend(library, "top-3", references={"mean": mean_NT}, bootstrap_draws=0)
    gain = card.versus["mean"]
    assert gain.value == pytest.approx(card.nested_score - weighted_r2_score(library.truth_NT, mean_NT))
    assert gain.low > 0


@pytest.mark.parametrize("rule", RULES)
def test_duplicates_in_a_library_change_nothing(rule):
    truth = truth_frame()
    pred_MNT = member_predictions(truth, 9, noise=3.0)
    names = [f"m{k}" for k in range(9)]
    plain = library_from_arrays(names, pred_MNT, truth)
    doubled = library_from_arrays([*names, "copy", "again"], [*pred_MNT, pred_MNT[0], pred_MNT[4]], truth)
    left, right = (fit_blend(library, rule, bootstrap_draws=5) for library in (plain, doubled))
    assert len(right.merged) == 2
    assert right.members == pytest.approx(left.members, abs=1e-9)
    for field in ("in_sample_score", "nested_score", "nested_group_score", "ceiling_score", "library_size"):
        assert getattr(right, field) == pytest.approx(getattr(left, field), abs=1e-9)


def test_single_member_single_fold_and_single_group():
    alone = fit_blend(small_library(1), bootstrap_draws=20)
    assert alone.diversity is None and alone.members == {"m00": 1.0} and alone.optimism == pytest.approx(0, abs=1e-12)
    one_fold = small_library(8, folds=1)
    card = fit_blend(one_fold, bootstrap_draws=20)
    assert card.nested_by == "group" and card.nested_score == card.nested_group_score
    with pytest.raises(ValueError, match="at least 2 groups"):
        fit_blend(small_library(8, folds=1, groups=1))
    library = small_library(8)
    one_group = fit_blend(replace(library, group_N=np.full_like(library.group_N, "all")))
    assert np.isnan(one_group.nested_se) and one_group.nested_by == "fold" and one_group.bootstrap is None
    text = json.dumps(one_group.to_json(), allow_nan=False)
    assert np.isnan(Card.from_json(json.loads(text)).versus["best single"].se)
    render_card(one_group)
    render_card(alone)


def test_follow_ups_are_fitted_without_the_scored_nest():
    library = small_library(10, images=120)
    recipe = Recipe(rule=Optimum(), per_target=True, calibrate=True)
    honest_NT = honest_rows(library, recipe, "fold")
    moved = library.truth_NT.copy()
    held = library.fold_N == 2
    moved[held] *= 3.0  # other labels in the held-out fold must not move its predictions
    elsewhere = replace(library, truth_NT=moved)
    np.testing.assert_allclose(honest_rows(elsewhere, recipe, "fold")[held], honest_NT[held], atol=1e-8)
    assert np.abs(honest_rows(elsewhere, recipe, "fold")[~held] - honest_NT[~held]).max() > 0.1


def test_weights_per_target_are_the_rule_on_each_target_and_predictions_stay_coherent():
    library = small_library(10, images=120)
    card = fit_blend(library, Recipe(rule=Optimum(), per_target=True))
    for target, name in enumerate(TARGETS):
        expected = Optimum()(library.target_grams[target], 0)
        found = [card.target_weights[name].get(member, 0.0) for member in library.names]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    blend_NT = apply_blend(card, predictions_of(library))
    assert identity_gap(blend_NT).max() < 1e-9
    assert weighted_r2_score(library.truth_NT, blend_NT) == pytest.approx(card.in_sample_score, abs=1e-12)
    assert card.bootstrap is None and Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_a_target_that_never_varies_keeps_the_shared_weights():
    truth = truth_frame()
    truth["Dry_Clover_g"] = 0.0
    truth["GDM_g"] = truth["Dry_Green_g"]
    truth["Dry_Total_g"] = truth["GDM_g"] + truth["Dry_Dead_g"]
    library = library_from_arrays(["a", "b", "c"], member_predictions(truth, 3, noise=2.0), truth)
    card = fit_blend(library, Recipe(rule=Optimum(), per_target=True))
    assert card.target_weights["Dry_Clover_g"] == pytest.approx(fit_blend(library, "optimum").members)
    assert card.targets["Dry_Clover_g"].nested_r2 is None


def test_calibration_is_least_squares_pulled_towards_no_change():
    rng = np.random.default_rng(0)
    pred_NT = rng.gamma(2, 10, (200, 5))
    truth_NT = 3 + 0.5 * pred_NT + rng.normal(0, 1, (200, 5))
    slope_T, offset_T = calibration(truth_NT, pred_NT)
    for target in range(5):
        fitted = LinearRegression().fit(pred_NT[:, [target]], truth_NT[:, target])
        share = PRIOR_IMAGES / (200 + PRIOR_IMAGES)
        assert slope_T[target] == pytest.approx(share + (1 - share) * fitted.coef_[0])
    np.testing.assert_allclose((offset_T + slope_T * pred_NT).mean(0), truth_NT.mean(0))
    slope_T, offset_T = calibration(truth_NT, np.full_like(truth_NT, 7.0))
    np.testing.assert_allclose(slope_T, 1)
    np.testing.assert_allclose(offset_T, truth_NT.mean(0) - 7)


def test_calibration_helps_members_that_are_all_shy():
    library = small_library(6, images=200, groups=20)
    shy = replace(library, pred_MNT=library.pred_MNT * 0.6)
    plain, calibrated = (fit_blend(shy, Recipe(rule=TOP_MEAN, calibrate=flag)) for flag in (False, True))
    assert calibrated.nested_score > plain.nested_score + 0.05
    recipe, gains = decided(shy, Recipe(rule=TOP_MEAN, on_trial=("calibration",)))
    assert recipe == Recipe(rule=TOP_MEAN, calibrate=True) and list(gains) == ["calibration"]
    assert gains["calibration"].value == pytest.approx(calibrated.nested_score - plain.nested_score)
    assert gains["calibration"].low > 0
    blend_NT = apply_blend(calibrated, predictions_of(shy))
    assert weighted_r2_score(shy.truth_NT, blend_NT) == pytest.approx(calibrated.in_sample_score, abs=1e-12)
    np.testing.assert_allclose(
        fit_recipe(shy, Recipe(rule=TOP_MEAN, calibrate=True)).slope_T,
        [calibrated.calibration[name][0] for name in TARGETS],
    )


def test_a_blend_refuses_predictions_that_do_not_fit():
    library = small_library(6)
    card = fit_blend(library, "top-3", bootstrap_draws=0)
    given = {name: library.pred_MNT[library.names.index(name)] for name in card.members}
    first, second, _ = given
    with pytest.raises(ValueError, match=f"missing: {first}"):
        apply_blend(card, {name: pred for name, pred in given.items() if name != first})
    with pytest.raises(ValueError, match="same images"):
        apply_blend(card, {**given, second: given[second][:3]})
    with pytest.raises(ValueError, match=f"finite, {second}"):
        apply_blend(card, {**given, second: given[second] * np.nan})
    with pytest.raises(ValueError, match="unknown rule"):
        fit_blend(library, "gready")


def test_members_of_a_blend_are_projected_before_they_are_mixed():
    library = small_library(4)
    card = fit_blend(library, "top-2", bootstrap_draws=0)
    raw = {
        name: library.pred_MNT[0] + 5 * np.random.default_rng(k).normal(size=(60, 5))
        for k, name in enumerate(card.members)
    }
    blend_NT = apply_blend(card, raw)
    assert identity_gap(blend_NT).max() < 1e-9 and (blend_NT >= 0).all()


def test_an_old_card_is_refused_with_its_fields():
    content = fit_blend(small_library(3), bootstrap_draws=0).to_json()
    del content["ceiling_score"]
    with pytest.raises(ValueError, match=r"\['ceiling_score'\] missing and \['colour'\] unknown"):
        Card.from_json({**content, "colour": "green"})


@dataclass(frozen=True, kw_only=True)
class LaterCard(Card):
    """A card of a later version."""

    rounds: int = 1


def test_a_card_of_an_earlier_version_has_the_defaults_of_what_it_lacks() -> None:
    stored = Path(__file__).parents[1] / "studies" / "0.1.0" / "finished" / "ensembles" / "submission" / "ensemble.json"
    content = json.loads(stored.read_text())["card"]
    card = LaterCard.from_json(content)
    assert card.rounds == 1 and card.members == {"d701b58692": 1.0}
    with pytest.raises(ValueError, match=r"\[\] missing and \['rounds'\] unknown"):
        Card.from_json({**content, "rounds": 2})


@pytest.mark.parametrize("options", [{}, {"per_target": True, "calibrate": True}, {"on_trial": tuple(FOLLOW_UPS)}])
def test_the_page_fits_80_columns_and_names_what_was_left_out(options):
    library = replace(
        small_library(30),
        left_out=tuple((f"broken-{k}", "says nothing but NaN " * 6) for k in range(20)),
        merged=(("copy", "m01"),),
    )
    card = fit_blend(library, Recipe(rule=TopMean(20), **options), bootstrap_draws=5)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_card(card), width=80)
    page = console.export_text()
    assert max(map(len, page.splitlines())) <= 80
    for text in (
        "trust this",
        "mean of top 5",
        "broken-3",
        "and 9 more",
        f"{len(card.members) - 12} more",
        "Dry_Total_g",
        "state NSW",
    ):
        assert text in page


def test_zeros_are_placed_where_the_squared_error_is_least():
    rng = np.random.default_rng(0)
    truth_N3 = rng.gamma(2, 8, (60, 3)) * (rng.random((60, 3)) < [0.95, 0.8, 0.5])
    pred_NT = np.maximum(truth_N3 + rng.gamma(1, 2, (60, 3)), 0) @ FROM_COMPONENTS.T
    truth_NT = truth_N3 @ FROM_COMPONENTS.T
    floor_3 = floors(truth_NT, pred_NT)
    assert floor_3[2] > 0
    chosen_NT = pred_NT
    for component in range(3):  # brute force, one component after the other

        def score(floor, component=component, before_NT=chosen_NT):
            floor_3 = np.zeros(3)
            floor_3[component] = floor
            return weighted_r2_score(truth_NT, with_zeros(before_NT, floor_3))

        best = max([0.0, *chosen_NT[:, component]], key=score)
        assert score(floor_3[component]) == pytest.approx(score(best), abs=1e-12)
        one_3 = np.zeros(3)
        one_3[component] = floor_3[component]
        chosen_NT = with_zeros(chosen_NT, one_3)
    np.testing.assert_allclose(chosen_NT, with_zeros(pred_NT, floor_3))
    assert identity_gap(chosen_NT).max() < 1e-9


def test_zeros_are_on_the_card_and_applied():
    library = small_library(6, images=200, groups=20)
    clover_N = np.where(np.arange(200) % 2, library.truth_NT[:, 2], 0.0)
    truth_N3 = np.column_stack([library.truth_NT[:, :2], clover_N])
    patchy = replace(
        library,
        truth_NT=truth_N3 @ FROM_COMPONENTS.T,
        pred_MNT=(truth_N3 + 2 + np.random.default_rng(0).normal(0, 0.3, (6, 200, 3))) @ FROM_COMPONENTS.T,
    )
    card = fit_blend(patchy, Recipe(rule=TOP_MEAN, zeros=True), bootstrap_draws=0)
    assert card.floors["Dry_Clover_g"] > 1
    blend_NT = apply_blend(card, predictions_of(patchy))
    assert (blend_NT[::2, 2] == 0).mean() > 0.9
    assert weighted_r2_score(patchy.truth_NT, blend_NT) == pytest.approx(card.in_sample_score, abs=1e-12)
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_follow_ups_on_trial_are_used_where_they_gain_and_the_nest_pays_for_the_decision():
    library = small_library(6, images=200, groups=20)
    shy = replace(library, pred_MNT=library.pred_MNT * 0.6)
    asked = Recipe(rule=TOP_MEAN, on_trial=("calibration", "zeros"))
    card = fit_blend(shy, asked, bootstrap_draws=0)
    assert (
        "calibration" in card.follow_ups
        and card.calibration is not None
        and card.follow_up_gains["calibration"].low > 0
    )
    for fold in np.unique(shy.gram.fold_C):  # each nest decides on its own rows, by inner nests
        held_C = shy.gram.fold_C == fold
        recipe, _ = decided(shy, asked, ~held_C)
        rows = shy.fold_N == fold
        by_hand_NT = fit_recipe(shy, recipe, ~held_C).blend(shy.pred_MNT[:, rows])
        np.testing.assert_allclose(honest_rows(shy, asked)[rows], by_hand_NT, atol=1e-9)
    sound = fit_blend(library, asked, bootstrap_draws=0)
    gain = sound.follow_up_gains["calibration"]
    assert (sound.calibration is not None) == (gain.value > gain.se)
    with pytest.raises(ValueError, match="a follow-up is one of"):
        Recipe(rule=TOP_MEAN, on_trial=("sharpening",))


def test_the_first_candidate_can_be_named():
    library = small_library(12, images=200, groups=20)
    found = choose_candidates(library, 2, first="top-7", follow_ups=("calibration",))
    assert found[0].rule == "top-7" and "calibration" in found[0].card.follow_up_gains


def test_candidates_are_the_best_and_the_most_different_as_good_one():
    library = small_library(12, images=200, groups=20)
    found = choose_candidates(library, 3)
    trials = {name: nested(library.gram, rule, "fold") for name, rule in RULES.items()}
    best = max(trials, key=lambda name: trials[name].score)
    assert found[0].rule == best and found[0].distance == 0
    assert len({candidate.rule for candidate in found}) == len(found) > 1
    first_NT = apply_blend(found[0].card, predictions_of(library))
    distances = {}
    for name, trial in trials.items():
        loss = paired_difference(library.gram, trials[best].loss_C, trial.loss_C)
        if loss.value <= loss.se:
            other_NT = apply_blend(fit_blend(library, name, bootstrap_draws=0), predictions_of(library))
            weighted = ((other_NT - first_NT) ** 2 * [0.1, 0.1, 0.1, 0.2, 0.5]).sum(1).mean()
            distances[name] = float(np.sqrt(weighted))
    assert found[1].distance == pytest.approx(max(distances.values()))
    assert distances[found[1].rule] == pytest.approx(found[1].distance)
    assert len(choose_candidates(small_library(1), 4)) == 1
    with pytest.raises(ValueError, match="at least one candidate"):
        choose_candidates(library, 0)
