"""Blends within a budget: members and weights of which predictions of so many photographs take no longer than that.

M members, U units of work that members share (a bank of frozen features is computed once, whoever asks for it).
own_M         seconds of a member alone; infinite where it is not known, so that it is never chosen
shared_U      seconds of a unit, once
needs_MU      which units a member needs

A rule within a budget is the rule itself where its members can be paid for. Else it is what the rule makes of an
affordable subset: of those that are tried, the one whose blend errs least on the cells that it is shown. Tried are, of
the ENUMERATED best members that can be paid for, the WEIGHED cheapest subsets (all, where no more can be paid for: then
no other is better) and those whose plain mean errs less than that of any cheaper one; the best of these, improved by
members beyond them, one added or exchanged at a time; and the rule's own members, dropped until the others can be paid
for, and on. With 20 and 40 made members, trying the WEIGHED subsets of the best means changed the nested score by -.003
to +.000, each ± .002 or so: no better. Being a rule, it is nested like any other: in each nest members are chosen
without the rows that score them.

What is tried for a budget is tried for a larger one as well, as long as no more than ENUMERATED members can be paid for
at all. So more seconds never choose a blend that errs more on the cells that are shown, but for the rule itself: it
comes in once it is paid for, whatever it makes of these cells. With more members than these that can be paid for, the
best of them are others for a larger budget, and nothing is promised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomass_models.errors import UserError
from biomass_models.targets import FloatArray
from ensembles.gram import ErrorGram
from ensembles.honest import Estimate, paired_difference, score_estimate
from ensembles.nests import fit_weights, nested_all
from ensembles.rules import Rule, ranking

ENUMERATED = 14  # members of which the plain mean of every subset is looked at
WEIGHED = 128  # cheapest subsets of which the rule is applied to each: all of 7 members
CURVE = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)  # budgets that are shown, as shares of the one that is asked for
ROUNDING = 1e-9  # relative, of a sum of seconds
CLOSE = 1e-3  # relative, of the least budget that buys another blend


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictionCosts:
    """Seconds that predictions of a number of photographs take, by member of a library."""

    names: tuple[str, ...]  # of the members
    own_M: FloatArray
    units: tuple[str, ...]
    shared_U: FloatArray
    needs_MU: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        own: Mapping[str, float],
        needs: Mapping[str, Sequence[str]],
        units: Mapping[str, float],
    ) -> PredictionCosts:
        """own: seconds by member, of those that are known; needs: units of each of them; units: seconds by unit."""
        known = tuple(sorted(units))
        column = {unit: place for place, unit in enumerate(known)}
        needs_MU = np.zeros((len(names), len(known)), dtype=bool)
        for row, name in enumerate(names):
            needs_MU[row, [column[unit] for unit in needs.get(name, ())]] = True
        return cls(
            names=tuple(names),
            own_M=np.array([own.get(name, np.inf) for name in names]),
            units=known,
            shared_U=np.array([units[unit] for unit in known], dtype=np.float64),
            needs_MU=needs_MU,
        )

    def seconds(self, members: Sequence[int] | NDArray[np.int64]) -> float:
        """Of these members together."""
        index = np.asarray(members, dtype=np.int64)
        return float(self.own_M[index].sum() + self.shared_U[self.needs_MU[index].any(0)].sum())

    def seconds_with(self, members: NDArray[np.int64], other_O: NDArray[np.int64]) -> FloatArray:
        """Of these members and one other each, [O]."""
        needs_OU = self.needs_MU[members].any(0) | self.needs_MU[other_O]
        return np.asarray(self.own_M[members].sum() + self.own_M[other_O] + needs_OU @ self.shared_U)

    def paid_alone(self, seconds: float) -> frozenset[str]:
        """Members of which each, without others, takes no longer."""
        return frozenset(name for row, name in enumerate(self.names) if self.seconds([row]) <= seconds * (1 + ROUNDING))


@dataclass(frozen=True, eq=False)
class Budgeted:
    """A rule within a budget of seconds."""

    rule: Rule
    costs: PredictionCosts
    seconds: float

    @property
    def name(self) -> str:
        return self.rule.name

    def __call__(self, problem: ErrorGram, seed: int) -> FloatArray:
        """Raises UserError where no member that is shown can be paid for."""
        place_M = problem.places
        own_M = self.rule(problem, seed)
        if self._affords(place_M[np.flatnonzero(own_M)]):
            return own_M
        gram_MM, best_M, least = problem.gram_MM, own_M, np.inf
        for members in self._tried(problem, own_M):
            weight_K = self.rule(problem.keep(members), seed)
            loss = float(weight_K @ gram_MM[np.ix_(members, members)] @ weight_K)
            if loss < least * (1 - ROUNDING):
                best_M, least = np.zeros(problem.members), loss
                best_M[members] = weight_K
        return best_M

    def _tried(self, problem: ErrorGram, own_M: FloatArray) -> list[NDArray[np.int64]]:
        """Affordable subsets, the fewest members first; own_M: weights of the rule without a budget."""
        place_M = problem.places
        affordable = [member for member in ranking(problem) if self._affords(place_M[[member]])]
        if not affordable:
            least = min(self.costs.seconds(place_M[[member]]) for member in range(problem.members))
            raise UserError(
                f"a budget pays for one member with skill at least, the cheapest takes {least / 60:.2g} min, got "
                f"{self.seconds / 60:.2g} min; raise --budget-minutes, or measure more members (doctor --profile)"
            )
        tried = self._enumerated(problem, np.array(affordable[:ENUMERATED], dtype=np.int64))
        if len(affordable) > ENUMERATED:
            tried.append(self._improved(problem, tried[0], affordable))
        tried += self._thinned(problem, own_M)
        different = dict.fromkeys(tuple(np.sort(members).tolist()) for members in tried)
        return [np.array(members, dtype=np.int64) for members in sorted(different, key=len)]

    @property
    def _most(self) -> float:
        """Seconds, so that a sum that is the budget but for rounding is paid for."""
        return self.seconds * (1 + ROUNDING)

    def _affords(self, places: NDArray[np.int64]) -> bool:
        return self.costs.seconds(places) <= self._most

    def _enumerated(self, problem: ErrorGram, member_K: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The cheapest affordable subsets of a few members, and those whose plain mean errs less than that of any
        cheaper one. The best mean comes first. Every subset is built up member by member.

        Neither list loses a subset when the budget grows: a larger one only adds subsets that cost more.
        """
        gram_KK, places = problem.gram_MM[np.ix_(member_K, member_K)], problem.places[member_K]
        own_K, needs_KU = self.costs.own_M[places], self.costs.needs_MU[places]
        size = 1 << len(member_K)
        total, own, count = np.zeros(size), np.zeros(size), np.zeros(size, dtype=np.int64)
        needs = np.zeros((size, needs_KU.shape[1]), dtype=bool)
        row_K = np.zeros((size, len(member_K)))  # sums of Gram rows of each subset
        for member in range(len(member_K)):
            half = 1 << member
            low, high = slice(0, half), slice(half, 2 * half)
            total[high] = total[low] + 2 * row_K[low, member] + gram_KK[member, member]
            row_K[high] = row_K[low] + gram_KK[member]
            own[high], count[high] = own[low] + own_K[member], count[low] + 1
            needs[high] = needs[low] | needs_KU[member]
        seconds = own + needs @ self.costs.shared_U
        paid = np.flatnonzero((count > 0) & (seconds <= self._most))
        loss = total[paid] / count[paid] ** 2
        order = np.lexsort((count[paid], loss, seconds[paid].round(6)))  # rounding must not rank one sum before another
        better = np.diff(np.minimum.accumulate(loss[order]), prepend=np.inf) < 0
        chosen = dict.fromkeys([*paid[order[better]][::-1].tolist(), *paid[order[:WEIGHED]].tolist()])
        bit_K = np.arange(len(member_K))
        return [member_K[(subset >> bit_K & 1).astype(bool)] for subset in chosen]

    def _improved(self, problem: ErrorGram, chosen: NDArray[np.int64], affordable: Sequence[int]) -> NDArray[np.int64]:
        """One member added or exchanged at a time, as long as the mean errs less."""
        gram_MM, place_M = problem.gram_MM, problem.places
        current = [int(member) for member in chosen]
        least = float(gram_MM[np.ix_(current, current)].mean())
        while True:
            other_O = np.array([member for member in affordable if member not in current], dtype=np.int64)
            found = None
            for out in (None, *current):
                kept = np.array([member for member in current if member != out], dtype=np.int64)
                total_O = 2 * gram_MM[np.ix_(kept, other_O)].sum(0) + gram_MM[other_O, other_O]
                loss_O = (gram_MM[np.ix_(kept, kept)].sum() + total_O) / (len(kept) + 1) ** 2
                loss_O[self.costs.seconds_with(place_M[kept], place_M[other_O]) > self._most] = np.inf
                if len(other_O) and loss_O.min() < least * (1 - ROUNDING):
                    least, found = float(loss_O.min()), [*kept.tolist(), int(other_O[loss_O.argmin()])]
            if found is None:
                return np.array(current, dtype=np.int64)
            current = found

    def _thinned(self, problem: ErrorGram, own_M: FloatArray) -> list[NDArray[np.int64]]:
        """The rule's own members, one dropped at a time: each set of others that can be paid for. The weights of the
        others stand as they are to one another. Dropped is what costs least error for each second that it saves: the
        same one for every budget, so that a smaller budget's sets are among a larger one's."""
        gram_MM, place_M = problem.gram_MM, problem.places
        known_M = np.isfinite(self.costs.own_M[place_M])  # what was never measured goes first
        members = [int(member) for member in np.flatnonzero((own_M > 0) & known_M)]
        found: list[NDArray[np.int64]] = []
        while members:
            if self._affords(place_M[members]):
                found.append(np.array(members, dtype=np.int64))
            seconds = self.costs.seconds(place_M[members])
            rests = [[kept for kept in members if kept != out] for out in members]
            saved = np.array([seconds - self.costs.seconds(place_M[rest]) for rest in rests])
            if len(members) == 1 or not (saved > 0).any():
                break
            shares = [own_M[rest] / own_M[rest].sum() for rest in rests]
            loss = np.array([float(w @ gram_MM[np.ix_(rest, rest)] @ w) for w, rest in zip(shares, rests, strict=True)])
            # losses above the least one: a member whose loss gains is dropped for nothing
            price = np.where(saved > 0, (loss - loss.min()) / np.where(saved > 0, saved, 1.0), np.inf)
            members = rests[int(np.argmin(price))]
        return found


