"""What a report's pictures of a blend are made of: how it grows, and how its members err alike.

M members. Numbers are those of the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from biomass_models.targets import FloatArray
from ensembles.members.library import Library
from ensembles.nests import nested_all
from ensembles.rules import Greedy, Rule, TopMean

GROWTH = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)  # members or picks at which growth is measured


@dataclass(frozen=True, kw_only=True)
class Step:
    """A blend of so many members: what it seems to be worth, and what it is."""

    rule: str
    members: int  # members of the plain mean; picks of the greedy selection
    in_sample: float
    nested: float


def growth(library: Library, seed: int) -> list[Step]:
    """In-sample and nested scores of the plain mean of the k best, and of k greedy picks, as k grows."""
    gram = library.gram
    sizes = [size for size in GROWTH if size <= len(library.names)]
    means: list[tuple[str, int, Rule]] = [("mean of the best", size, TopMean(size)) for size in sizes]
    picks: list[tuple[str, int, Rule]] = [("greedy picks", size, Greedy(size)) for size in GROWTH]
    chosen = means + (picks if len(library.names) > 1 else [])
    scored = nested_all(gram, [rule for _, _, rule in chosen], seed=seed)
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
