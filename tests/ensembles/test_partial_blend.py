"""Blends where not every mass was measured: fitted, scored and shown by what was."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from small_libraries import (
    PARTIAL,
    likely_states,
    member_predictions,
    partial_frame,
    partial_weights,
    small_library,
    truth_frame,
)

from biomass_models.errors import UserError
from biomass_models.targets import (
    CLOVER,
    FROM_COMPONENTS,
    TARGETS,
    TOTAL,
    project_coherent,
    weight_T,
    weighted_r2_score,
    weights_in,
    weights_of,
)
from ensembles.blend import apply_blend, fit_blend
from ensembles.candidates import choose_candidates
from ensembles.card import Card
from ensembles.card_page import render_card
from ensembles.choice import RULES, TOP_MEAN
from ensembles.flips import Flipped, members_in_nests
from ensembles.measured import SHORT, counted_text, measured_targets, require_all_measured
from ensembles.members.library import Library, library_from_arrays
from ensembles.nests import nested
from ensembles.rules import Greedy, TopMean
from ensembles.scorer import Scorer
from ensembles.spec import FOLLOW_UPS, PRIOR_IMAGES, BlendSpec, calibration, floors, nested_rows, with_zeros

pytestmark = pytest.mark.slow

NAMES = [f"m{member}" for member in range(8)]
SPECS = {
    "per target": {"per_target": True},
    "calibration": {"calibrate": True},
    "zeros": {"zeros": True},
    "all": {"per_target": True, "calibrate": True, "zeros": True},
    "tried": {"tried": tuple(FOLLOW_UPS)},
}


def raw_predictions(images: int = 60) -> np.ndarray:
    """[8, N, 5] grams, off the identities, with too much where there is little."""
    rng = np.random.default_rng(1)
    return member_predictions(truth_frame(images), len(NAMES)) + rng.normal(1, 1, (len(NAMES), images, 5))


def partial_library(kind: str, fill: float = np.nan, pred_fill: float = np.nan) -> Library:
    """fill: what stands where nothing was measured; pred_fill: in predictions of what never was."""
    never_T = ~(partial_weights(kind) > 0).any(0)
    truth = partial_frame(kind, fill=fill)
    library = library_from_arrays(NAMES, np.where(never_T, pred_fill, raw_predictions()), truth)
    return replace(library, states=likely_states(truth))


def page_of(card: Card) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_card(card), width=80)
    return console.export_text()


@pytest.mark.parametrize("rule", RULES)
def test_of_totals_alone_every_rule_is_scored_by_the_r2_of_the_total(rule):
    library = partial_library("total")
    card = fit_blend(library, rule, references={"ref": raw_predictions()[0] + 9})
    truth_N = library.truth_NT[:, TOTAL]
    blend_NT = apply_blend(card, dict(zip(NAMES, raw_predictions(), strict=True)))
    assert np.isnan(blend_NT[:, :TOTAL]).all() and (blend_NT[:, TOTAL] >= 0).all()
    assert card.in_sample_score == pytest.approx(r2_score(truth_N, blend_NT[:, TOTAL]), abs=1e-12)
    rows_RN = nested_rows(library, BlendSpec(rule=RULES[rule]))[..., TOTAL]
    expected = np.mean([r2_score(truth_N, rows_N) for rows_N in rows_RN])
    assert card.nested_score == pytest.approx(expected, abs=1e-12)
    assert card.nested_score == pytest.approx(nested(library.gram, RULES[rule]).score, abs=1e-9)
    assert card.targets.keys() == {"Dry_Total_g"} and "ref" in card.versus
    assert card.targets["Dry_Total_g"].nested_r2 == pytest.approx(card.nested_score)
    assert card.counted == "R2 of total; not measured here: green, dead, clover, GDM"
    assert Card.from_json(json.loads(json.dumps(card.to_json(), allow_nan=False))) == card


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, SPECS[name]) for kind in PARTIAL for name in SPECS if name != "tried" or kind == "total"],
)
def test_follow_ups_are_fitted_on_what_was_measured(kind, options):
    library = partial_library(kind)
    spec = BlendSpec(rule=RULES["default"], **options)
    card = fit_blend(library, spec)
    blend_NT = apply_blend(card, dict(zip(NAMES, raw_predictions(), strict=True)))
    score = weighted_r2_score(library.truth_NT, blend_NT, library.weight)
    assert score == pytest.approx(card.in_sample_score, abs=1e-12)
    rows_RNT = nested_rows(library, spec)
    scores = [weighted_r2_score(library.truth_NT, rows_NT, library.weight) for rows_NT in rows_RNT]
    assert card.nested_score == pytest.approx(np.mean(scores), abs=1e-12)
    measured_T = library.norm_T > 0
    for mass_NT in (blend_NT, rows_RNT):
        assert np.isnan(mass_NT[..., ~measured_T]).all() and (mass_NT[..., measured_T] >= 0).all()
        np.testing.assert_allclose(
            project_coherent(mass_NT, library.norm_T)[..., measured_T], mass_NT[..., measured_T], atol=1e-9
        )
    for known in (card.targets, card.target_weights, card.calibration):
        assert known is None or tuple(known) == measured_targets(library.weight)
    assert Card.from_json(json.loads(json.dumps(card.to_json(), allow_nan=False))) == card


@pytest.mark.parametrize(
    ("kind", "options"),
    [*((kind, {}) for kind in PARTIAL), *((kind, SPECS["all"]) for kind in PARTIAL), (PARTIAL[1], SPECS["tried"])],
)
def test_what_stands_where_nothing_was_measured_changes_no_byte_of_a_blend(kind, options):
    def content(fill: float) -> tuple[str, bytes]:
        library, spec = partial_library(kind, fill, fill), BlendSpec(rule=TOP_MEAN, **options)
        references = {"mean": np.tile(library.pred_MNT[0].mean(0), (60, 1))}
        card = fit_blend(library, spec, references=references)
        rows = nested_rows(library, replace(spec, tried=())).tobytes()
        return json.dumps(card.to_json()), rows + b"".join(factor.tobytes() for factor in library.gram.factors)

    assert content(0.0) == content(1e9) == content(np.nan)


@pytest.mark.parametrize("kind", PARTIAL)
def test_what_stands_where_nothing_was_measured_changes_no_weight_of_a_rule(kind):
    one, other = partial_library(kind, 1e9, 1e9).gram, partial_library(kind).gram
    for rule in RULES.values():
        assert rule(one, 3).tobytes() == rule(other, 3).tobytes()


def test_scores_by_target_and_state_are_of_the_cells_that_were_measured():
    library = partial_library("total, some all")
    card = fit_blend(library, "greedy")
    rows_RNT = nested_rows(library, BlendSpec(rule=Greedy()))
    for target, name in enumerate(TARGETS):
        known_N = np.isfinite(library.truth_NT[:, target])
        truth_N = library.truth_NT[known_N, target]
        r2 = np.mean([r2_score(truth_N, rows_NT[known_N, target]) for rows_NT in rows_RNT])
        assert card.targets[name].nested_r2 == pytest.approx(r2)
        error = ((truth_N - rows_RNT[:, known_N, target]) ** 2).mean()
        assert card.targets[name].nested_rmse == pytest.approx(np.sqrt(error))
    for state, score in card.state_scores.items():
        rows = library.state_N == state
        own = weights_in(library.weight, rows)
        scores = [weighted_r2_score(library.truth_NT[rows], rows_NT[rows], own) for rows_NT in rows_RNT]
        assert score == pytest.approx(np.mean(scores))


@pytest.mark.parametrize("options", [{}, SPECS["all"]], ids=["plain", "all"])
def test_published_weights_of_cells_give_the_published_card(options):
    library = small_library(10)
    spec = BlendSpec(rule=RULES["default"], **options)
    found, expected = (
        fit_blend(one, spec).to_json() for one in (replace(library, given_weight=np.tile(weight_T, (60, 1))), library)
    )
    assert found.pop("target_norm") == dict(zip(TARGETS, weight_T, strict=True)) and not expected.pop("target_norm")

    moved = [pair for pair in zip(leaves(found), leaves(expected), strict=True) if pair[0] != pair[1]]
    assert all(isinstance(new, float) and new == pytest.approx(old, rel=1e-11, abs=1e-12) for new, old in moved)


def leaves(content: object) -> list[object]:
    """What a card in JSON holds, names and numbers, in its order."""
    if isinstance(content, dict):
        return [leaf for key, value in content.items() for leaf in (key, *leaves(value))]
    return [leaf for value in content for leaf in leaves(value)] if isinstance(content, list) else [content]


def test_calibration_and_floors_by_brute_force():
    rng = np.random.default_rng(0)
    truth_N3 = rng.gamma(2, 8, (60, 3)) * (rng.random((60, 3)) < [0.9, 0.8, 0.4])
    pred_NT = np.maximum(truth_N3 + rng.gamma(1, 2, (60, 3)), 0) @ FROM_COMPONENTS.T
    weight = partial_weights("some clover, own weights")
    truth_NT = np.where(weight > 0, truth_N3 @ FROM_COMPONENTS.T, np.nan)
    slope_T, offset_T = calibration(truth_NT, pred_NT, weight)
    for target in (CLOVER, TOTAL):
        own_N = weight[:, target]
        known_N = own_N > 0
        fitted = LinearRegression().fit(pred_NT[known_N, target, None], truth_NT[known_N, target], own_N[known_N])
        images = own_N.sum() / own_N.max()
        share = PRIOR_IMAGES / (images + PRIOR_IMAGES)
        assert slope_T[target] == pytest.approx(share + (1 - share) * fitted.coef_[0])
    assert (slope_T[[0, 1, 3]] == 1).all() and (offset_T[[0, 1, 3]] == 0).all()

    known_NT = project_coherent(pred_NT, weight.max(0))
    floor_3 = floors(truth_NT, known_NT, weight)
    assert floor_3[CLOVER] > 0 and (floor_3[:CLOVER] == 0).all()

    def score(floor: float) -> float:
        return weighted_r2_score(truth_NT, with_zeros(known_NT, np.array([0, 0, floor])), weight)

    assert score(floor_3[CLOVER]) == pytest.approx(max(map(score, [0.0, *known_NT[:, CLOVER]])), abs=1e-12)
    zeroed_NT, low_N = with_zeros(known_NT, floor_3), known_NT[:, CLOVER] <= floor_3[CLOVER]
    assert (zeroed_NT[low_N, CLOVER] == 0).all()
    gone_N = np.where(low_N, known_NT[:, CLOVER], 0.0)
    np.testing.assert_allclose(zeroed_NT[:, TOTAL], known_NT[:, TOTAL] - gone_N, atol=1e-12)


def test_a_target_that_was_never_measured_has_no_weights_of_its_own():
    library = partial_library("total and clover")
    assert [gram.sst > 0 for gram in library.target_grams] == [False, False, True, False, True]


def test_a_member_that_is_best_of_all_but_in_no_measured_target_is_none_of_the_blend():
    truth_NT = truth_frame()[list(TARGETS)].to_numpy()
    error_NT = np.random.default_rng(0).normal(0, 1, truth_NT.shape)
    scales = {"both": (2.0, 2.0), "clover": (0.1, 9.0), "total": (9.0, 0.1)}  # of the errors of clover and total
    pred_MNT = [truth_NT + error_NT * [5, 5, clover, 5, total] for clover, total in scales.values()]
    library = library_from_arrays(list(scales), pred_MNT, partial_frame("total and clover"))
    best = TopMean(1)
    assert set(fit_blend(library, best).members) == {"both"}
    card = fit_blend(library, BlendSpec(rule=best, per_target=True))
    assert card.target_weights == {"Dry_Clover_g": {"clover": 1.0}, "Dry_Total_g": {"total": 1.0}}
    assert card.members == {"clover": 0.5, "total": 0.5}
    assert tuple(members_in_nests(library, BlendSpec(rule=best, per_target=True))) == ("clover", "total")


@pytest.mark.parametrize("kind", ["total", "some clover, own weights"])
def test_candidates_and_flips_are_compared_on_what_was_measured(kind):
    library = partial_library(kind)
    for candidate in choose_candidates(library, 2):
        assert np.isfinite(candidate.card.nested_score) and np.isfinite(candidate.distance)
    spec = BlendSpec(rule=TOP_MEAN)
    raw = dict(zip(NAMES, raw_predictions(), strict=True))
    better = {name: 0.7 * raw[name] + 0.3 * truth_frame()[list(TARGETS)].to_numpy() for name in NAMES}
    assert set(members_in_nests(library, spec)) <= set(NAMES)
    card = fit_blend(library, spec, flipped=Flipped(copies=2, pred_NT=better))
    assert card.flips == 2 and card.nested_score > fit_blend(library, spec).nested_score


@pytest.mark.parametrize("kind", PARTIAL)
def test_the_page_has_no_number_of_what_was_never_measured(kind):
    card = fit_blend(partial_library(kind), BlendSpec(rule=RULES["default"], **SPECS["all"]))
    page = page_of(card)
    assert max(map(len, page.splitlines())) <= 80
    weight = partial_weights(kind)
    assert " ".join(f"scores are {counted_text(weight)}".split()) in " ".join(page.split())
    for name in TARGETS:
        assert (name in page) == (name in measured_targets(weight))
    assert "scores are" not in page_of(fit_blend(small_library()))


def test_what_a_score_counts_in_words():
    texts = {
        "total": "R2 of total; not measured here: green, dead, clover, GDM",
        "total and clover": "weighted R2 of total, clover; not measured here: green, dead, GDM",
        "total, some all": "weighted R2 of total, GDM (30 of 60), green (30 of 60), dead (30 of 60), clover (30 of 60)",
        "some clover, own weights": "weighted R2 (own weights) of clover (30 of 60), total; "
        "not measured here: green, dead, GDM",
    }
    assert {kind: counted_text(partial_weights(kind)) for kind in PARTIAL} == texts
    assert counted_text(weight_T) == "weighted R2"
    several = np.tile(weight_T, (4, 1)) / [[1], [1], [2], [2]]
    assert counted_text(several) == "weighted R2"  # several photographs of a quadrat, all measured
    assert counted_text(np.ones((4, 5))) == "weighted R2 (own weights)"
    require_all_measured(weight_T)
    require_all_measured(partial_weights("total, some all"))
    with pytest.raises(UserError, match="all five masses, not measured here: green, dead, GDM"):
        require_all_measured(partial_weights("total and clover"))


@pytest.mark.parametrize("kind", PARTIAL)
def test_a_scorer_counts_what_was_measured(kind):
    pred_NT, other_NT = raw_predictions()[:2]

    def scored(fill: float) -> tuple[Scorer, tuple[float, ...]]:
        truth = partial_frame(kind, fill=fill)
        scorer = Scorer(truth.assign(unit=truth["group"]))
        hidden_NT = np.where(partial_weights(kind) > 0, pred_NT, fill)
        score, gain = scorer.score(hidden_NT), scorer.gain(np.stack([hidden_NT, hidden_NT]), other_NT)
        return scorer, (score.value, score.se, score.low, score.high, gain.value, gain.se)

    scorer, numbers = scored(np.nan)
    weight = scorer.weight
    assert numbers[0] == pytest.approx(weighted_r2_score(scorer.truth_NT, pred_NT, weight), abs=1e-12)
    gain = numbers[0] - weighted_r2_score(scorer.truth_NT, other_NT, weight)
    assert numbers[4] == pytest.approx(gain, abs=1e-12)
    assert scorer.units == 10 and scored(0.0)[1] == scored(1e9)[1] == numbers


def test_a_unit_in_which_nothing_counts_is_no_unit():
    truth = truth_frame()
    weight = np.where((truth["group"] == "d03").to_numpy()[:, None], 0.0, np.tile(weight_T, (60, 1)))
    names = [f"weight_{name}" for name in TARGETS]
    scorer = Scorer(truth.assign(unit=truth["group"], **dict(zip(names, weight.T, strict=True))))
    kept = truth[truth["group"] != "d03"]
    without = Scorer(kept.assign(unit=kept["group"]))
    pred_NT = raw_predictions()[0]
    found, expected = scorer.score(pred_NT), without.score(pred_NT[(truth["group"] != "d03").to_numpy()])
    assert (scorer.units, found.value, found.se) == pytest.approx((9, expected.value, expected.se))


def test_masses_that_do_not_differ_without_the_scored_part_are_refused():
    truth = truth_frame(4, groups=2, folds=2)
    truth_NT = truth[list(TARGETS)].to_numpy().copy()
    truth_NT[:, :TOTAL] = np.nan
    truth_NT[:, TOTAL] = [3.0, 3.0, 3.0, 3.0]
    truth_NT[np.flatnonzero(truth["group"] == "d00")[0], TOTAL] = 9.0
    truth[list(TARGETS)] = truth_NT
    pred = np.where(np.isnan(truth_NT), 1.0, truth_NT) + np.array([[0.3], [0.1], [0.2], [0.4]])
    library = Library(
        names=("a",),
        pred_MNT=project_coherent(pred[None], weights_of(truth_NT).max(0)),
        truth_NT=truth_NT,
        image_id_N=truth["image_id"].to_numpy().astype(np.str_),
        fold_N=truth["fold"].to_numpy(),
        group_N=truth["group"].to_numpy().astype(np.str_),
    )
    with pytest.raises(UserError, match="masses that differ"):
        fit_blend(library)


def test_short_names_are_those_of_all_targets():
    assert tuple(SHORT) == TARGETS
