"""The blend that pages show, with its nested rows: what pictures and comparisons are made of.

N images, T = 5 targets, R partitions (ensembles.nests); masses in grams. Numbers are those of the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from biomass_models.targets import FloatArray
from ensembles.card import Card
from ensembles.choice import rule_named
from ensembles.members.library import Library
from ensembles.rules import Rule
from ensembles.spec import FOLLOW_UPS, BlendSpec, nested_rows
from orchestration.blending.shown import shown_blend
from orchestration.blending.states import kept_states
from orchestration.study.data import StudyData
from orchestration.study.ledger import LedgerError


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend:
    """A blend with its nested rows."""

    name: str | None  # of the stored ensemble; None for one that was made for a page
    card: Card
    library: Library
    nested_RNT: FloatArray  # each image blended by members and weights that were chosen without its unit


def blend_of(study: StudyData, named: str | None = None) -> tuple[Blend | None, str | None]:
    """The blend to show (named: a stored one), or the reason why there is none. LedgerError for a name without a blend.

    The rows are made as the card's were, but for flips: their losses are those of the card.
    """
    try:
        found = shown_blend(study, named)
        card = found.card
        library = kept_states(study.ledger, found.library(), card)
        rows_RNT = nested_rows(library, _spec_of(card, library), seed=card.seed)
    except (LedgerError, ValueError) as error:
        if named is not None:
            raise
        return None, str(error)
    return Blend(name=found.name, card=card, library=library, nested_RNT=rows_RNT), None


def rule_of(card: Card, names: Sequence[str]) -> Rule:
    """The rule of a card, within its budget where it has one. names: of the library's members."""
    rule = rule_named(card.rule)
    return rule if card.budget is None else card.budget.rule(rule, names)


def _spec_of(card: Card, library: Library) -> BlendSpec:
    """How the card's blend was made, with the follow-ups that its nests decided about."""
    tried = tuple(name for name in card.follow_up_gains if name in FOLLOW_UPS)
    fixed = [name for name in card.follow_ups if name not in tried]
    return replace(BlendSpec(rule=rule_of(card, library.names)).using(*fixed), tried=tried)
