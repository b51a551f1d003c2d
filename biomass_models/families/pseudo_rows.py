"""The table of a fit with photographs that models have labelled: a second round (docs/blending.md).

N rows of the table, P photographs, T = 5 targets.
label_PT   grams that models predicted; NaN in targets that no row of the table's training side has
share_P    what a photograph counts beside the others of its quadrat: 1 / their number

They are training rows of every fold, and marked (fold_rows.PSEUDO): what a family fits beside its predictor, such as
scalers, inner folds and penalties, learns from the other rows alone (training.fit.FoldRows).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from biomass_models.config_rules import require
from biomass_models.data.cell_weights import WEIGHT_COLUMNS, cell_weights
from biomass_models.fold_rows import ALWAYS, PSEUDO
from biomass_models.targets import TARGETS, FloatArray, norm_of

GROUP = "pseudo-labelled"  # of all of them: they lie in no inner fold


def with_pseudo_rows(
    quadrats: pd.DataFrame, image_id: pd.Series, label_PT: FloatArray, share_P: FloatArray, weight: float
) -> pd.DataFrame:
    """The table with a row more for each photograph; image_id: their names, which no row of the table has.

    weight: what such a row counts where a weighed one counts 1, above 0 and at most 1.
    """
    require("a pseudo-label counts more than 0 and at most as much as a weighed one, 1", 0 < weight <= 1, weight)
    twice = sorted(set(image_id) & set(quadrats["image_id"]))
    require("photographs that models have labelled have names of their own", not twice, twice[0] if twice else "")
    cell, masses, columns = cell_weights(quadrats), list(TARGETS), list(WEIGHT_COLUMNS)
    table = quadrats.assign(**{PSEUDO: False})
    table[columns] = np.broadcast_to(cell, (len(quadrats), len(TARGETS)))
    added = pd.DataFrame({"image_id": list(image_id), "fold": ALWAYS, "group": GROUP, PSEUDO: True})
    added[masses] = label_PT
    added[columns] = weight * share_P[:, None] * norm_of(cell)
    return pd.concat([table, added], ignore_index=True)
