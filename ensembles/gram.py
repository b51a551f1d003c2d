"""Error Gram matrices of a library, per group of rows: all that selection, nests and jackknives need.

M members, N images, T = 5 targets, C cells. A cell holds the images of one group in one fold: the smallest piece
that any nest or jackknife moves. Masses in grams, float64.
component_MN3  green, dead, clover of coherent members      truth_NT   measured masses
factor_ME      one per cell: factor @ factor.T is the cell's weighted residual Gram in g^2
weight         of the metric: [5] where all was measured, else [N, 5] with 0 in what was not (targets.weights_of)
moment_C3      per cell the sums of w, w y, w y^2 over its rows: the moving parts of the metric's denominator
sum_CT         per cell the sum of each target's masses, and count_CT of how many rows: what the per-target mean out of
               fold follows from; both by weight where rows weigh differently
unit_C         what errors are counted by: the cell's group, or what is kept whole around it, such as a state
gram_MM        total Gram / SST, so that R2(weights) = 1 - weights @ gram_MM @ weights when they sum to 1

Two facts keep this small. Coherent members live in a space of 3 components, so 3 columns an image (and one for the
truth's own incoherence) hold all of 5 targets; where not all was measured, an image has a column for each mass that
was. And a cell's Gram has rank M at most, so its factor never has more than M columns: past this file nothing depends
on the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biomass_models.errors import UserError
from biomass_models.targets import (
    FROM_COMPONENTS,
    TARGETS,
    FloatArray,
    IntArray,
    squared_error,
    weight_T,
    weights_in,
    weights_of,
)

_METRIC_33 = FROM_COMPONENTS.T @ (weight_T[:, None] * FROM_COMPONENTS)  # the metric's norm, seen by components
_ROOT_33 = np.linalg.cholesky(_METRIC_33)
_IDENTITY_T2 = np.array([[1.0, 0], [0, 1], [1, 0], [-1, 1], [0, -1]])  # Green + Clover - GDM, GDM + Dead - Total
_TO_COMPONENTS_3T = np.linalg.solve(_METRIC_33, FROM_COMPONENTS.T * weight_T)


@dataclass(frozen=True, kw_only=True, eq=False)
class ErrorGram:
    """The residuals of M members in C cells, reduced to Gram factors. What a rule sees and a nest cuts."""

    factors: tuple[FloatArray, ...]  # C arrays [M, E_c], grams
    moment_C3: FloatArray
    sum_CT: FloatArray
    count_CT: FloatArray
    target_weight_T: FloatArray  # what a target's sums count; 1 where they are weighted already
    fold_C: IntArray
    group_C: NDArray[np.str_]
    unit_C: NDArray[np.str_]
    whole: ErrorGram | None = field(default=None, repr=False)  # what these cells were cut from, when few were cut off
    held: tuple[FloatArray, ...] = field(default=(), repr=False)  # the factors cut off
    wider: tuple[ErrorGram, IntArray] | None = field(default=None, repr=False)  # a Gram of more members; which
    place_M: IntArray | None = field(default=None, repr=False)  # of the members among those of the library; None: all

    def __post_init__(self) -> None:
        columns = (self.factors, self.moment_C3, self.sum_CT, self.count_CT, self.fold_C, self.group_C, self.unit_C)
        cells = {len(column) for column in columns}
        if len(cells) != 1 or not self.factors:
            raise ValueError(f"factors, moments, folds, groups, units must cover the same cells, got lengths {cells}")

    @property
    def members(self) -> int:
        return len(self.factors[0])

    @property
    def places(self) -> IntArray:
        """Which members of the library these are, [M]."""
        return np.arange(self.members, dtype=np.int64) if self.place_M is None else self.place_M

    @property
    def cells(self) -> int:
        return len(self.factors)

    @cached_property
    def sst(self) -> float:
        """The metric's denominator over these cells, around their own grand weighted mean, g^2; 0 without spread."""
        moment_3 = self.moment_C3.sum(0)
        sst = float(sst_of(moment_3))
        return sst if sst > 1e-12 * float(moment_3[2]) else 0.0  # what rounding leaves is no spread

    @cached_property
    def loss_CM(self) -> FloatArray:
        """Weighted squared error of each member in each cell, g^2."""
        return np.stack([np.einsum("me,me->m", factor, factor) for factor in self.factors])

    @cached_property
    def loss_M(self) -> FloatArray:
        """Each member's 1 - R2 over these cells."""
        return self.loss_CM.sum(0) / self.sst

    @cached_property
    def per_target_mean_loss(self) -> float:
        """1 - R2 over these cells of each target's mean over the other folds; over all rows with a single fold, and of
        a target that is measured in one only."""
        loss, folds = 0.0, np.unique(self.fold_C)
        every_T, images_T = self.sum_CT.sum(0), np.maximum(self.count_CT.sum(0), np.finfo(np.float64).tiny)
        for fold in folds:
            held_C = self.fold_C == fold
            others_C = ~held_C if len(folds) > 1 else held_C
            count_T = self.count_CT[others_C].sum(0)
            known_T = count_T > 0
            mean_T = np.where(known_T, self.sum_CT[others_C].sum(0), every_T) / np.where(known_T, count_T, images_T)
            square, sum_T = self.moment_C3[held_C, 2].sum(), self.sum_CT[held_C].sum(0)
            count_T = self.count_CT[held_C].sum(0)
            loss += square - 2 * self.target_weight_T @ (mean_T * sum_T) + count_T * self.target_weight_T @ mean_T**2
        return float(loss / self.sst)

    @cached_property
    def product_MM(self) -> FloatArray:
        """Unscaled Gram over all these cells, g^2."""
        if self.wider is not None:
            gram, index = self.wider
            return gram.product_MM[np.ix_(index, index)]
        if self.whole is not None:
            held_ME = np.concatenate(self.held, axis=1)
            return self.whole.product_MM - held_ME @ held_ME.T
        factor_ME = np.concatenate(self.factors, axis=1)
        return factor_ME @ factor_ME.T

    @cached_property
    def gram_MM(self) -> FloatArray:
        return self.product_MM / self.sst

    def loss_of(self, weight_M: FloatArray) -> float:
        """1 - R2 of a blend over these cells."""
        return float(self.loss_by_cell(weight_M).sum() / self.sst)

    def loss_by_cell(self, weight_M: FloatArray) -> FloatArray:
        """Weighted squared error of a blend in each cell, [C] g^2; only members with weight are touched."""
        support = np.flatnonzero(weight_M)
        return np.array([((weight_M[support] @ factor[support]) ** 2).sum() for factor in self.factors])

    def select(self, keep_C: ArrayLike) -> ErrorGram:
        """Only the cells where keep_C is true. Nothing is copied; a Gram made by subtraction where that is cheaper."""
        keep = np.asarray(keep_C, dtype=bool)
        if not keep.any():
            raise ValueError("a selection of cells must keep at least one, got none")
        held = tuple(factor for factor, kept in zip(self.factors, keep, strict=True) if not kept)
        cheap = 0 < sum(part.shape[1] for part in held) < sum(f.shape[1] for f in self.factors) / 2
        part = self._cells(
            np.flatnonzero(keep),
            tuple(factor for factor, kept in zip(self.factors, keep, strict=True) if kept),
            whole=self if cheap else None,
            held=held if cheap else (),
        )
        part.__dict__["loss_CM"] = self.loss_CM[keep]
        return part

    def keep(self, index_K: ArrayLike) -> ErrorGram:
        """Only the given members, in the given order."""
        index = np.asarray(index_K, dtype=np.int64)
        known = "product_MM" in self.__dict__ or (self.whole is not None and len(index) > self.members / 2)
        part = replace(
            self,
            factors=tuple(factor[index] for factor in self.factors),
            whole=None,
            held=(),
            wider=(self, index) if known else None,
            place_M=self.places[index],
        )
        part.__dict__["loss_CM"] = self.loss_CM[:, index]
        return part

    def _cells(
        self,
        index_C: NDArray[np.int64],
        factors: tuple[FloatArray, ...],
        *,
        whole: ErrorGram | None,
        held: tuple[FloatArray, ...],
    ) -> ErrorGram:
        """These cells, with the given factors."""
        return ErrorGram(
            factors=factors,
            moment_C3=self.moment_C3[index_C],
            sum_CT=self.sum_CT[index_C],
            count_CT=self.count_CT[index_C],
            target_weight_T=self.target_weight_T,
            fold_C=self.fold_C[index_C],
            group_C=self.group_C[index_C],
            unit_C=self.unit_C[index_C],
            whole=whole,
            held=held,
            place_M=self.place_M,
        )


