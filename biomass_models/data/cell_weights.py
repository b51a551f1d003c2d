"""What each cell of a table of quadrats counts in the metric: what was measured, by weights of the metric or the user.

N images, T = 5 targets; mass_NT in grams, NaN where not measured. A table holds WEIGHT_COLUMNS only where the weights
are not the published ones: the user gave some, or several photographs show one quadrat.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from biomass_models.targets import TARGETS, FloatArray, IntArray, norm_of, weights_of

WEIGHT_COLUMNS: tuple[str, ...] = tuple(f"weight_{name}" for name in TARGETS)


def cell_weights(quadrats: pd.DataFrame) -> FloatArray:
    """Weights of the cells of a table with TARGETS, NaN where not measured: as targets.weights_of."""
    given = quadrats[list(WEIGHT_COLUMNS)].to_numpy(np.float64) if WEIGHT_COLUMNS[0] in quadrats else None
    return weights_of(quadrats[list(TARGETS)].to_numpy(np.float64), given)


def measured_masses(quadrats: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Masses of a table, NaN in every cell that does not count, whatever stands there; and cell_weights."""
    mass_NT, weight = quadrats[list(TARGETS)].to_numpy(np.float64), cell_weights(quadrats)
    return (mass_NT if weight.ndim == 1 else np.where(weight > 0, mass_NT, np.nan)), weight


def row_weights(weight: FloatArray, rows: int) -> FloatArray:
    """What each row counts beside one whose quadrat has a single photograph: [rows], 1 or less."""
    if weight.ndim == 1:
        return np.ones(rows)
    norm_T = norm_of(weight)
    share_NT = np.where(weight > 0, weight / np.where(norm_T > 0, norm_T, 1.0), 1.0)
    share_N: FloatArray = share_NT.min(axis=1)
    return share_N


def measured_alike(mass_NT: FloatArray) -> list[tuple[IntArray, IntArray]]:
    """Targets that were measured in the same rows: (columns, rows) of each set; targets never measured are in none."""
    measured_TN = ~np.isnan(mass_NT).T
    patterns, of_T = np.unique(measured_TN, axis=0, return_inverse=True)
    return [
        (np.flatnonzero(of_T == place), np.flatnonzero(pattern))
        for place, pattern in enumerate(patterns)
        if pattern.any()
    ]
