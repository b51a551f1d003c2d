"""Arms of the family study in numbers: single trials, blends, and what the teacher changes, over seeds.

N training images, M test images, T = 5 targets; scores are the weighted R2 of pooled rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biomass_models.targets import TARGETS, FloatArray, weighted_r2_score
from ensembles.blend import apply_blend, fit_blend
from ensembles.members.library import library_from_frames


@dataclass(frozen=True)
class Member:
    """One trial: out-of-fold rows (image_id and TARGETS, grams) and its predictions of the test images [M, 5]."""

    name: str
    oof: pd.DataFrame
    test_MT: FloatArray


@dataclass(frozen=True)
class Scores:
    """Of an arm's trials, one after the other, and of their blend."""

    trial_oof: tuple[float, ...]
    trial_true: tuple[float, ...]
    blend_nested: float
    blend_true: float


def scores_of(members: Sequence[Member], truth: pd.DataFrame, test_MT: FloatArray, seed: int) -> Scores:
    """truth: image_id, fold, group, State, TARGETS of the training images; test_MT: true test masses in grams."""
    library = library_from_frames({member.name: member.oof for member in members}, truth)
    card = fit_blend(library, seed=seed, bootstrap_draws=0)
    aligned = [member.oof.set_index("image_id").loc[truth["image_id"], list(TARGETS)] for member in members]
    return Scores(
        tuple(weighted_r2_score(truth[list(TARGETS)], oof) for oof in aligned),
        tuple(weighted_r2_score(test_MT, member.test_MT) for member in members),
        card.nested_score,
        weighted_r2_score(test_MT, apply_blend(card, {member.name: member.test_MT for member in members})),
    )


def study_table(seeds: Sequence[dict[str, Scores]]) -> str:
    """Markdown: for each arm the mean over seeds and the standard deviation between them."""
    lines = [
        "| arm | a trial: out-of-fold | a trial: true | blend: nested | blend: true |",
        "|---|---|---|---|---|",
    ]
    for arm in seeds[0]:
        of_arm = [scores[arm] for scores in seeds]
        columns = (
            [float(np.mean(scores.trial_oof)) for scores in of_arm],
            [float(np.mean(scores.trial_true)) for scores in of_arm],
            [scores.blend_nested for scores in of_arm],
            [scores.blend_true for scores in of_arm],
        )
        lines.append(f"| {arm} | " + " | ".join(f"{np.mean(c):.3f} ± {_spread(c):.3f}" for c in columns) + " |")
    return "\n".join(lines)


def teacher_gain(seeds: Sequence[dict[str, Scores]], taught: str, alone: str) -> str:
    """Paired differences taught minus alone: trials are the same configurations, one by one."""
    lines = []
    for name, kind in (("out-of-fold", "trial_oof"), ("true", "trial_true")):
        gain_SK = np.array([np.subtract(getattr(s[taught], kind), getattr(s[alone], kind)) for s in seeds])
        of_seed = gain_SK.mean(1)
        lines.append(
            f"{name}: {of_seed.mean():+.3f} (seeds {', '.join(f'{gain:+.3f}' for gain in of_seed)}; "
            f"the teacher helps {int((gain_SK > 0).sum())} of {gain_SK.size} trials)"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
