"""A rule and what may follow it: weights per target, a linear calibration. Fitted and scored without peeking.

M members, N images, T = 5 targets; masses in grams.
weight_TM   weights of each target's blend; the rows are equal unless weights are fitted per target
slope_T, offset_T   calibrated mass = offset + slope * blended mass
Shared weights keep the identities. What breaks them - weights per target, calibration - is projected again afterwards.
Both follow-ups gain little and can lose: they are off unless asked for, and `follow_up_gains` says what they are worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import TARGETS, FloatArray, project_coherent
from ensembles.honest import Estimate, NestBy, fit_prefiltered, nests_of, paired_difference
from ensembles.library import Library
from ensembles.rules import Rule

PRIOR_IMAGES = 50.0  # a calibration's slope is pulled towards 1 as if by so many images that lie on it


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a blend is made from a library."""

    rule: Rule
    per_target: bool = False
    calibrate: bool = False

    @property
    def name(self) -> str:
        return self.rule.name + ", per target" * self.per_target + ", calibrated" * self.calibrate


@dataclass(frozen=True, kw_only=True, eq=False)
class Blender:
    """A fitted recipe."""

    weight_TM: FloatArray
    slope_T: FloatArray
    offset_T: FloatArray

    def blend(self, pred_MNT: FloatArray) -> FloatArray:
        """Blended masses [N, 5] grams of coherent members [M, N, 5]; coherent and non-negative."""
        support = np.flatnonzero(self.weight_TM.any(0))
        raw_NT = np.einsum("tm,mnt->nt", self.weight_TM[:, support], pred_MNT[support])
        if (self.weight_TM == self.weight_TM[0]).all() and (self.slope_T == 1).all() and (self.offset_T == 0).all():
            return raw_NT
        return project_coherent(self.offset_T + self.slope_T * raw_NT)


def fit_recipe(library: Library, recipe: Recipe, keep_C: NDArray[np.bool_] | None = None, *, seed: int = 0) -> Blender:
    """Fit on the cells (see gram.py) where keep_C is true, on all of them by default."""
    keep = np.ones(library.gram.cells, dtype=bool) if keep_C is None else keep_C
    shared_M = fit_prefiltered(library.gram.select(keep), recipe.rule, seed=seed)
    weight_TM = np.tile(shared_M, (len(TARGETS), 1))
    if recipe.per_target:
        for target, gram in enumerate(library.target_grams):
            part = gram.select(keep)
            if part.sst > 0:  # a target that never varies here keeps the shared weights
                weight_TM[target] = fit_prefiltered(part, recipe.rule, seed=seed)
    slope_T, offset_T = np.ones(len(TARGETS)), np.zeros(len(TARGETS))
    if recipe.calibrate:
        rows = np.concatenate([cell for cell, kept in zip(library.rows_of_cell, keep, strict=True) if kept])
        support = np.flatnonzero(weight_TM.any(0))
        raw_NT = np.einsum("tm,mnt->nt", weight_TM[:, support], library.pred_MNT[np.ix_(support, rows)])
        slope_T, offset_T = calibration(library.truth_NT[rows], raw_NT)
    return Blender(weight_TM=weight_TM, slope_T=slope_T, offset_T=offset_T)


def calibration(truth_NT: FloatArray, pred_NT: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least-squares slope and offset per target, the slope pulled towards 1 (PRIOR_IMAGES); 1 where nothing varies."""
    pred_mean_T, truth_mean_T = pred_NT.mean(0), truth_NT.mean(0)
    spread_T = ((pred_NT - pred_mean_T) ** 2).mean(0)
    joint_T = ((pred_NT - pred_mean_T) * (truth_NT - truth_mean_T)).mean(0)
    varies_T = spread_T > 0
    free_T = np.where(varies_T, joint_T / np.where(varies_T, spread_T, 1.0), 1.0)
    images = len(truth_NT)
    slope_T = (images * free_T + PRIOR_IMAGES) / (images + PRIOR_IMAGES)
    return slope_T, truth_mean_T - slope_T * pred_mean_T


def honest_rows(library: Library, recipe: Recipe, by: NestBy = "fold", *, seed: int = 0) -> FloatArray:
    """Blended masses [N, 5] grams where each image's nest took no part in choosing, weighting or calibrating."""
    nest_C, labels = nests_of(library.gram, by)
    blend_NT = np.empty_like(library.truth_NT)
    for nest in range(len(labels)):
        held_C = nest_C == nest
        blender = fit_recipe(library, recipe, ~held_C, seed=seed)
        rows = np.concatenate([library.rows_of_cell[cell] for cell in np.flatnonzero(held_C)])
        support = np.flatnonzero(blender.weight_TM.any(0))
        thin = Blender(weight_TM=blender.weight_TM[:, support], slope_T=blender.slope_T, offset_T=blender.offset_T)
        blend_NT[rows] = thin.blend(library.pred_MNT[np.ix_(support, rows)])
    return blend_NT


def follow_up_gains(library: Library, rule: Rule, by: NestBy = "fold", *, seed: int = 0) -> dict[str, Estimate]:
    """Nested score gained by each follow-up over the rule alone, paired over groups: to be read before using one."""
    recipes = {
        "weights per target": Recipe(rule=rule, per_target=True),
        "calibration": Recipe(rule=rule, calibrate=True),
        "both": Recipe(rule=rule, per_target=True, calibrate=True),
    }
    plain_C = library.loss_by_cell(honest_rows(library, Recipe(rule=rule), by, seed=seed))
    return {
        name: paired_difference(
            library.gram, library.loss_by_cell(honest_rows(library, recipe, by, seed=seed)), plain_C, seed=seed
        )
        for name, recipe in recipes.items()
    }
