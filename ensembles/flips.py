"""Are predictions better as means over turned and mirrored copies of the photographs? Measured on out-of-fold rows.

A blend's own members only, with the weights that their plain predictions give: nested, so that neither weights nor
follow-ups have seen the rows that are compared; paired over groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from biomass_models.errors import UserError
from biomass_models.targets import FloatArray, project_coherent
from ensembles.choice import inner_nests
from ensembles.honest import Estimate, paired_difference
from ensembles.members.library import Library
from ensembles.recipe import Recipe, honest_rows


def flips_gain(library: Library, flipped: Mapping[str, FloatArray], recipe: Recipe, *, seed: int = 0) -> Estimate:
    """Nested score gained by blending the members' flipped out-of-fold predictions instead of the plain ones.

    flipped: pred_NT [N, 5] in grams by member, rows as the library's; only these members are blended. Raises ValueError
    for a library with a single fold and group.
    """
    kept = [row for row, name in enumerate(library.names) if name in flipped]
    part = replace(library, names=tuple(library.names[row] for row in kept), pred_MNT=library.pred_MNT[kept])
    by = inner_nests(part.gram)
    if by is None:
        raise UserError("a gain is measured by nests, this library has a single fold and group; blend without flips")
    shown_MNT = project_coherent(np.stack([flipped[name] for name in part.names]))
    loss_C, plain_C = (
        part.loss_by_cell(honest_rows(part, recipe, by, seed=seed, shown_MNT=shown))
        for shown in (shown_MNT, part.pred_MNT)
    )
    return paired_difference(part.gram, loss_C, plain_C, seed=seed)
