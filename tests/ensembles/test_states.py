"""The state rule: a component that a likely state never has is 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_libraries import small_library

from biomass_models.errors import UserError
from biomass_models.targets import CLOVER, FROM_COMPONENTS, TARGETS, TOTAL, FloatArray, weight_T, weighted_r2_score
from ensembles.blend import apply_blend, fit_blend
from ensembles.card import Card
from ensembles.members.library import Library
from ensembles.rules import TopMean
from ensembles.spec import BlendSpec, nested_rows, training_cells
from ensembles.states import FEWEST, StateRule, States, fit_state_rule, without

pytestmark = pytest.mark.slow

RULE = BlendSpec(rule=TopMean(3), state=True)
TRIED = BlendSpec(rule=TopMean(3), tried=("state",))


def masses(*rows: tuple[float, float, float]) -> FloatArray:
    return np.array(rows, dtype=float) @ FROM_COMPONENTS.T


def test_by_hand() -> None:
    """Two states, A without clover. Rows of A predict 4 g of it; one row of B looks like A by .75, and has 10 g."""
    truth_NT = masses(*[(10.0, 5.0, 0.0)] * FEWEST, (10, 5, 10), (10, 5, 10))
    pred_NT = masses(*[(10.0, 5.0, 4.0)] * FEWEST, (10, 5, 10), (10, 5, 10))
    state_N = np.array([*"A" * FEWEST, "B", "B"])
    a_N = np.array([*[0.85] * FEWEST, 0.75, 0.1])
    likely_NS = np.column_stack([a_N, 1 - a_N])
    rule = fit_state_rule(truth_NT, pred_NT, weight_T, state_N, ("A", "B"), likely_NS)
    assert rule.absent_S3.tolist() == [[False, False, True], [False, False, False]]
    assert rule.threshold == 0.8  # 0.9 strikes nothing, 0.7 strikes the row of B as well: 0.8 is the one between
    found_NT = rule.apply(pred_NT, likely_NS)
    np.testing.assert_array_equal(found_NT, truth_NT)
    assert found_NT[0].tolist() == [10, 5, 0, 10, 15]


def test_few_rows_and_unmeasured_ones_say_nothing() -> None:
    truth_NT = masses(*[(10.0, 5.0, 0.0)] * FEWEST, (10, 5, 3))
    pred_NT, state_N = truth_NT + masses((0, 0, 1)), np.array([*"A" * FEWEST, "B"])
    likely_NS = np.column_stack([state_N == "A", state_N == "B"]).astype(float)

    def fitted(truth_NT: FloatArray, weight: FloatArray) -> StateRule:
        return fit_state_rule(truth_NT, pred_NT, weight, state_N, ("A", "B"), likely_NS)

    assert fitted(truth_NT, weight_T).absent_S3[0, CLOVER]
    weight_NT = np.tile(weight_T, (len(truth_NT), 1))
    weight_NT[0, CLOVER] = 0.0
    for junk in (np.nan, 0.0, 1e9):
        junk_NT = truth_NT.copy()
        junk_NT[0, CLOVER] = junk
        rule = fitted(junk_NT, weight_NT)
        assert not rule.absent_S3.any() and rule.threshold == 1.0


def test_what_was_never_measured_stays_blank() -> None:
    pred_NT = masses((10, 5, 4))
    pred_NT[0, :2] = np.nan
    found_NT = without(pred_NT, np.array([[True, False, True]]))
    assert found_NT[0, TOTAL] == 15 and found_NT[0, CLOVER] == 0 and np.isnan(found_NT[0, :2]).all()


def world(seed: int, *, differs: bool, known: float = 6.0, rare: bool = False) -> Library:
    """A library whose states have their own chances, from scores of a normal distribution around +-known / 2.

    differs: whether Vic has no clover; rare: whether one photograph in 33 has any, in either state, so that training
    rows may lack it by luck. Members predict some all the same.
    """
    library = small_library(6, images=120, groups=24, seed=seed)
    rng, state_N = np.random.default_rng([seed, 7]), library.state_N
    assert state_N is not None
    component_N3, vic_N = library.truth_NT[:, :3].copy(), state_N == "Vic"
    if rare:
        component_N3[rng.random(120) > 0.03, CLOVER] = 0.0
    if differs:
        component_N3[vic_N, CLOVER] = 0.0
    truth_NT = component_N3 @ FROM_COMPONENTS.T
    error_MNT = library.pred_MNT - library.truth_NT
    pred_MNT = np.maximum((truth_NT + error_MNT)[..., :3], 0.0) @ FROM_COMPONENTS.T
    score_N = rng.normal(np.where(vic_N, known / 2, -known / 2), 1.0)
    vic_chance_N = 1 / (1 + np.exp(-known * score_N))
    states = States(names=("NSW", "Vic"), likely_NS=np.column_stack([1 - vic_chance_N, vic_chance_N]))
    return replace(library, pred_MNT=pred_MNT, truth_NT=truth_NT, states=states)


def nested(library: Library, spec: BlendSpec) -> float:
    rows_RNT = nested_rows(library, spec)
    return float(np.mean([weighted_r2_score(library.truth_NT, rows_NT) for rows_NT in rows_RNT]))


def test_nothing_of_a_nest_reaches_its_rows() -> None:
    library = world(0, differs=True)
    before_RNT = nested_rows(library, RULE)
    partition, _, rows = next(training_cells(library))
    state_N = library.state_N
    assert state_N is not None
    struck = rows[(state_N[rows] == "Vic") & (before_RNT[partition, rows, CLOVER] == 0)]
    assert len(struck) > 0
    truth_NT = library.truth_NT.copy()
    truth_NT[rows] = truth_NT[rows] * 3 + masses((5, 5, 5))  # clover in Vic, too
    after_RNT = nested_rows(replace(library, truth_NT=truth_NT), RULE)
    np.testing.assert_array_equal(before_RNT[partition, rows], after_RNT[partition, rows])
    others = np.setdiff1d(np.arange(len(truth_NT)), rows)
    assert (before_RNT[partition, others] != after_RNT[partition, others]).any()


def test_where_states_differ_it_gains_and_where_they_do_not_it_costs_nothing() -> None:
    """Nested scores, the decision paid for: 4 worlds each."""
    gains: dict[str, list[float]] = {}
    kinds = {
        "differs": {"differs": True},
        "alike": {"differs": False},
        "rare": {"differs": False, "rare": True},
        "unknown": {"differs": True, "known": 0.0},
    }
    for name, options in kinds.items():
        for seed in range(4):
            library = world(seed, **options)
            gains.setdefault(name, []).append(nested(library, TRIED) - nested(library, TRIED.using()))
    assert min(gains["differs"]) > 0.005 and np.mean(gains["differs"]) > 0.01
    assert gains["alike"] == [0.0] * 4  # no state lacks a component: there is nothing to strike
    assert min(gains["rare"]) > -0.002  # a component that is hardly there
    assert min(gains["unknown"]) > -0.002  # chances that say nothing


def test_the_card_keeps_the_rule_and_needs_the_chances() -> None:
    library = world(1, differs=True)
    card = fit_blend(library, TRIED)
    assert card.follow_ups == ("state",) and card.follow_up_gains["state"].value > 0
    assert card.state_rule is not None and card.state_rule.never == {"NSW": [], "Vic": ["Dry_Clover_g"]}
    assert Card.from_json(card.to_json()) == card
    assert library.states is not None
    members = dict(zip(library.names, library.pred_MNT, strict=True))
    blend_NT = apply_blend(card, members, library.states.likely_NS)
    vic_N = library.states.likely_NS[:, 1] > card.state_rule.threshold
    assert (blend_NT[vic_N, CLOVER] == 0).all() and (blend_NT[~vic_N, CLOVER] > 0).any()
    assert card.in_sample_score == pytest.approx(weighted_r2_score(library.truth_NT, blend_NT))
    with pytest.raises(UserError, match="how likely each photograph"):
        apply_blend(card, members)
    with pytest.raises(UserError, match="needs the state"):
        fit_blend(replace(library, states=None), RULE)
    assert set(card.targets) == set(TARGETS)
