"""The blend that a report shows: the best stored one that still fits the study, or the default one, made here.

M members, N images, T = 5 targets; masses in grams. A stored card is shown only where it was made of exactly the trials
that are complete now: scores, members and pictures then all speak of the same blend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from biomass_models.targets import FloatArray
from ensembles.blend import fit_blend
from ensembles.card import Card
from ensembles.choice import rule_named
from ensembles.honest import nest_of, nested_all
from ensembles.members.library import Library, LibraryError, library_from_arrays
from ensembles.recipe import Recipe, honest_rows
from ensembles.rules import Greedy, Rule, TopMean
from orchestration.study import layout
from orchestration.study.data import StudyData
from orchestration.study.ledger import LedgerError
from orchestration.study.seeds import derive_seed

DEFAULT_RULE = "default"
GROWTH = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)  # members or picks at which growth is measured


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend:
    """A blend with the rows that it says honestly."""

    name: str | None  # of the stored ensemble; None for one that was made for the report
    card: Card
    library: Library
    honest_NT: FloatArray  # each image blended by members and weights that were chosen without its fold


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An ensemble of the study, shown or not."""

    name: str
    card: Card | None  # None for a card of another version
    fits: bool  # made of exactly the trials that are complete now


@dataclass(frozen=True, kw_only=True)
class Step:
    """A blend of so many members: what it seems to be worth, and what it is."""

    rule: str
    members: int  # members of the plain mean; picks of the greedy selection
    in_sample: float
    nested: float


def blend_of(study: StudyData, pred: Mapping[str, FloatArray]) -> tuple[Blend | None, tuple[Stored, ...], str | None]:
    """The blend to show, the ensembles that the study stores, and the reason where there is no blend.

    pred: out-of-fold predictions of the trials that may be members.
    """
    stored = stored_ensembles(study, len(pred))
    if not pred:
        return None, stored, "no trial is complete"
    try:
        library = library_from_arrays(list(pred), list(pred.values()), study.quadrats)
        fitting = [each for each in stored if each.fits and each.card is not None]
        best = max(fitting, key=lambda each: each.card.nested_score if each.card else 0.0, default=None)
        seed = derive_seed(study.settings.seed, "blend")
        if best is not None and best.card is not None:
            name, card = best.name, best.card
        else:
            name, card = None, fit_blend(library, DEFAULT_RULE, seed)
        recipe = Recipe(rule=rule_named(card.rule)).using(*card.follow_ups)
        rows_NT = honest_rows(library, recipe, card.nested_by, seed=card.seed)  # type: ignore[arg-type]
    except (LibraryError, ValueError) as error:
        return None, stored, str(error)
    return Blend(name=name, card=card, library=library, honest_NT=rows_NT), stored, None


def stored_ensembles(study: StudyData, readable: int) -> tuple[Stored, ...]:
    """Every ensemble of the study by name; readable: complete trials whose predictions can be read."""
    ledger = study.ledger
    complete = {trial.trial_id for trial in study.of("complete")}
    found = []
    for name in ledger.storage.children(layout.ENSEMBLES):
        if name.startswith(layout.PREDICTIONS):
            continue
        try:
            ensemble = ledger.ensemble(name)
            card, refs = Card.from_json(ensemble.card), ensemble.trials
        except (LedgerError, ValueError, KeyError, TypeError):
            found.append(Stored(name=name, card=None, fits=False))
            continue
        size = card.library_size + len(card.left_out) + len(card.merged)
        own = all(ref.study == ledger.storage.uri and ref.trial_id in complete for ref in refs.values())
        fits = own and set(refs) == set(card.members) and size == len(complete) == readable
        found.append(Stored(name=name, card=card, fits=fits and card.flips == 1))
    return tuple(found)


def growth(library: Library, seed: int) -> list[Step]:
    """In-sample and nested scores of the plain mean of the k best, and of k greedy picks, as k grows."""
    gram = library.gram
    sizes = [size for size in GROWTH if size <= len(library.names)]
    means: list[tuple[str, int, Rule]] = [("mean of the best", size, TopMean(size)) for size in sizes]
    picks: list[tuple[str, int, Rule]] = [("greedy picks", size, Greedy(size)) for size in GROWTH]
    chosen = means + (picks if len(library.names) > 1 else [])
    by = nest_of(gram)
    scored = nested_all(gram, [rule for _, _, rule in chosen], by, seed=seed)
    return [
        Step(
            rule=label,
            members=size,
            in_sample=1 - gram.loss_of(rule(gram, seed)),
            nested=nested.score,
        )
        for (label, size, rule), nested in zip(chosen, scored, strict=True)
    ]


def residual_correlation(library: Library, names: list[str]) -> FloatArray:
    """Cosine between the members' weighted residuals, [K, K]: 1 where two err alike. NaN for a member without error."""
    index = [library.names.index(name) for name in names]
    product_KK = library.gram.keep(index).product_MM
    length_K = np.sqrt(np.maximum(product_KK.diagonal(), 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine_KK: FloatArray = product_KK / np.outer(length_K, length_K)
    return cosine_KK


def heaviest(weights: Mapping[str, float], most: int) -> list[str]:
    """Names of the members with the largest weights, heaviest first."""
    return sorted(weights, key=lambda name: (-weights[name], name))[:most]