@dataclass(frozen=True, kw_only=True)
class BudgetPoint:
    """What a budget buys."""

    minutes: float  # the budget
    nested_score: float
    nested_se: float
    members: int
    used_minutes: float  # of its blend


@dataclass(frozen=True, kw_only=True)
class CardBudget:
    """The budget of a blend, and what its members cost: enough to make the blend again."""

    minutes: float
    images: int
    device: str
    used_minutes: float  # of the card's blend
    curve: tuple[BudgetPoint, ...]
    next_member: str | None  # the heaviest one that comes in where more minutes buy another blend; None: none do
    next_minutes: float | None  # the least that buy one
    own: Mapping[str, float]  # seconds by member, for all images
    needs: Mapping[str, tuple[str, ...]]  # units by member
    units: Mapping[str, float]  # seconds by unit
    unknown: int = 0  # members without a known cost, which could not be chosen
    next_gain: Estimate | None = None  # of the nested score; None as well in cards that named a member no money bought

    def __str__(self) -> str:
        return f"{self.minutes:.3g} min on {self.device}"

    @property
    def paid_alone(self) -> frozenset[str]:
        """Members that it pays for: these stay where they repeat a better one that it does not pay for."""
        return PredictionCosts.of(tuple(self.own), self.own, self.needs, self.units).paid_alone(60 * self.minutes)

    def rule(self, rule: Rule, names: Sequence[str]) -> Budgeted:
        """A rule within this budget; names: of the library."""
        costs = PredictionCosts.of(names, self.own, self.needs, self.units)
        return Budgeted(rule, costs, 60 * self.minutes)


