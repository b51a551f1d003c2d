"""Blends within a budget: the blend is that of brute force, banks count once, and scores are nested like any other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from small_libraries import member_predictions, small_library, truth_frame

from biomass_models.errors import UserError
from biomass_models.targets import TARGETS, FloatArray, weighted_r2_score
from ensembles.blend import fit_blend
from ensembles.budget import CLOSE, CURVE, ENUMERATED, ROUNDING, WEIGHED, Budgeted, PredictionCosts, _next, budget_of
from ensembles.card import Card
from ensembles.card_page import render_card
from ensembles.choice import RULES, rule_named
from ensembles.members.library import Library, library_from_arrays
from ensembles.nests import fit_weights, nested
from ensembles.rules import Greedy, Optimum, Rule, TopMean
from ensembles.spec import BlendSpec, nested_rows

DEFAULT = rule_named("default")


def drawn_costs(library: Library, seed: int, units: int = 4) -> PredictionCosts:
    rng = np.random.default_rng([seed, 9])
    needs = {name: [f"bank{unit}" for unit in np.flatnonzero(rng.random(units) < 0.4)] for name in library.names}
    own = {name: float(rng.gamma(1.0, 5.0)) for name in library.names}
    return PredictionCosts.of(
        library.names, own, needs, {f"bank{unit}": float(rng.gamma(1, 30)) for unit in range(units)}
    )


def subsets(members: int) -> Iterator[tuple[int, ...]]:
    for size in range(1, members + 1):
        yield from itertools.combinations(range(members), size)


def cost_by_hand(costs: PredictionCosts, members: tuple[int, ...]) -> float:
    banks: set[int] = set()
    for member in members:
        banks |= set(np.flatnonzero(costs.needs_MU[member]).tolist())
    return sum(costs.own_M[member] for member in members) + sum(costs.shared_U[bank] for bank in banks)


def score_by_hand(library: Library, members: tuple[int, ...], weight_K: FloatArray) -> float:
    """From masses: no Gram."""
    blend_NT = np.einsum("k,knt->nt", weight_K, library.pred_MNT[list(members)])
    return weighted_r2_score(library.truth_NT, blend_NT, library.weight)


def best_by_brute_force(library: Library, costs: PredictionCosts, rule: Rule, seconds: float) -> float:
    """The best score of what the rule makes of any subset that can be paid for."""
    paid = [each for each in subsets(len(library.names)) if cost_by_hand(costs, each) <= seconds * (1 + 1e-12)]
    return max(score_by_hand(library, each, rule(library.gram.keep(each), 0)) for each in paid)


@pytest.mark.parametrize("rule", [DEFAULT, Greedy(), TopMean(2), Optimum()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("seed", range(6))
def test_the_blend_is_that_of_brute_force(rule: Rule, seed: int) -> None:
    """Over what the rule itself makes of each affordable subset, not over a stand-in for it."""
    library = small_library(members=7, images=40, seed=seed)
    costs, rng = drawn_costs(library, seed), np.random.default_rng(seed)
    own = cost_by_hand(costs, tuple(np.flatnonzero(rule(library.gram, 0))))
    least = min(cost_by_hand(costs, (member,)) for member in range(7))
    for seconds in [least, *rng.uniform(least, own, 4)]:
        weight_M = Budgeted(rule, costs, float(seconds))(library.gram, 0)
        chosen = tuple(np.flatnonzero(weight_M))
        assert cost_by_hand(costs, chosen) <= seconds * (1 + 1e-9)
        best = best_by_brute_force(library, costs, rule, float(seconds)) if seconds < own * (1 - 1e-9) else None
        if best is not None:
            assert score_by_hand(library, chosen, weight_M[list(chosen)]) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_more_members_than_are_enumerated_only_help(seed: int) -> None:
    """Beyond the subsets that are weighed up one by one: affordable, no exchange of one member makes the mean of one of
    them better, and what the rule makes of none of them is better."""
    library = small_library(members=ENUMERATED + 8, images=60, seed=seed)
    costs = drawn_costs(library, seed)
    seconds = 2.5 * min(cost_by_hand(costs, (member,)) for member in range(len(library.names)))
    rule, gram = Budgeted(DEFAULT, costs, seconds), library.gram
    loss = gram.loss_of(rule(gram, 0))
    tried = [tuple(int(member) for member in each) for each in rule._tried(gram, DEFAULT(gram, 0))]
    assert all(cost_by_hand(costs, members) <= seconds * (1 + 1e-9) for members in tried)
    assert all(loss <= _loss_of(library, DEFAULT, np.array(members)) + 1e-9 for members in tried)

    def mean_score(members: tuple[int, ...]) -> float:
        return score_by_hand(library, members, np.full(len(members), 1 / len(members)))

    best = max(tried, key=mean_score)
    for other in set(range(len(library.names))) - set(best):
        moves = [(*best, other), *((*(set(best) - {out}), other) for out in best)]
        assert all(
            mean_score(move) <= mean_score(best) + 1e-9 for move in moves if cost_by_hand(costs, move) <= seconds
        )


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_more_seconds_never_choose_a_blend_that_errs_more(rule: Rule) -> None:
    """Whether all subsets are tried or some, until the rule itself is paid for; and the next member is a new one."""
    beyond = 0
    for seed in range(6):
        library = small_library(members=8 + seed % 2, images=40, groups=5, seed=seed)  # few groups: few nests
        costs, gram, members = drawn_costs(library, seed, units=3), library.gram, 8 + seed % 2
        own = costs.seconds(np.flatnonzero(rule(gram, 0)))
        most = min(own * (1 - 1e-6), costs.seconds(np.arange(members)))
        price = np.array([cost_by_hand(costs, each) for each in subsets(members)])
        prices = np.unique(price[price <= most])
        if not len(prices):  # the rule itself is the cheapest
            continue
        last = np.inf
        for seconds in prices[np.linspace(0, len(prices) - 1, 12).astype(int)]:
            weight_M = Budgeted(rule, costs, float(seconds))(gram, 0)
            assert gram.loss_of(weight_M) <= last * (1 + 2 * ROUNDING), (seed, seconds)
            last = gram.loss_of(weight_M)
            beyond += (price <= seconds).sum() > WEIGHED
        half = Budgeted(rule, costs, float(prices[len(prices) // 2]))
        try:
            chosen = np.flatnonzero(fit_weights(gram, half, seed=0))
            following = _next(gram, half, chosen, 0)
        except UserError:  # some nest has no member that can be paid for
            continue
        assert following is None or following.member not in chosen
    assert beyond or rule.name in ("single-best", "top-5"), "no budget paid for more subsets than are tried"


def test_the_rules_own_members_are_tried_with_some_dropped() -> None:
    """Many members of a like plain mean crowd the tried subsets; the rule's own, but for one, are better than these."""
    library = small_library(members=ENUMERATED + 6, images=60, seed=4)
    rule = Greedy()
    own_M = rule(library.gram, 0)
    heavy = np.argsort(-own_M)[: (own_M > 0).sum()]
    lightest = library.names[heavy[-1]]
    costs = PredictionCosts.of(
        library.names, {name: 9.0 if name == lightest else 1.0 for name in library.names}, {}, {}
    )
    seconds = float(len(heavy) - 1)
    found = Budgeted(rule, costs, seconds)(library.gram, 0)
    kept = np.sort(heavy[:-1])
    assert library.gram.loss_of(found) <= _loss_of(library, rule, kept) + 1e-12