def sst_of(moment: FloatArray) -> FloatArray:
    """Total sum of squares around the grand weighted mean, from sums of (w, w y, w y^2) on the last axis."""
    weight = moment[..., 0]
    return moment[..., 2] - moment[..., 1] ** 2 / np.where(weight > 0, weight, 1.0)


def cells_of(fold_N: ArrayLike, group_N: ArrayLike) -> tuple[list[IntArray], IntArray, NDArray[np.str_]]:
    """Rows of each cell, and each cell's fold and group, ordered by fold and then group."""
    fold = np.asarray(fold_N, dtype=np.int64)
    group = np.asarray(group_N).astype(np.str_)
    order = np.lexsort((group, fold))
    new = (fold[order][1:] != fold[order][:-1]) | (group[order][1:] != group[order][:-1])
    rows = np.split(order, np.flatnonzero(new) + 1)
    first = np.array([cell[0] for cell in rows])
    return rows, fold[first], group[first]


def error_gram(
    pred_MNT: ArrayLike,
    truth_NT: ArrayLike,
    fold_N: ArrayLike,
    group_N: ArrayLike,
    unit_N: ArrayLike | None = None,
    weight: FloatArray | None = None,
) -> ErrorGram:
    """Reduce coherent predictions [M, N, 5] and truth [N, 5] (grams) to Gram factors per (fold, group) cell.

    unit_N: the error units, coarser than the groups; the groups themselves where it is None; weight: of the metric, by
    default weights_of(truth_NT). Raises ValueError for predictions off the identities where all was measured (project
    them first), and for values that count and are not finite; UserError for a truth without spread.
    """
    pred, truth = np.asarray(pred_MNT, dtype=np.float64), np.asarray(truth_NT, dtype=np.float64)
    if pred.ndim != 3 or truth.shape != (pred.shape[1], len(TARGETS)) or pred.shape[2] != len(TARGETS):
        raise ValueError(f"predictions must be [M, N, 5] and truth [N, 5], got {pred.shape} and {truth.shape}")
    weight = weights_of(truth) if weight is None else weight
    if weight.ndim == 1 and (weight == weight_T).all():
        gap = float(np.abs(pred @ _IDENTITY_T2).max())
        if not gap <= 1e-6 * max(1.0, float(pred.max())):  # so written that NaN is refused as well
            raise ValueError(f"members must hold the identities, got a gap of {gap:.3g} g; use project_coherent first")
        return gram_of_components(pred[..., :3], truth, fold_N, group_N, unit_N)
    weight_NT = np.broadcast_to(weight, truth.shape)
    return _with_spread(_gram_of_cells(pred, truth, weight_NT, fold_N, group_N, unit_N))