def budget_of(
    gram: ErrorGram, rule: Budgeted, weight_M: FloatArray, *, images: int, device: str, seed: int
) -> CardBudget:
    """What a card says of its budget. weight_M: of the blend."""
    costs, minutes = rule.costs, rule.seconds / 60
    known = [row for row, own in enumerate(costs.own_M) if np.isfinite(own)]
    least = min(costs.seconds([row]) for row in known)
    rules = [Budgeted(rule.rule, costs, rule.seconds * share) for share in CURVE if rule.seconds * share >= least]
    points = []
    for one in rules:
        try:
            (found,) = nested_all(gram, [one], seed=seed)
            own_M = fit_weights(gram, one, seed=seed)
        except UserError:  # some nest has no member that can be paid for
            continue
        estimate, support = score_estimate(gram, found.loss_RC), np.flatnonzero(own_M)
        points.append(
            BudgetPoint(
                minutes=one.seconds / 60,
                nested_score=estimate.value,
                nested_se=estimate.se,
                members=len(support),
                used_minutes=costs.seconds(support) / 60,
            )
        )
    chosen = np.flatnonzero(weight_M)
    following = _next(gram, rule, chosen, seed)
    return CardBudget(
        minutes=minutes,
        images=images,
        device=device,
        used_minutes=costs.seconds(chosen) / 60,
        curve=tuple(points),
        next_member=None if following is None else costs.names[following.member],
        next_minutes=None if following is None else following.seconds / 60,
        next_gain=None if following is None else following.gain,
        unknown=len(costs.names) - len(known),
        own={costs.names[row]: float(costs.own_M[row]) for row in known},
        needs={
            costs.names[row]: tuple(
                unit for unit, needed in zip(costs.units, costs.needs_MU[row], strict=True) if needed
            )
            for row in known
        },
        units={unit: float(seconds) for unit, seconds in zip(costs.units, costs.shared_U, strict=True)},
    )


