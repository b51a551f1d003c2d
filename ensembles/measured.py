"""What was measured: its name on every page, and sums over the cells that count.

N images, T = 5 targets; masses in grams.
weight   of the cells in the metric: [5] where all was measured, else [N, 5] with 0 in a cell that was not
         (biomass_models.targets.weights_of); what stands in such a cell plays no part
"""

from __future__ import annotations

import numpy as np

from biomass_models.errors import UserError
from biomass_models.targets import TARGETS, FloatArray, in_proportion, measured_targets, norm_of, weight_T

WEIGHTED_R2 = "weighted R2"
SHORT: dict[str, str] = dict(zip(TARGETS, ("green", "dead", "clover", "GDM", "total"), strict=True))


def unmeasured_text(weight: FloatArray) -> str:
    """Short names of the targets that no row counts; empty where all are measured."""
    measured = measured_targets(weight)
    return ", ".join(SHORT[name] for name in TARGETS if name not in measured)


def counted_text(weight: FloatArray) -> str:
    """What a score counts: `weighted R2`, or `weighted R2 of total, clover (40 of 90); not measured here: green, ...`.

    Heaviest target first; (40 of 90) are the photographs in which it was measured, where that is not all of them. Own
    weights are those that are not the published ones times a factor of the photograph.
    """
    if weight.ndim == 1:
        return WEIGHTED_R2
    norm_T = norm_of(weight)
    names = []
    for target in np.argsort(-norm_T, kind="stable")[: int((norm_T > 0).sum())]:
        images = int((weight[:, target] > 0).sum())
        names.append(SHORT[TARGETS[target]] + (f" ({images} of {len(weight)})" if images < len(weight) else ""))
    kind = (
        "R2" if len(names) == 1 else WEIGHTED_R2 if in_proportion(weight, weight_T) else f"{WEIGHTED_R2} (own weights)"
    )
    unmeasured = unmeasured_text(weight)
    if not unmeasured and (weight > 0).all():
        return kind
    return f"{kind} of {', '.join(names)}" + (f"; not measured here: {unmeasured}" if unmeasured else "")


def counted_notice(weight: FloatArray) -> str | None:
    """What pages say before their scores: what these count, None where that is all five masses as published."""
    counted = counted_text(weight)
    return None if counted == WEIGHTED_R2 else f"scores are {counted}"


def require_all_measured(weight: FloatArray) -> None:
    """Raise UserError where a submission of all five masses cannot be made."""
    if unmeasured := unmeasured_text(weight):
        raise UserError(
            f"a submission holds all five masses, not measured here: {unmeasured}; predict masses without test.csv"
        )


def sums_by_target(value_NT: FloatArray, weight: FloatArray) -> FloatArray:
    """Sum over the images of what each cell holds, [..., N, 5] -> [..., 5].

    A cell counts by its weight as a share of its target's: all of it, or 1 / k for one of k photographs of a quadrat.
    """
    if weight.ndim == 1:
        return np.asarray(value_NT.sum(-2))
    return np.asarray(np.where(weight > 0, shares_of(weight) * value_NT, 0.0).sum(-2))


def images_by_target(weight: FloatArray, images: int) -> FloatArray:
    """How many images each target's sum is of, [5], at least 1: to divide by."""
    if weight.ndim == 1:
        return np.full(len(TARGETS), float(images))
    count_T = shares_of(weight).sum(0)
    return np.where(count_T > 0, count_T, 1.0)


def shares_of(weight_NT: FloatArray) -> FloatArray:
    """Each cell's weight as a share of its target's (targets.norm_of)."""
    norm_T = norm_of(weight_NT)
    return weight_NT / np.where(norm_T > 0, norm_T, 1.0)