def gram_of_components(
    component_MN3: FloatArray | NDArray[np.float32],
    truth_NT: FloatArray,
    fold_N: ArrayLike,
    group_N: ArrayLike,
    unit_N: ArrayLike | None = None,
) -> ErrorGram:
    """As error_gram, from the three component masses (green, dead, clover) of each member."""
    truth_N3 = truth_NT @ _TO_COMPONENTS_3T.T
    incoherent_N = squared_error(truth_NT, truth_N3 @ FROM_COMPONENTS.T)
    members = len(component_MN3)

    def reduce(rows: IntArray) -> FloatArray:
        residual_Mn3 = truth_N3[rows] - component_MN3[:, rows]
        residual_M3n = (residual_Mn3.reshape(-1, 3) @ _ROOT_33).reshape(members, -1)
        offset_M1 = np.full((members, 1), np.sqrt(incoherent_N[rows].sum()))
        return _shortest(np.concatenate([residual_M3n, offset_M1], axis=1))

    return _with_spread(_assemble(reduce, truth_NT, weight_T, fold_N, group_N, unit_N))


def target_gram(
    pred_MN: FloatArray,
    truth_N: FloatArray,
    fold_N: ArrayLike,
    group_N: ArrayLike,
    unit_N: ArrayLike | None = None,
    weight_N: FloatArray | None = None,
) -> ErrorGram:
    """The Gram of one target alone (R2 around that target's own mean), for rules with weights per target.

    weight_N: of the images, 0 where the target was not measured; by default all count alike, but for NaN in the truth.
    A target without spread, or never measured, has an SST of 0: there is no R2 to maximise.
    """
    if weight_N is None and np.isnan(truth_N).any():
        weight_N = np.where(np.isnan(truth_N), 0.0, 1.0)
    if weight_N is not None:
        column = np.s_[..., None]
        return _gram_of_cells(pred_MN[column], truth_N[column], weight_N[column], fold_N, group_N, unit_N)

    def reduce(rows: IntArray) -> FloatArray:
        return _shortest(truth_N[rows] - pred_MN[:, rows])

    return _assemble(reduce, truth_N[:, None], np.ones(1), fold_N, group_N, unit_N)