def _loss_of(library: Library, rule: Rule, members: np.ndarray) -> float:
    weight_M = np.zeros(len(library.names))
    weight_M[members] = rule(library.gram.keep(members), 0)
    return library.gram.loss_of(weight_M)


def test_a_budget_that_pays_for_all_changes_nothing() -> None:
    library = small_library(members=10)
    costs = drawn_costs(library, 1)
    every = np.arange(10)
    for rule in (DEFAULT, TopMean(3), Greedy()):
        whole = Budgeted(rule, costs, costs.seconds(every))
        assert (fit_weights(library.gram, whole) == fit_weights(library.gram, rule)).all()
        assert nested(library.gram, whole).score == nested(library.gram, rule).score


def test_weights_are_on_the_simplex_and_within_the_budget_in_every_nest() -> None:
    library = small_library(members=9)
    costs = drawn_costs(library, 3)
    seconds = 1.6 * min(costs.seconds([member]) for member in range(9))
    found = nested(library.gram, Budgeted(DEFAULT, costs, seconds))
    for weight_M in found.weight_RKM.reshape(-1, 9):
        assert weight_M.sum() == pytest.approx(1) and (weight_M >= 0).all()
        assert cost_by_hand(costs, tuple(np.flatnonzero(weight_M))) <= seconds * (1 + 1e-9)


