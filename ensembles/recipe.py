"""A rule and what may follow it: weights per target, a linear calibration, zeros. Fitted and scored without peeking.

M members, N images, T = 5 targets; masses in grams.
weight_TM   weights of each target's blend; the rows are equal unless weights are fitted per target
slope_T, offset_T   calibrated mass = offset + slope * blended mass
floor_3     green, dead and clover below it become 0: a blend's "a little clover" is mostly none
Shared weights keep the identities. What breaks them - weights per target, calibration - is projected again afterwards.
Follow-ups gain little and can lose: they are off unless asked for, and one that is `on_trial` must earn its place by a
nested score on the very cells that a blend is fitted on, so that an outer nest pays for that decision as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biomass_models.data.problems import did_you_mean
from biomass_models.errors import UserError
from biomass_models.targets import FROM_COMPONENTS, TARGETS, FloatArray, project_coherent, weight_T
from ensembles.choice import inner_nests
from ensembles.honest import Estimate, NestBy, fit_prefiltered, nests_of, paired_difference
from ensembles.members.library import Library
from ensembles.rules import Rule

PRIOR_IMAGES = 50.0  # a calibration's slope is pulled towards 1 as if by so many images that lie on it
FOLLOW_UPS = {"per-target": "per_target", "calibration": "calibrate", "zeros": "zeros"}  # public name -> Recipe's field
_METRIC_33 = FROM_COMPONENTS.T @ (weight_T[:, None] * FROM_COMPONENTS)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a blend is made from a library."""

    rule: Rule
    per_target: bool = False
    calibrate: bool = False
    zeros: bool = False
    on_trial: tuple[str, ...] = ()  # follow-ups (FOLLOW_UPS) that are used only where they earn their place

    def __post_init__(self) -> None:
        for name in self.on_trial:
            if name not in FOLLOW_UPS:
                hint = did_you_mean(name, FOLLOW_UPS)
                raise UserError(f"a follow-up is one of {', '.join(FOLLOW_UPS)}, got {name!r}{hint}")

    @property
    def follow_ups(self) -> list[str]:
        """Public names of those in use."""
        return [name for name, field in FOLLOW_UPS.items() if getattr(self, field)]

    def using(self, *names: str) -> Recipe:
        """With these follow-ups switched on, and none on trial."""
        return Recipe(
            rule=self.rule,
            per_target=self.per_target or "per-target" in names,
            calibrate=self.calibrate or "calibration" in names,
            zeros=self.zeros or "zeros" in names,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Blender:
    """A fitted recipe."""

    weight_TM: FloatArray
    slope_T: FloatArray
    offset_T: FloatArray
    floor_3: FloatArray

    def blend(self, pred_MNT: FloatArray) -> FloatArray:
        """Blended masses [N, 5] grams of coherent members [M, N, 5]; coherent and non-negative."""
        support = np.flatnonzero(self.weight_TM.any(0))
        blend_NT = np.einsum("tm,mnt->nt", self.weight_TM[:, support], pred_MNT[support])
        shared = (self.weight_TM == self.weight_TM[0]).all()
        if not (shared and (self.slope_T == 1).all() and (self.offset_T == 0).all()):
            blend_NT = project_coherent(self.offset_T + self.slope_T * blend_NT)
        return with_zeros(blend_NT, self.floor_3) if self.floor_3.any() else blend_NT

    def keep(self, support: NDArray[np.int64]) -> Blender:
        """The same for these members only."""
        return replace(self, weight_TM=self.weight_TM[:, support])


def fit_recipe(library: Library, recipe: Recipe, keep_C: NDArray[np.bool_] | None = None, *, seed: int = 0) -> Blender:
    """Fit on the cells (see gram.py) where keep_C is true, on all of them by default."""
    keep = _kept(library, keep_C)
    if recipe.on_trial:
        recipe, _ = decided(library, recipe, keep, seed=seed)
    shared_M = fit_prefiltered(library.gram.select(keep), recipe.rule, seed=seed)
    weight_TM = np.tile(shared_M, (len(TARGETS), 1))
    if recipe.per_target:
        for target, gram in enumerate(library.target_grams):
            part = gram.select(keep)
            if part.sst > 0:  # a target that never varies here keeps the shared weights
                weight_TM[target] = fit_prefiltered(part, recipe.rule, seed=seed)
    blender = Blender(
        weight_TM=weight_TM, slope_T=np.ones(len(TARGETS)), offset_T=np.zeros(len(TARGETS)), floor_3=np.zeros(3)
    )
    if not (recipe.calibrate or recipe.zeros):
        return blender
    rows = np.concatenate([cell for cell, kept in zip(library.rows_of_cell, keep, strict=True) if kept])
    support = np.flatnonzero(weight_TM.any(0))
    pred_KNT, truth_NT = library.pred_MNT[np.ix_(support, rows)], library.truth_NT[rows]
    if recipe.calibrate:
        raw_NT = np.einsum("tm,mnt->nt", weight_TM[:, support], pred_KNT)
        slope_T, offset_T = calibration(truth_NT, raw_NT)
        blender = replace(blender, slope_T=slope_T, offset_T=offset_T)
    if recipe.zeros:
        blender = replace(blender, floor_3=floors(truth_NT, blender.keep(support).blend(pred_KNT)))
    return blender


def decided(
    library: Library, recipe: Recipe, keep_C: NDArray[np.bool_] | None = None, *, seed: int = 0
) -> tuple[Recipe, dict[str, Estimate]]:
    """The recipe with those follow-ups on trial that gain more than one standard error, and what each would gain.

    Gains are nested inside the kept cells and paired over groups. Where several pass, they are used together if that
    gains at least as much as the best of them alone.
    """
    keep = _kept(library, keep_C)
    by = inner_nests(library.gram.select(keep))
    if by is None:  # nothing to judge by
        return recipe.using(), {}
    plain_NT = honest_rows(library, recipe.using(), by, keep, seed=seed)

    def gain(*names: str) -> Estimate:
        rows_NT = honest_rows(library, recipe.using(*names), by, keep, seed=seed)
        loss_C, plain_C = library.loss_by_cell(rows_NT)[keep], library.loss_by_cell(plain_NT)[keep]
        return paired_difference(library.gram.select(keep), loss_C, plain_C, draws=500, seed=seed)

    gains = {name: gain(name) for name in recipe.on_trial}
    passing = [name for name, estimate in gains.items() if estimate.value > estimate.se]
    if len(passing) > 1:
        best = max(passing, key=lambda name: gains[name].value)
        together = gains[" + ".join(passing)] = gain(*passing)
        passing = passing if together.value >= gains[best].value else [best]
    return recipe.using(*passing), gains


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


def floors(truth_NT: FloatArray, pred_NT: FloatArray) -> FloatArray:
    """Per component (green, dead, clover) the largest predicted mass that is better called 0, [3] grams; 0 for none.

    Setting component c of an image to 0 changes its squared error, in the metric's norm G, by
    2 p_c (G residual)_c + p_c^2 G_cc: summed over images from the smallest prediction on, the least sum is the place.
    """
    pred_N3 = pred_NT[:, :3].copy()
    residual_NT = truth_NT - pred_NT
    floor_3 = np.zeros(3)
    for component in range(3):
        order = np.argsort(pred_N3[:, component], kind="stable")
        mass_N = pred_N3[order, component]
        slope_N = residual_NT[order] @ (weight_T * FROM_COMPONENTS[:, component])
        change_N = np.cumsum(2 * mass_N * slope_N + mass_N**2 * _METRIC_33[component, component])
        place = int(change_N.argmin())
        if change_N[place] < 0:
            beyond = mass_N[place + 1] if place + 1 < len(mass_N) else 2 * mass_N[place]
            floor_3[component] = (mass_N[place] + beyond) / 2  # between two masses: rounding must not decide
            zeroed_N = np.where(pred_N3[:, component] <= floor_3[component], pred_N3[:, component], 0.0)
            residual_NT += zeroed_N[:, None] * FROM_COMPONENTS[:, component]
    return floor_3


def with_zeros(pred_NT: FloatArray, floor_3: FloatArray) -> FloatArray:
    """Coherent masses [N, 5] with the components that do not exceed their floor at 0."""
    return np.where(pred_NT[:, :3] <= floor_3, 0.0, pred_NT[:, :3]) @ FROM_COMPONENTS.T


def honest_rows(
    library: Library,
    recipe: Recipe,
    by: NestBy = "fold",
    keep_C: NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    shown_MNT: FloatArray | None = None,
) -> FloatArray:
    """Blended masses [N, 5] grams where each image's nest took no part in choosing, weighting or following up.

    Only the cells where keep_C is true take part; the rows of the others are NaN. shown_MNT: other predictions of the
    same members, to be blended with the weights that the library's own ones give.
    """
    pred_MNT = library.pred_MNT if shown_MNT is None else shown_MNT
    keep = _kept(library, keep_C)
    kept_C = np.flatnonzero(keep)
    nest_K, labels = nests_of(library.gram.select(keep), by)
    blend_NT = np.full_like(library.truth_NT, np.nan)
    for nest in range(len(labels)):
        held_C = kept_C[nest_K == nest]
        training_C = keep.copy()
        training_C[held_C] = False
        blender = fit_recipe(library, recipe, training_C, seed=seed)
        rows = np.concatenate([library.rows_of_cell[cell] for cell in held_C])
        support = np.flatnonzero(blender.weight_TM.any(0))
        blend_NT[rows] = blender.keep(support).blend(pred_MNT[np.ix_(support, rows)])
    return blend_NT


def _kept(library: Library, keep_C: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    return np.ones(library.gram.cells, dtype=bool) if keep_C is None else keep_C