def moments_of(truth_NT: FloatArray, weight: FloatArray) -> FloatArray:
    """Sums of w, w y, w y^2 over rows, [3]; weight: of the targets, or of each cell."""
    if weight.ndim == 1:
        return np.array([weight.sum() * len(truth_NT), (weight * truth_NT).sum(), (weight * truth_NT**2).sum()])
    mass_NT = np.where(weight > 0, truth_NT, 0.0)
    return np.array([weight.sum(), (weight * mass_NT).sum(), (weight * mass_NT**2).sum()])


def _gram_of_cells(
    pred_MNt: FloatArray,
    truth_Nt: FloatArray,
    weight_Nt: FloatArray,
    fold_N: ArrayLike,
    group_N: ArrayLike,
    unit_N: ArrayLike | None,
) -> ErrorGram:
    """From masses that each count by a weight of their own; those without any are never read."""

    def reduce(rows: IntArray) -> FloatArray:
        counts_nt = weight_Nt[rows] > 0
        residual_ME = (truth_Nt[rows][counts_nt] - pred_MNt[:, rows][:, counts_nt]) * np.sqrt(
            weight_Nt[rows][counts_nt]
        )
        if not np.isfinite(residual_ME).all():
            raise ValueError("masses that count must be finite, of truth and members; look for NaN")
        return _shortest(residual_ME)

    return _assemble(reduce, truth_Nt, weight_Nt, fold_N, group_N, unit_N)


def _with_spread(gram: ErrorGram) -> ErrorGram:
    if not gram.sst > 0:
        raise UserError("R2 needs masses that differ, got a truth without any spread")
    return gram


def _assemble(
    reduce: Callable[[IntArray], FloatArray],
    truth_Nt: FloatArray,
    weight: FloatArray,
    fold_N: ArrayLike,
    group_N: ArrayLike,
    unit_N: ArrayLike | None,
) -> ErrorGram:
    rows, fold_C, group_C = cells_of(fold_N, group_N)
    unit = np.asarray(group_N if unit_N is None else unit_N).astype(np.str_)
    if split := [str(group_C[cell]) for cell, own in enumerate(rows) if (unit[own] != unit[own[0]]).any()]:
        raise ValueError(f"a unit must hold whole groups, group {split[0]} lies in several units")
    by_target = weight.ndim == 1
    row_weight_Nt = np.ones(truth_Nt.shape) if by_target else weight
    mass_Nt = truth_Nt if by_target else weight * np.where(weight > 0, truth_Nt, 0.0)
    return ErrorGram(
        factors=tuple(reduce(cell) for cell in rows),
        moment_C3=np.stack([moments_of(truth_Nt[cell], weights_in(weight, cell)) for cell in rows]),
        sum_CT=np.stack([mass_Nt[cell].sum(0) for cell in rows]),
        count_CT=np.stack([row_weight_Nt[cell].sum(0) for cell in rows]),
        target_weight_T=weight if by_target else np.ones(truth_Nt.shape[1]),
        fold_C=fold_C,
        group_C=group_C,
        unit_C=unit[[own[0] for own in rows]],
    )


def _shortest(factor_ME: FloatArray) -> FloatArray:
    """A factor with the same Gram and at most M columns."""
    members, columns = factor_ME.shape
    if columns <= members:
        return np.ascontiguousarray(factor_ME)
    upper_MM: FloatArray = np.linalg.qr(factor_ME.T, mode="r")  # type: ignore[assignment]
    return np.ascontiguousarray(upper_MM.T)
