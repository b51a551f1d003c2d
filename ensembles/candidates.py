"""Several submissions from one library: the best honest one, and those that differ most from it at no significant cost.

Two submissions that say the same are one bet. Among the rules whose nested score lies within one standard error of the
best (paired, over groups), the one whose blended masses differ most from those taken already comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from biomass_models.errors import UserError
from biomass_models.targets import FloatArray, squared_error
from ensembles.blend import fit_blend
from ensembles.card import Card
from ensembles.choice import RULES, rule_named
from ensembles.honest import fit_prefiltered, nest_of, nested_all, paired_difference
from ensembles.members.library import Library
from ensembles.recipe import Recipe
from ensembles.rules import Rule


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A blend worth submitting."""

    rule: str  # its public name
    card: Card
    distance: float  # g, root of the metric's mean squared difference to the nearest candidate before it; 0 if first


def choose_candidates(
    library: Library,
    count: int = 2,
    *,
    rules: Mapping[str, Rule] = RULES,
    first: str | None = None,
    follow_ups: Sequence[str] = (),
    seed: int = 0,
    references: Mapping[str, FloatArray] | None = None,
) -> list[Candidate]:
    """At most `count` candidates, best first; fewer when no other rule is as good and different.

    first: the name of the rule to begin with, instead of the one with the best nested score; follow_ups: on trial for
    each candidate (recipe.FOLLOW_UPS). Raises ValueError for a count below 1, an unknown rule, and a library with a
    single fold and group.
    """
    if count < 1:
        raise UserError(f"at least one candidate must be asked for, got {count}")
    gram = library.gram
    by = nest_of(gram)
    if first is not None:
        rules = {**rules, first: rule_named(first)}
    names = list(rules)
    trials = nested_all(gram, list(rules.values()), by, seed=seed)
    best = names.index(first) if first is not None else int(np.argmax([trial.score for trial in trials]))
    losses = [paired_difference(gram, trials[best].loss_C, trial.loss_C, seed=seed) for trial in trials]
    eligible = [row for row, loss in enumerate(losses) if row != best and loss.value <= loss.se]
    blend_RNT = {row: _blended(library, rules[names[row]], seed) for row in [best, *eligible]}
    taken = [(best, 0.0)]
    while eligible and len(taken) < count:
        distances = {row: min(_distance(blend_RNT[row], blend_RNT[old]) for old, _ in taken) for row in eligible}
        farthest = max(eligible, key=lambda row: distances[row])
        if distances[farthest] <= 1e-9:
            break
        taken.append((farthest, distances[farthest]))
        eligible.remove(farthest)
    return [
        Candidate(
            rule=names[row],
            card=fit_blend(
                library, Recipe(rule=rules[names[row]], on_trial=tuple(follow_ups)), seed, references=references
            ),
            distance=distance,
        )
        for row, distance in taken
    ]


def _blended(library: Library, rule: Rule, seed: int) -> FloatArray:
    weight_M = fit_prefiltered(library.gram, rule, seed=seed)
    support = np.flatnonzero(weight_M)
    return np.tensordot(weight_M[support], library.pred_MNT[support], axes=1)


def _distance(left_NT: FloatArray, right_NT: FloatArray) -> float:
    return float(np.sqrt(squared_error(left_NT, right_NT).mean()))
