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

from biomass_models.targets import FROM_COMPONENTS, TARGETS, identity_gap, squared_error, weighted_r2_score
from ensembles.blend import apply_blend, fit_blend
from ensembles.candidates import choose_candidates
from ensembles.card import Card
from ensembles.card_page import render_card
from ensembles.choice import RULES, SINGLE_BEST, TOP_MEAN, rule_named
from ensembles.flips import Flipped, members_in_nests
from ensembles.honest import interval_for_new, paired_difference, score_estimate
from ensembles.members.library import library_from_arrays
from ensembles.nests import assign_nests, fit_weights, nested, nested_all, skilled
from ensembles.rules import Greedy, Optimum, TopMean
from ensembles.spec import (
    FOLLOW_UPS,
    PRIOR_IMAGES,
    BlendSpec,
    calibration,
    choose_follow_ups,
    fit_spec,
    floors,
    nested_rows,
    training_cells,
    with_zeros,
)

pytestmark = pytest.mark.slow


def predictions_of(library):
    return dict(zip(library.names, library.pred_MNT, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_a_card_tells_what_its_blend_does(rule):
    library = small_library(15, images=100)
    card = fit_blend(library, rule, seed=2)
    blend_NT = apply_blend(card, predictions_of(library))
    single, top5, own = nested_all(library.gram, [SINGLE_BEST, TOP_MEAN, RULES[rule]], seed=2)
    assert card.in_sample_score == pytest.approx(weighted_r2_score(library.truth_NT, blend_NT), abs=1e-12)
    estimate = score_estimate(library.gram, own.loss_RC)
    for field in ("value", "se", "low", "high"):
        assert getattr(card.nested, field) == pytest.approx(getattr(estimate, field), abs=1e-12)
    assert (card.nested_by, card.units, card.method) == ("group", 10, "nested over units, jackknife")
    assert card.interval_for_new(12) == pytest.approx(interval_for_new(estimate, 10, 12))
    assert card.best_single_nested_score == pytest.approx(single.score)
    assert card.top5_nested_score == pytest.approx(top5.score)
    gain = paired_difference(library.gram, own.loss_RC, top5.loss_RC)
    assert (card.versus["mean of top 5"].value, card.versus["mean of top 5"].se) == pytest.approx((gain.value, gain.se))
    assert sum(card.members.values()) == pytest.approx(1) and list(card.members.values()) == sorted(
        card.members.values(), reverse=True
    )
    assert card.in_sample_score <= card.ceiling_score + 1e-10 and card.ceiling_gap < 1e-10
    assert identity_gap(blend_NT).max() < 1e-9 and (blend_NT >= 0).all()
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_scores_by_target_state_and_fold_by_rows():
    library = small_library(10, images=100)
    card = fit_blend(library, "greedy")
    nested_RNT = nested_rows(library, BlendSpec(rule=Greedy()))
    error_T = ((library.truth_NT - nested_RNT) ** 2).sum(1).mean(0)
    spread_T = ((library.truth_NT - library.truth_NT.mean(0)) ** 2).sum(0)
    for target, name in enumerate(TARGETS):
        assert card.targets[name].nested_r2 == pytest.approx(1 - error_T[target] / spread_T[target])
        assert card.targets[name].nested_rmse == pytest.approx(np.sqrt(error_T[target] / 100))
    for state, score in card.state_scores.items():
        rows = library.state_N == state
        assert score == pytest.approx(
            np.mean([weighted_r2_score(library.truth_NT[rows], nested_NT[rows]) for nested_NT in nested_RNT])
        )
    for fold, score in card.nested_fold_scores.items():
        rows = library.fold_N == int(fold)
        assert score == pytest.approx(
            np.mean([weighted_r2_score(library.truth_NT[rows], nested_NT[rows]) for nested_NT in nested_RNT])
        )
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
    card = fit_blend(library, "top-3", references={"mean": mean_NT})
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
    left, right = (fit_blend(library, rule) for library in (plain, doubled))
    assert len(right.merged) == 2
    assert right.members == pytest.approx(left.members, abs=1e-9)
    for field in ("in_sample_score", "nested_score", "nested_se", "ceiling_score", "library_size"):
        assert getattr(right, field) == pytest.approx(getattr(left, field), abs=1e-9)


def test_single_member_single_fold_and_single_group():
    alone = fit_blend(small_library(1))
    assert alone.diversity is None and alone.members == {"m00": 1.0} and alone.optimism == pytest.approx(0, abs=1e-12)
    one_fold = small_library(8, folds=1)
    card = fit_blend(one_fold)
    assert card.nested_by == "group" and card.nested_fold_scores.keys() == {"0"}
    with pytest.raises(ValueError, match="at least 2 groups"):
        fit_blend(small_library(8, folds=1, groups=1))
    library = small_library(8)
    one_group = fit_blend(replace(library, group_N=np.full_like(library.group_N, "all")))
    assert np.isnan(one_group.nested_se) and one_group.nested_by == "fold" and one_group.interval_for_new(5) is None
    text = json.dumps(one_group.to_json(), allow_nan=False)
    assert np.isnan(Card.from_json(json.loads(text)).versus["best single"].se)
    render_card(one_group)
    render_card(alone)


def test_follow_ups_are_fitted_without_the_scored_nest():
    library = small_library(10, images=120)
    spec = BlendSpec(rule=Optimum(), per_target=True, calibrate=True)
    nested_RNT = nested_rows(library, spec)
    nest_C = assign_nests(library.gram)[3]
    held = np.isin(library.group_N, library.gram.group_C[nest_C == 2])
    moved = library.truth_NT.copy()
    moved[held] *= 3.0  # other labels in the held-out nest must not move its predictions
    elsewhere = nested_rows(replace(library, truth_NT=moved), spec)
    np.testing.assert_allclose(elsewhere[3, held], nested_RNT[3, held], atol=1e-8)
    assert np.abs(elsewhere[3, ~held] - nested_RNT[3, ~held]).max() > 0.1


def test_weights_per_target_are_the_rule_on_each_target_and_predictions_stay_coherent():
    library = small_library(10, images=120)
    card = fit_blend(library, BlendSpec(rule=Optimum(), per_target=True))
    for target, name in enumerate(TARGETS):
        expected = fit_weights(library.target_grams[target], Optimum(), among_M=skilled(library.gram))
        found = [card.target_weights[name].get(member, 0.0) for member in library.names]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    blend_NT = apply_blend(card, predictions_of(library))
    assert identity_gap(blend_NT).max() < 1e-9
    assert weighted_r2_score(library.truth_NT, blend_NT) == pytest.approx(card.in_sample_score, abs=1e-12)
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_a_target_that_never_varies_keeps_the_shared_weights():
    truth = truth_frame()
    truth["Dry_Clover_g"] = 0.0
    truth["GDM_g"] = truth["Dry_Green_g"]
    truth["Dry_Total_g"] = truth["GDM_g"] + truth["Dry_Dead_g"]
    library = library_from_arrays(["a", "b", "c"], member_predictions(truth, 3, noise=2.0), truth)
    card = fit_blend(library, BlendSpec(rule=Optimum(), per_target=True))
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
    plain, calibrated = (fit_blend(shy, BlendSpec(rule=TOP_MEAN, calibrate=flag)) for flag in (False, True))
    assert calibrated.nested_score > plain.nested_score + 0.05
    spec, gains = choose_follow_ups(shy, BlendSpec(rule=TOP_MEAN, tried=("calibration",)))
    assert spec == BlendSpec(rule=TOP_MEAN, calibrate=True) and list(gains) == ["calibration"]
    assert gains["calibration"].value == pytest.approx(calibrated.nested_score - plain.nested_score)
    assert gains["calibration"].low > 0
    blend_NT = apply_blend(calibrated, predictions_of(shy))
    assert weighted_r2_score(shy.truth_NT, blend_NT) == pytest.approx(calibrated.in_sample_score, abs=1e-12)
    np.testing.assert_allclose(
        fit_spec(shy, BlendSpec(rule=TOP_MEAN, calibrate=True)).slope_T,
        [calibrated.calibration[name][0] for name in TARGETS],
    )


def test_a_blend_refuses_predictions_that_do_not_fit():
    library = small_library(6)
    card = fit_blend(library, "top-3")
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
    card = fit_blend(library, "top-2")
    raw = {
        name: library.pred_MNT[0] + 5 * np.random.default_rng(k).normal(size=(60, 5))
        for k, name in enumerate(card.members)
    }
    blend_NT = apply_blend(card, raw)
    assert identity_gap(blend_NT).max() < 1e-9 and (blend_NT >= 0).all()


def test_an_old_card_is_refused_with_its_fields():
    content = fit_blend(small_library(3)).to_json()
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
    assert card.counted == "weighted R2" and card.target_norm is None
    with pytest.raises(ValueError, match=r"\[\] missing and \['rounds'\] unknown"):
        Card.from_json({**content, "rounds": 2})


@pytest.mark.parametrize("options", [{}, {"per_target": True, "calibrate": True}, {"tried": tuple(FOLLOW_UPS)}])
def test_the_page_fits_80_columns_and_names_what_was_left_out(options):
    library = replace(
        small_library(30),
        left_out=tuple((f"broken-{k}", "says nothing but NaN " * 6) for k in range(20)),
        merged=(("copy", "m01"),),
    )
    card = fit_blend(library, BlendSpec(rule=TopMean(20), **options))
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
    card = fit_blend(patchy, BlendSpec(rule=TOP_MEAN, zeros=True))
    assert card.floors["Dry_Clover_g"] > 1
    blend_NT = apply_blend(card, predictions_of(patchy))
    assert (blend_NT[::2, 2] == 0).mean() > 0.9
    assert weighted_r2_score(patchy.truth_NT, blend_NT) == pytest.approx(card.in_sample_score, abs=1e-12)
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_candidate_follow_ups_are_used_where_they_gain_and_the_nest_pays_for_the_decision():
    library = small_library(6, images=200, groups=20)
    shy = replace(library, pred_MNT=library.pred_MNT * 0.6)
    asked = BlendSpec(rule=TOP_MEAN, tried=("calibration", "zeros"))
    card = fit_blend(shy, asked)
    assert (
        "calibration" in card.follow_ups
        and card.calibration is not None
        and card.follow_up_gains["calibration"].low > 0
    )
    nested_RNT = nested_rows(shy, asked)
    for nest in range(5):  # each nest decides on its own rows, by inner nests
        held_C = assign_nests(shy.gram)[6] == nest
        spec, _ = choose_follow_ups(shy, asked, ~held_C, partitions=2)
        rows = np.isin(shy.group_N, shy.gram.group_C[held_C])
        by_hand_NT = fit_spec(shy, spec, ~held_C).blend(shy.pred_MNT[:, rows])
        np.testing.assert_allclose(nested_RNT[6, rows], by_hand_NT, atol=1e-9)
    sound = fit_blend(library, asked)
    gain = sound.follow_up_gains["calibration"]
    assert (sound.calibration is not None) == (gain.value > gain.se)
    with pytest.raises(ValueError, match="a follow-up is one of"):
        BlendSpec(rule=TOP_MEAN, tried=("sharpening",))


def test_the_first_candidate_is_the_defaults_blend_or_the_one_that_is_named():
    library = small_library(12, images=200, groups=20)
    found = choose_candidates(library, 3)
    assert replace(found[0].card, diversity=None) == replace(fit_blend(library), diversity=None)
    assert found[0].distance == 0
    assert len({candidate.card.chosen_rule for candidate in found}) == len(found) > 1
    named = choose_candidates(library, 2, first="top-7", follow_ups=("calibration",))
    assert named[0].card.rule == "top-7" and "calibration" in named[0].card.follow_up_gains
    assert named[1].card.rule == "candidate-2-after-top-7" and "calibration" in named[1].card.follow_up_gains


def test_a_candidates_card_pays_for_its_choice():
    library = small_library(12, images=200, groups=20)
    first, second = choose_candidates(library, 2)
    rule = rule_named(second.card.rule)
    assert second.card.nested_score == pytest.approx(nested(library.gram, rule).score)
    weight_M = RULES[second.card.chosen_rule](library.gram, 0)
    assert second.card.members == pytest.approx(
        {name: weight for name, weight in zip(library.names, weight_M, strict=True) if weight > 0}
    )
    other_NT, first_NT = (apply_blend(one.card, predictions_of(library)) for one in (second, first))
    weighted = ((other_NT - first_NT) ** 2 * [0.1, 0.1, 0.1, 0.2, 0.5]).sum(1).mean()
    assert second.distance == pytest.approx(float(np.sqrt(weighted)))
    assert len(choose_candidates(small_library(1), 4)) == 1
    with pytest.raises(ValueError, match="at least one candidate"):
        choose_candidates(library, 0)


def test_flips_are_used_where_they_gain_and_the_nest_pays_for_the_decision():
    library = small_library(8, images=200, groups=20)
    spec = BlendSpec(rule=TopMean(3))
    needed = members_in_nests(library, spec)
    assert set(fit_blend(library, spec).members) <= set(needed) < set(library.names)
    truth_NT = library.truth_NT
    better = {name: (library.pred_MNT[library.names.index(name)] + truth_NT) / 2 for name in needed}
    card = fit_blend(library, spec, flipped=Flipped(copies=4, pred_NT=better))
    assert card.flips == 4 and card.flips_gain.value > card.flips_gain.se
    assert card.nested_score > fit_blend(library, spec).nested_score + 0.05
    # every nest flips here, and its weights are those of the plain predictions
    flipped = replace(library, pred_MNT=Flipped(copies=4, pred_NT=better).beside(library))
    losses = []
    for _, training_C, rows in training_cells(library):
        blend_NT = fit_spec(library, spec, training_C).blend(flipped.pred_MNT)
        losses.append(squared_error(truth_NT[rows], blend_NT[rows]).sum())
    assert card.nested_score == pytest.approx(1 - sum(losses) / 8 / library.gram.sst)
    worse = {name: library.pred_MNT[library.names.index(name)] * 0.5 for name in needed}
    plain = fit_blend(library, spec, flipped=Flipped(copies=4, pred_NT=worse))
    assert plain.flips == 1 and plain.flips_gain.high < 0
    assert plain.nested_score == pytest.approx(fit_blend(library, spec).nested_score)


def test_folds_that_cut_dates_are_warned_of():
    library = small_library(8)
    assert fit_blend(library).cut_groups == 0 and "warning" not in page_of(fit_blend(library))
    cut = replace(library, fold_N=np.arange(60) % 5)
    card = fit_blend(cut)
    assert card.cut_groups == 10 and card.units == 10
    page = page_of(card)
    assert "warning: the folds cut 10 groups" in page and "trust this" not in page


def page_of(card):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_card(card), width=80)
    return console.export_text()


def test_units_of_states_leave_out_one_state_after_the_other():
    library = small_library(8, images=120, groups=12, noise=2.0)
    by_state = replace(library, unit_N=library.state_N, unit="state")
    card = fit_blend(by_state, TOP_MEAN)
    assert (card.nested_by, card.units) == ("state", 2)
    losses = 0.0
    for state in ("NSW", "Vic"):
        rows = library.state_N == state
        training_C = np.isin(library.gram.group_C, np.unique(library.group_N[~rows]))
        blend_NT = fit_spec(library, BlendSpec(rule=TOP_MEAN), training_C).blend(library.pred_MNT[:, rows])
        losses += squared_error(library.truth_NT[rows], blend_NT).sum()
    assert card.nested_score == pytest.approx(1 - losses / library.gram.sst)