@dataclass(frozen=True, kw_only=True)
class _Next:
    """What the least additional seconds buy."""

    member: int
    seconds: float  # of the budget
    gain: Estimate


def _next(gram: ErrorGram, rule: Budgeted, chosen: NDArray[np.int64], seed: int) -> _Next | None:
    """A larger budget that brings in a member; None where the rule's own are paid for, or none does.

    Found by halving, to a CLOSE part. It is the least one where more seconds never choose a blend that errs more (the
    head of this file): then a choice that was left does not come back. A blend of fewer of the same members is no
    other one: it could be paid for before.
    """
    costs, own_M = rule.costs, fit_weights(gram, rule.rule, seed=seed)

    def other_within(seconds: float) -> FloatArray | None:
        """Weights where a member is chosen that was not."""
        weight_M = fit_weights(gram, Budgeted(rule.rule, costs, seconds), seed=seed)
        return weight_M if np.setdiff1d(np.flatnonzero(weight_M), chosen).size else None

    low, high = rule.seconds, min(costs.seconds(np.flatnonzero(each_M)) for each_M in (own_M, np.isfinite(costs.own_M)))
    found_M = other_within(high) if high > low * (1 + ROUNDING) else None
    if found_M is None:
        return None
    while high > low * (1 + CLOSE):
        middle = (low + high) / 2
        if (other_M := other_within(middle)) is None:
            low = middle
        else:
            high, found_M = middle, other_M
    new = np.setdiff1d(np.flatnonzero(found_M), chosen)
    taken = costs.seconds(np.flatnonzero(found_M))
    least = taken if low < taken < high else high
    now, then = nested_all(gram, [rule, Budgeted(rule.rule, costs, least)], seed=seed)
    return _Next(
        member=int(new[np.argmax(found_M[new])]), seconds=least, gain=paired_difference(gram, then.loss_RC, now.loss_RC)
    )
