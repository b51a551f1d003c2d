"""Blends within a budget: the subset is that of brute force, banks count once, and scores are nested like any other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from small_libraries import small_library

from biomass_models.errors import UserError
from biomass_models.targets import FloatArray, weighted_r2_score
from ensembles.blend import fit_blend
from ensembles.budget import CURVE, ENUMERATED, Budgeted, PredictionCosts, budget_of
from ensembles.card import Card
from ensembles.card_page import render_card
from ensembles.choice import rule_named
from ensembles.members.library import Library
from ensembles.nests import fit_weights, nested
from ensembles.rules import Greedy, TopMean
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


def score_by_hand(library: Library, members: tuple[int, ...]) -> float:
    """Of the plain mean, from masses: no Gram."""
    return weighted_r2_score(library.truth_NT, library.pred_MNT[list(members)].mean(0), library.weight)


@pytest.mark.parametrize("seed", range(12))
def test_the_chosen_subset_is_that_of_brute_force(seed: int) -> None:
    library = small_library(members=8, images=40, seed=seed)
    costs, rng = drawn_costs(library, seed), np.random.default_rng(seed)
    prices = sorted(cost_by_hand(costs, members) for members in subsets(8))
    for seconds in [prices[0], *rng.uniform(prices[0], prices[-1], 4), prices[-1]]:
        paid = [members for members in subsets(8) if cost_by_hand(costs, members) <= seconds * (1 + 1e-12)]
        best = max(paid, key=lambda members: score_by_hand(library, members))
        found = Budgeted(DEFAULT, costs, float(seconds)).choose(library.gram)
        assert tuple(found) == best
        assert costs.seconds(found) == pytest.approx(cost_by_hand(costs, best))


@pytest.mark.parametrize("seed", range(3))
def test_more_members_than_are_enumerated_only_help(seed: int) -> None:
    """Beyond the subsets that are weighed up one by one: affordable, and no exchange of one member is better."""
    library = small_library(members=ENUMERATED + 8, images=60, seed=seed)
    costs = drawn_costs(library, seed)
    seconds = 2.5 * min(cost_by_hand(costs, (member,)) for member in range(len(library.names)))
    rule = Budgeted(DEFAULT, costs, seconds)
    found = tuple(int(member) for member in rule.choose(library.gram))
    assert cost_by_hand(costs, found) <= seconds * (1 + 1e-9)
    own = score_by_hand(library, found)
    for other in set(range(len(library.names))) - set(found):
        moves = [(*found, other), *((*(set(found) - {out}), other) for out in found)]
        for move in moves:
            if cost_by_hand(costs, move) <= seconds:
                assert score_by_hand(library, move) <= own + 1e-9


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
    assert min(Budgeted(DEFAULT, costs, 25.0).choose(library.gram)) >= 2
    with pytest.raises(UserError, match=r"cheapest takes 0\.17 min, got 0\.083 min; raise --budget-minutes"):
        Budgeted(DEFAULT, costs, 5.0)(library.gram, 0)


def budgeted_card(library: Library, costs: PredictionCosts, seconds: float) -> Card:
    rule = Budgeted(DEFAULT, costs, seconds)
    card = fit_blend(library, BlendSpec(rule=rule), 4)
    weight_M: FloatArray = np.array([card.members.get(name, 0.0) for name in library.names])
    return replace(card, budget=budget_of(library.gram, rule, weight_M, images=800, device="T4", seed=4))


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
    assert budget.next_member not in card.members and budget.next_minutes is not None
    assert budget.next_minutes > budget.minutes
    following = library.names.index(budget.next_member or "")
    assert 60 * budget.next_minutes == pytest.approx(cost_by_hand(costs, (*chosen, following)))
    again = Card.from_json(json.loads(json.dumps(card.to_json())))
    assert again == card and again.budget is not None
    rule = again.budget.rule(DEFAULT, library.names)
    assert (fit_weights(library.gram, rule, seed=4) == [card.members.get(name, 0.0) for name in library.names]).all()
    console = Console(width=80, record=True)
    console.print(render_card(card))
    text = console.export_text()
    assert "within" in text and "the next member would be" in text and max(map(len, text.splitlines())) <= 80
