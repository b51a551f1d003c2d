"""A rule and its follow-ups (weights per target, calibration, zeros, state rule): fitted, and rows predicted by nests.

`nested_rows` predicts the rows whose score is a card's nested score (blend.fit_blend).

M members, N images, T = 5 targets, R partitions (nests.py); masses in grams.
weight_TM   weights of each target's blend; the rows are equal unless weights are fitted per target
slope_T, offset_T   calibrated mass = offset + slope * blended mass
floor_3     green, dead and clover below it become 0: a blend's "a little clover" is mostly none
norm_T      weights of the targets in a projection; 0 for one that was never measured, whose blended mass is NaN
Shared weights keep the identities. What breaks them - weights per target, calibration - is projected again afterwards.
Follow-ups gain little and can lose: they are off unless asked for, and a tried one is used where its nested gain, on
the cells that the blend is fitted on, exceeds its standard error. An outer nest pays for that decision as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biomass_models.data.problems import did_you_mean
from biomass_models.errors import UserError
from biomass_models.targets import (
    FROM_COMPONENTS,
    TARGETS,
    FloatArray,
    IntArray,
    norm_of,
    project_coherent,
    weight_T,
    weights_in,
    weights_of,
)
from ensembles.choice import chosen_rule
from ensembles.honest import Estimate, paired_difference
from ensembles.measured import images_by_target, sums_by_target
from ensembles.members.library import Library
from ensembles.nests import INNER_PARTITIONS, PARTITIONS, assign_nests, can_nest, fit_weights, skilled
from ensembles.rules import Rule
from ensembles.states import StateRule, fit_state_rule, without

PRIOR_IMAGES = 50.0  # a calibration's slope is pulled towards 1 as if by so many images that lie on it
# public name -> field
FOLLOW_UPS = {"per-target": "per_target", "calibration": "calibrate", "zeros": "zeros", "state": "state"}
_METRIC_33 = FROM_COMPONENTS.T @ (weight_T[:, None] * FROM_COMPONENTS)


@dataclass(frozen=True, kw_only=True)
class BlendSpec:
    """How a blend is made from a library."""

    rule: Rule
    per_target: bool = False
    calibrate: bool = False
    zeros: bool = False
    state: bool = False  # the state rule (states.py)
    tried: tuple[str, ...] = ()  # follow-ups (FOLLOW_UPS) that are used only where they gain

    def __post_init__(self) -> None:
        for name in self.tried:
            if name not in FOLLOW_UPS:
                hint = did_you_mean(name, FOLLOW_UPS)
                raise UserError(f"a follow-up is one of {', '.join(FOLLOW_UPS)}, got {name!r}{hint}")

    @property
    def follow_ups(self) -> list[str]:
        """Public names of those in use."""
        return [name for name, field in FOLLOW_UPS.items() if getattr(self, field)]

    def using(self, *names: str) -> BlendSpec:
        """With these follow-ups switched on, and none to be tried."""
        return BlendSpec(
            rule=self.rule,
            per_target=self.per_target or "per-target" in names,
            calibrate=self.calibrate or "calibration" in names,
            zeros=self.zeros or "zeros" in names,
            state=self.state or "state" in names,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Blender:
    """A fitted blend."""

    weight_TM: FloatArray
    slope_T: FloatArray
    offset_T: FloatArray
    floor_3: FloatArray
    norm_T: FloatArray
    state_rule: StateRule | None = None
    likely_NS: FloatArray | None = None  # of the images that are blended, where there is a state rule

    @property
    def support(self) -> NDArray[np.int64]:
        """Members with weight in a target that was measured."""
        return np.flatnonzero(self._measured_TM.any(0))

    @property
    def _measured_TM(self) -> FloatArray:
        return self.weight_TM[self.norm_T > 0]

    def blend(self, pred_MNT: FloatArray) -> FloatArray:
        """Blended masses [N, 5] grams of coherent members [M, N, 5]; coherent and non-negative."""
        support = self.support
        blend_NT = np.einsum("tm,mnt->nt", self.weight_TM[:, support], pred_MNT[support])
        shared = (self._measured_TM == self._measured_TM[0]).all()
        if not (shared and (self.slope_T == 1).all() and (self.offset_T == 0).all()):
            blend_NT = project_coherent(self.offset_T + self.slope_T * blend_NT, self.norm_T)
        blend_NT = with_zeros(blend_NT, self.floor_3) if self.floor_3.any() else blend_NT
        if self.state_rule is None or self.likely_NS is None:
            return blend_NT
        return self.state_rule.apply(blend_NT, self.likely_NS)

    def blend_rows(self, pred_MNT: FloatArray, rows: NDArray[np.int64]) -> FloatArray:
        """As blend, for these images only; members without weight are not touched."""
        support = self.support
        likely_NS = None if self.likely_NS is None else self.likely_NS[rows]
        own = replace(self, weight_TM=self.weight_TM[:, support], likely_NS=likely_NS)
        return own.blend(pred_MNT[np.ix_(support, rows)])


def fit_spec(
    library: Library,
    spec: BlendSpec,
    keep_C: NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    partitions: int = INNER_PARTITIONS,
) -> Blender:
    """Fit on the cells (see gram.py) where keep_C is true, on all of them by default.

    partitions: of the nests by which tried follow-ups are compared.
    """
    keep_C = _kept(library, keep_C)
    if spec.tried:
        spec, _ = choose_follow_ups(library, spec, keep_C, seed=seed, partitions=partitions)
    return _fit_all(library, [spec], keep_C, seed)[0]


def choose_follow_ups(
    library: Library,
    spec: BlendSpec,
    keep_C: NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    partitions: int = PARTITIONS,
) -> tuple[BlendSpec, dict[str, Estimate]]:
    """The specification with those tried follow-ups that gain more than their standard error, and the gain of each.

    Gains are nested inside the kept cells and paired over units. Where several pass, they are used together if that
    gains at least as much as the best of them alone. A rule that is itself chosen is chosen once, on the kept cells.
    """
    keep_C = _kept(library, keep_C)
    gram = library.gram.select(keep_C)
    if not can_nest(gram):
        return spec.using(), {}

    def losses(specs: Sequence[BlendSpec]) -> list[FloatArray]:
        return [
            library.loss_by_cell(rows_RNT)[:, keep_C]
            for rows_RNT in nested_rows_all(library, specs, keep_C, seed=seed, partitions=partitions)
        ]

    fixed = replace(spec, rule=chosen_rule(gram, spec.rule, seed=seed))
    plain_RC, *others = losses([fixed.using(), *(fixed.using(name) for name in spec.tried)])
    gains = {name: paired_difference(gram, loss_RC, plain_RC) for name, loss_RC in zip(spec.tried, others, strict=True)}
    passing = [name for name, estimate in gains.items() if estimate.value > estimate.se]
    if len(passing) > 1:
        best = max(passing, key=lambda name: gains[name].value)
        together = gains[" + ".join(passing)] = paired_difference(gram, losses([fixed.using(*passing)])[0], plain_RC)
        passing = passing if together.value >= gains[best].value else [best]
    return spec.using(*passing), gains


def nested_rows(
    library: Library,
    spec: BlendSpec,
    *,
    seed: int = 0,
    partitions: int = PARTITIONS,
    nest_RC: IntArray | None = None,
) -> FloatArray:
    """Blended masses [R, N, 5] grams; each image's nest took no part in choosing, weighting or following up.

    nest_RC: nests of the cells, such as nests.fold_nests; by default random ones of units.
    """
    return nested_rows_all(library, [spec], seed=seed, partitions=partitions, nest_RC=nest_RC)[0]


def nested_rows_all(
    library: Library,
    specs: Sequence[BlendSpec],
    keep_C: NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    partitions: int = PARTITIONS,
    nest_RC: IntArray | None = None,
) -> list[FloatArray]:
    """As nested_rows, for several specifications that share each nest's weights. Predicts masses, as follow-ups need
    them; nests.nested_all scores plain rules on Grams.

    Only the cells where keep_C is true take part; the rows of the others are NaN.
    """
    keep_C = _kept(library, keep_C)
    nests = list(training_cells(library, keep_C, seed=seed, partitions=partitions, nest_RC=nest_RC))
    size = max(partition for partition, _, _ in nests) + 1
    found = [np.full((size, *library.truth_NT.shape), np.nan) for _ in specs]
    for partition, training_C, rows in nests:
        for rows_RNT, blender in zip(found, _fit_all(library, specs, training_C, seed), strict=True):
            rows_RNT[partition, rows] = blender.blend_rows(library.pred_MNT, rows)
    return found


def training_cells(
    library: Library,
    keep_C: NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    partitions: int = PARTITIONS,
    nest_RC: IntArray | None = None,
) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.int64]]]:
    """Nest by nest: the partition, the cells to fit on, and the rows that they do not hold.

    nest_RC: nests of the kept cells; by default those that nests.assign_nests draws.
    """
    keep_C = _kept(library, keep_C)
    kept = np.flatnonzero(keep_C)
    if nest_RC is None:
        nest_RC = assign_nests(library.gram.select(keep_C), seed=seed, partitions=partitions)
    for partition, nest_c in enumerate(nest_RC):
        for nest in range(int(nest_c.max()) + 1):
            held = kept[nest_c == nest]
            training_C = keep_C.copy()
            training_C[held] = False
            yield partition, training_C, np.concatenate([library.rows_of_cell[cell] for cell in held])


def _fit_all(library: Library, specs: Sequence[BlendSpec], keep_C: NDArray[np.bool_], seed: int) -> list[Blender]:
    """Fit on the kept cells; specifications with the same rule share its weights."""
    weights: dict[tuple[Rule, bool], FloatArray] = {}
    found = []
    for spec in specs:
        if spec.tried:
            found.append(fit_spec(library, spec, keep_C, seed=seed))
            continue
        key = (spec.rule, spec.per_target)
        if key not in weights:
            weights[key] = _target_weights(library, spec, keep_C, seed)
        found.append(_followed_up(library, spec, weights[key], keep_C))
    return found


def _target_weights(library: Library, spec: BlendSpec, keep_C: NDArray[np.bool_], seed: int) -> FloatArray:
    """weight_TM of a rule; one row for all targets unless weights are fitted per target."""
    gram = library.gram.select(keep_C)
    weight_TM = np.tile(fit_weights(gram, spec.rule, seed=seed), (len(TARGETS), 1))
    if spec.per_target:
        for target, target_gram in enumerate(library.target_grams):
            part = target_gram.select(keep_C)
            if part.sst > 0:  # a target that never varies here, or was not measured, keeps the shared weights
                weight_TM[target] = fit_weights(part, spec.rule, seed=seed, among_M=skilled(gram))
    return weight_TM


def _followed_up(library: Library, spec: BlendSpec, weight_TM: FloatArray, keep_C: NDArray[np.bool_]) -> Blender:
    blender = Blender(
        weight_TM=weight_TM,
        slope_T=np.ones(len(TARGETS)),
        offset_T=np.zeros(len(TARGETS)),
        floor_3=np.zeros(3),
        norm_T=library.norm_T,
    )
    if not (spec.calibrate or spec.zeros or spec.state):
        return blender
    rows = np.concatenate([cell for cell, kept in zip(library.rows_of_cell, keep_C, strict=True) if kept])
    truth_NT, weight = library.truth_NT[rows], weights_in(library.weight, rows)
    if spec.calibrate:
        support = blender.support
        raw_NT = np.einsum("tm,mnt->nt", weight_TM[:, support], library.pred_MNT[np.ix_(support, rows)])
        slope_T, offset_T = calibration(truth_NT, raw_NT, weight)
        blender = replace(blender, slope_T=slope_T, offset_T=offset_T)
    if spec.zeros:
        blender = replace(blender, floor_3=floors(truth_NT, blender.blend_rows(library.pred_MNT, rows), weight))
    if spec.state:
        states, state_N = library.states, library.state_N
        if states is None or state_N is None:
            raise UserError("the state rule needs the state of each photograph and how likely each is; got none")
        pred_NT = blender.blend_rows(library.pred_MNT, rows)
        rule = fit_state_rule(truth_NT, pred_NT, weight, state_N[rows], states.names, states.likely_NS[rows])
        blender = replace(blender, state_rule=rule, likely_NS=states.likely_NS)
    return blender


def calibration(
    truth_NT: FloatArray, pred_NT: FloatArray, weight: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Least-squares slope and offset per target, the slope pulled towards 1 (PRIOR_IMAGES); 1 where nothing varies.

    weight: of the cells, by default weights_of(truth_NT). A target that no row counts is left as it is.
    """
    weight = weights_of(truth_NT) if weight is None else weight
    images_T = images_by_target(weight, len(truth_NT))

    def mean(value_NT: FloatArray) -> FloatArray:
        return sums_by_target(value_NT, weight) / images_T

    pred_mean_T, truth_mean_T = mean(pred_NT), mean(truth_NT)
    spread_T = mean((pred_NT - pred_mean_T) ** 2)
    joint_T = mean((pred_NT - pred_mean_T) * (truth_NT - truth_mean_T))
    varies_T = spread_T > 0
    free_T = np.where(varies_T, joint_T / np.where(varies_T, spread_T, 1.0), 1.0)
    slope_T = (images_T * free_T + PRIOR_IMAGES) / (images_T + PRIOR_IMAGES)
    return slope_T, truth_mean_T - slope_T * pred_mean_T


