"""What each cell of a table of quadrats counts in the metric: what was measured, by weights of the metric or the user.

N images, T = 5 targets. A table holds WEIGHT_COLUMNS only where the weights are not the published ones: the user gave
some, or several photographs show one quadrat.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from biomass_models.targets import TARGETS, FloatArray, weights_of

WEIGHT_COLUMNS: tuple[str, ...] = tuple(f"weight_{name}" for name in TARGETS)


def cell_weights(quadrats: pd.DataFrame) -> FloatArray:
    """Weights of the cells of a table with TARGETS, NaN where not measured: as targets.weights_of."""
    given = quadrats[list(WEIGHT_COLUMNS)].to_numpy(np.float64) if WEIGHT_COLUMNS[0] in quadrats else None
    return weights_of(quadrats[list(TARGETS)].to_numpy(np.float64), given)