def test_a_nest_does_not_see_the_rows_that_score_it() -> None:
    """Other truth in the held-out rows leaves the nest's members and weights as they are; in the others it does not."""
    library = small_library(members=8, seed=5)
    costs = drawn_costs(library, 5)
    rule = Budgeted(DEFAULT, costs, 0.6 * costs.seconds(np.arange(8)))
    plain = nested(library.gram, rule)
    held_C = plain.nest_RC[0] == 0
    rows = np.concatenate([cell for cell, held in zip(library.rows_of_cell, held_C, strict=True) if held])
    truth_NT = library.truth_NT.copy()
    truth_NT[rows] = truth_NT[rows][::-1]
    other = nested(replace(library, truth_NT=truth_NT).gram, rule)
    assert (other.weight_RKM[0, 0] == plain.weight_RKM[0, 0]).all()
    assert (other.weight_RKM[0, 1:] != plain.weight_RKM[0, 1:]).any()
    assert nested_rows(library, BlendSpec(rule=rule)).shape[1:] == library.truth_NT.shape


def test_what_is_not_known_is_not_chosen_and_what_nothing_pays_for_is_refused() -> None:
    library = small_library(members=6)
    known = dict.fromkeys(library.names[2:], 10.0)
    costs = PredictionCosts.of(library.names, known, {}, {})
    assert min(np.flatnonzero(Budgeted(DEFAULT, costs, 25.0)(library.gram, 0))) >= 2
    with pytest.raises(UserError, match=r"cheapest takes 0\.17 min, got 0\.083 min; raise --budget-minutes"):
        Budgeted(DEFAULT, costs, 5.0)(library.gram, 0)


@pytest.mark.parametrize("seconds", [{"dear": cost, "cheap": 60.0, "weak": 60.0} for cost in (3600.0, 90.0, None)])
def test_of_two_that_repeat_each_other_one_that_can_be_paid_for_stays(seconds: dict[str, float | None]) -> None:
    """The better one, where it can be paid for too. A card makes the same library again."""
    truth = truth_frame(images=40)
    dear_NT, weak_NT = member_predictions(truth, members=2)
    cheap_NT = dear_NT * 1.0002  # not coherent any more, which is mended
    weak_NT = weak_NT + np.random.default_rng(0).normal(0, 8, weak_NT.shape)
    truth_NT = truth[list(TARGETS)].to_numpy()
    better = [weighted_r2_score(truth_NT, pred_NT) for pred_NT in (dear_NT, cheap_NT)]
    if better[1] > better[0]:
        dear_NT, cheap_NT = cheap_NT, dear_NT
    given = ["dear", "cheap", "weak"], [dear_NT, cheap_NT, weak_NT], truth
    assert library_from_arrays(*given).merged == (("cheap", "dear"),)
    known = {name: cost for name, cost in seconds.items() if cost is not None}
    costs = PredictionCosts.of(given[0], known, {}, {})
    kept = "dear" if known.get("dear") == 90.0 else "cheap"
    library = library_from_arrays(*given, preferred=costs.paid_alone(100.0))
    assert set(library.names) == {kept, "weak"}
    of_library = PredictionCosts.of(library.names, known, {}, {})
    rule = Budgeted(TopMean(1), of_library, 100.0)
    weight_M = fit_weights(library.gram, rule)
    assert weight_M[library.names.index(kept)] == 1
    budget = budget_of(library.gram, rule, weight_M, images=800, device="T4", seed=0)
    again = library_from_arrays(*given, preferred=budget.paid_alone)
    assert (again.names, again.merged) == (library.names, library.merged)