def floors(truth_NT: FloatArray, pred_NT: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """Per component (green, dead, clover) the largest predicted mass that is better called 0, [3] grams; 0 for none,
    and for a component that was never measured.

    Setting component c of an image to 0 changes its squared error, in the metric's norm G, by
    2 p_c (G residual)_c + p_c^2 G_cc: summed over images from the smallest prediction on, the least sum is the place.
    weight: of the cells, by default weights_of(truth_NT); G is the image's own where its masses were not all measured.
    """
    weight = weights_of(truth_NT) if weight is None else weight
    pred_N3 = pred_NT[:, :3].copy()
    residual_NT = truth_NT - pred_NT
    floor_3 = np.zeros(3)
    for component in np.flatnonzero(norm_of(weight)[:3] > 0):
        column_T = FROM_COMPONENTS[:, component]
        order = np.argsort(pred_N3[:, component], kind="stable")
        mass_N = pred_N3[order, component]
        if weight.ndim == 1:
            slope_N, norm_N = residual_NT[order] @ (weight * column_T), _METRIC_33[component, component]
        else:
            slope_N = np.where(weight > 0, weight * residual_NT, 0.0)[order] @ column_T
            norm_N = weight[order] @ column_T
        change_N = np.cumsum(2 * mass_N * slope_N + mass_N**2 * norm_N)
        place = int(change_N.argmin())
        if change_N[place] < 0:
            beyond = mass_N[place + 1] if place + 1 < len(mass_N) else 2 * mass_N[place]
            floor_3[component] = (mass_N[place] + beyond) / 2  # between two masses: rounding must not decide
            zeroed_N = np.where(pred_N3[:, component] <= floor_3[component], pred_N3[:, component], 0.0)
            residual_NT += zeroed_N[:, None] * column_T
    return floor_3


def with_zeros(pred_NT: FloatArray, floor_3: FloatArray) -> FloatArray:
    """Coherent masses [N, 5] with the components that do not exceed their floor at 0; NaN, as of targets that were
    never measured, stays."""
    return without(pred_NT, pred_NT[:, :3] <= floor_3)


def _kept(library: Library, keep_C: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    return np.ones(library.gram.cells, dtype=bool) if keep_C is None else keep_C
