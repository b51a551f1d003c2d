"""Are predictions better as means over turned and mirrored copies of the photographs? Measured on out-of-fold rows.

M members, N images, T = 5 targets, R partitions (nests.py); masses in grams. In each nest the blend is fitted on plain
predictions, flips are compared on its own members by nests inside of it, and the held-out rows are blended as that
comparison came out: the nested score pays for the decision. That takes flipped predictions of each member that has
weight in some nest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biomass_models.errors import UserError
from biomass_models.targets import FloatArray, IntArray, project_coherent
from ensembles.honest import Estimate, paired_difference
from ensembles.members.library import Library
from ensembles.nests import INNER_PARTITIONS, PARTITIONS, can_nest, fold_nests
from ensembles.spec import Blender, BlendSpec, fit_spec, training_cells


@dataclass(frozen=True, kw_only=True, eq=False)
class Flipped:
    """Out-of-fold predictions [N, 5] in grams by member, as means over `copies` turned and mirrored photographs."""

    copies: int
    pred_NT: Mapping[str, FloatArray]

    def beside(self, library: Library) -> FloatArray:
        """pred_MNT of all members, coherent; members without flipped predictions keep their plain ones."""
        pred_MNT = library.pred_MNT.copy()
        for row, name in enumerate(library.names):
            if name in self.pred_NT:
                pred_MNT[row] = project_coherent(np.asarray(self.pred_NT[name], dtype=np.float64), library.norm_T)
        return pred_MNT


def members_in_nests(library: Library, spec: BlendSpec, *, seed: int = 0) -> tuple[str, ...]:
    """Names of the members that have weight in the blend, in one of its nests, or in one of those of the folds."""
    has_weight_M = np.zeros(len(library.names), dtype=bool)
    has_weight_M[fit_spec(library, spec, seed=seed, partitions=PARTITIONS).support] = True
    by_fold = fold_nests(library.gram)
    found = [training_cells(library, seed=seed)]
    found += [] if by_fold is None else [training_cells(library, seed=seed, nest_RC=by_fold)]
    for _, training_C, _ in itertools.chain(*found):
        has_weight_M[fit_spec(library, spec, training_C, seed=seed).support] = True
    return tuple(library.names[row] for row in np.flatnonzero(has_weight_M))


def flips_gain(
    library: Library,
    flipped_MNT: FloatArray,
    spec: BlendSpec,
    blender: Blender,
    keep_C: NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    partitions: int = PARTITIONS,
) -> Estimate:
    """Nested score gained on the kept cells by blending flipped instead of plain predictions of the blender's members.

    Raises UserError for a library with a single fold and group.
    """
    keep_C = np.ones(library.gram.cells, dtype=bool) if keep_C is None else keep_C
    gram = library.gram.select(keep_C)
    if not can_nest(gram):
        raise UserError("a gain is measured by nests, this library has a single fold and group; blend without flips")
    support = blender.support
    own = replace(library, names=tuple(library.names[row] for row in support), pred_MNT=library.pred_MNT[support])
    rows_sRNT = [np.full((partitions, *library.truth_NT.shape), np.nan) for _ in range(2)]
    size = 0
    for partition, training_C, rows in training_cells(own, keep_C, seed=seed, partitions=partitions):
        inner = fit_spec(own, spec.using(), training_C, seed=seed)
        for rows_RNT, pred_MNT in zip(rows_sRNT, (own.pred_MNT, flipped_MNT[support]), strict=True):
            rows_RNT[partition, rows] = inner.blend_rows(pred_MNT, rows)
        size = partition + 1
    plain_RC, flipped_RC = (library.loss_by_cell(rows_RNT[:size])[:, keep_C] for rows_RNT in rows_sRNT)
    return paired_difference(gram, flipped_RC, plain_RC)


def nested_rows_with_flips(
    library: Library,
    flipped_MNT: FloatArray,
    spec: BlendSpec,
    *,
    seed: int = 0,
    nest_RC: IntArray | None = None,
) -> FloatArray:
    """As spec.nested_rows, where each nest also decides whether to flip."""
    found: dict[int, FloatArray] = {}
    for partition, training_C, rows in training_cells(library, seed=seed, nest_RC=nest_RC):
        blender = fit_spec(library, spec, training_C, seed=seed)
        pred_MNT = library.pred_MNT
        if can_nest(library.gram.select(training_C)):
            gain = flips_gain(library, flipped_MNT, spec, blender, training_C, seed=seed, partitions=INNER_PARTITIONS)
            pred_MNT = flipped_MNT if gain.value > gain.se else pred_MNT
        rows_NT = found.setdefault(partition, np.full(library.truth_NT.shape, np.nan))
        rows_NT[rows] = blender.blend_rows(pred_MNT, rows)
    return np.stack(list(found.values()))