def budgeted_card(library: Library, costs: PredictionCosts, seconds: float) -> Card:
    rule = Budgeted(DEFAULT, costs, seconds)
    card = fit_blend(library, BlendSpec(rule=rule), 4)
    weight_M: FloatArray = np.array([card.members.get(name, 0.0) for name in library.names])
    return replace(card, budget=budget_of(library.gram, rule, weight_M, images=800, device="T4", seed=4))


def shown(card: Card) -> str:
    console = Console(width=80, record=True)
    console.print(render_card(card))
    return console.export_text()


def test_the_card_says_what_the_budget_buys_and_survives_json() -> None:
    library = small_library(members=9, groups=20)
    costs = drawn_costs(library, 2)
    seconds = 1.5 * min(costs.seconds([member]) for member in range(9))
    card = budgeted_card(library, costs, seconds)
    budget = card.budget
    assert budget is not None and 60 * budget.minutes == pytest.approx(seconds)
    chosen = tuple(library.names.index(name) for name in card.members)
    assert 60 * budget.used_minutes == pytest.approx(cost_by_hand(costs, chosen))
    assert budget.used_minutes <= budget.minutes
    assert all(point.used_minutes <= point.minutes * (1 + 1e-9) for point in budget.curve)
    assert {round(point.minutes / budget.minutes, 6) for point in budget.curve} <= {round(share, 6) for share in CURVE}
    (own,) = [point for point in budget.curve if point.minutes == budget.minutes]
    assert own.nested_score == pytest.approx(card.nested_score, abs=1e-9) and own.members == len(card.members)
    again = Card.from_json(json.loads(json.dumps(card.to_json())))
    assert again == card and again.budget is not None
    rule = again.budget.rule(DEFAULT, library.names)
    assert (fit_weights(library.gram, rule, seed=4) == [card.members.get(name, 0.0) for name in library.names]).all()
    text = shown(card)
    assert "within" in text and "the next member would be" in text and max(map(len, text.splitlines())) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_the_next_member_is_one_that_more_minutes_buy(seed: int) -> None:
    """From just so many minutes on, by the rule within them; and none is named where the rule's own are paid for."""
    library = small_library(members=7, images=40, seed=seed)
    costs = drawn_costs(library, seed)
    own = costs.seconds(np.flatnonzero(fit_weights(library.gram, DEFAULT, seed=4)))
    whole = budgeted_card(library, costs, own)
    assert whole.budget is not None and (whole.budget.next_member, whole.budget.next_gain) == (None, None)
    assert "more minutes buy no other blend" in shown(whole)
    try:
        card = budgeted_card(library, costs, 0.8 * own)
    except UserError:  # some nest has no member that can be paid for
        return
    budget = card.budget
    assert budget is not None and budget.next_member is not None and budget.next_minutes is not None
    assert budget.minutes < budget.next_minutes <= own / 60 * (1 + 1e-9) and budget.next_gain is not None
    least = Budgeted(DEFAULT, costs, 60 * budget.next_minutes)
    assert fit_weights(library.gram, least, seed=4)[library.names.index(budget.next_member)] > 0
    gained = nested(library.gram, least, seed=4).score - card.nested_score
    assert budget.next_gain.value == pytest.approx(gained, abs=1e-9)
    between = sorted(cost_by_hand(costs, members) for members in subsets(7))
    for seconds in between:
        if 60 * budget.minutes < seconds < 60 * budget.next_minutes * (1 - 2 * CLOSE):
            weight_M = fit_weights(library.gram, Budgeted(DEFAULT, costs, seconds), seed=4)
            assert {library.names[member] for member in np.flatnonzero(weight_M)} == set(card.members)


def test_a_card_whose_next_member_no_money_bought_is_read_and_not_believed() -> None:
    library = small_library(members=7, images=40)
    costs = drawn_costs(library, 0)
    content = budgeted_card(library, costs, costs.seconds(np.arange(7))).to_json()
    del content["budget"]["next_gain"]
    card = Card.from_json(json.loads(json.dumps(content | {"budget": content["budget"] | {"next_member": "m01"}})))
    assert "the next member" not in shown(card) and "more minutes" not in shown(card)
