"""Several submissions from one library: the default's blend, and the most different ones that are as good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from biomass_models.errors import UserError
from biomass_models.targets import FloatArray
from ensembles.blend import fit_blend
from ensembles.card import Card
from ensembles.choice import RULES, CandidateRule, candidate_rules, rule_named
from ensembles.members.library import Library
from ensembles.nests import shortlist
from ensembles.rules import Rule
from ensembles.spec import BlendSpec


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A blend worth submitting."""

    spec: BlendSpec
    card: Card
    distance: float  # g, root of the metric's mean squared difference to the nearest candidate before it; 0 if first


def choose_candidates(
    library: Library,
    count: int = 2,
    *,
    rules: Mapping[str, Rule] = RULES,
    first: str = "default",
    follow_ups: Sequence[str] = (),
    seed: int = 0,
    references: Mapping[str, FloatArray] | None = None,
) -> list[Candidate]:
    """At most `count` candidates; fewer when no other rule is as good and different.

    first: the name of the rule to begin with; follow_ups: tried for each blend (spec.FOLLOW_UPS). Each card's
    nested score pays for the choice of its rule (choice.CandidateRule). Raises UserError for a count below 1, an
    unknown rule, and a library with a single fold and group.
    """
    if count < 1:
        raise UserError(f"at least one candidate must be asked for, got {count}")
    start = rule_named(first)
    gram = library.gram.keep(shortlist(library.gram))
    found = []
    for place, (_, distance) in enumerate(
        candidate_rules(gram, start, list(rules.values()), count, seed=seed), start=1
    ):
        rule = start if place == 1 else CandidateRule(place, start, tuple(rules.values()))
        spec = BlendSpec(rule=rule, tried=tuple(follow_ups))
        found.append(
            Candidate(spec=spec, card=fit_blend(library, spec, seed, references=references), distance=distance)
        )
    return found
