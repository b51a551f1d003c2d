"""Arms of the family study in numbers: blends of pools of trials.

N training images, M test images, T = 5 targets; scores are the weighted R2 of pooled rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biomass_models.targets import FloatArray, weighted_r2_score
from ensembles.blend import apply_blend, fit_blend
from ensembles.card import Card
from ensembles.members.library import library_from_frames


@dataclass(frozen=True)
class Member:
    """One trial: out-of-fold rows (image_id and TARGETS, grams) and its predictions of the test images [M, 5]."""

    name: str
    oof: pd.DataFrame
    test_MT: FloatArray


@dataclass(frozen=True)
class Scores:
    """Of a pool's trials, and of their blend."""

    trials: int
    card: Card
    true: float  # NaN without a test set


def scores_of(
    members: Sequence[Member],
    truth: pd.DataFrame,
    test_MT: FloatArray,
    seed: int,
    references: Mapping[str, FloatArray] | None = None,
) -> Scores:
    """truth: image_id, fold, group, unit, TARGETS of the training images; test_MT: true test masses in grams;
    references: out-of-fold rows [N, 5] that the blend is compared with (Card.versus)."""
    library = library_from_frames({member.name: member.oof for member in members}, truth)
    card = fit_blend(library, seed=seed, references=references)
    true = float("nan")
    if len(test_MT):
        true = weighted_r2_score(test_MT, apply_blend(card, {member.name: member.test_MT for member in members}))
    return Scores(len(members), card, true)


def with_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.3f} ± {spread:.3f}"


def with_error(gains: Sequence[float]) -> str:
    """Mean ± its standard error, signed."""
    error = float(np.std(gains, ddof=1)) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    return f"{np.mean(gains):+.3f} ± {error:.3f}"
