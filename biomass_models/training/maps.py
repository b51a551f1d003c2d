"""What a model says of places in a photograph, as a table. The unit is the family's (Family.map_unit).

Where it looked: one row for each image and view. Of a model of densities also one for each mass:

image_id, view   the view's name (images.View)
weight           of a local view beside the others, summing to 1 over them; missing for the whole image
rows, columns    of the map
look             share of each place of the map, row by row from the top left, summing to 1
mass             only of a model of densities: the target; `look` is then the grams that a quadrat would hold which is
                 everywhere like this place, and their mean over places and views is what is predicted
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from biomass_models.data.images import View

MAP_COLUMNS = ("image_id", "view", "weight", "rows", "columns", "look")
MASS_MAP_COLUMNS = (*MAP_COLUMNS, "mass")
FINEST = 16  # a stored map has at most so many rows and columns: enough to see where, small enough to keep for all


def coarse_map(look_BP: Tensor, grid: tuple[int, int]) -> Tensor:
    """Attention over patch tokens [B, P] -> maps [B, rows, columns] of at most FINEST a side, each summing to 1."""
    map_BHW = _coarse(look_BP.float().unflatten(1, grid))
    return map_BHW / map_BHW.sum((1, 2), keepdim=True)


def _coarse(map_BHW: Tensor) -> Tensor:
    grid = map_BHW.shape[-2:]
    size = (min(grid[0], FINEST), min(grid[1], FINEST))
    return map_BHW if size == grid else functional.adaptive_avg_pool2d(map_BHW, size)


def map_table(
    image_ids: Sequence[str],
    views: Sequence[View],
    map_VNHW: Sequence[NDArray[np.float32]],
    weight_NL: NDArray[np.float32],
) -> pd.DataFrame:
    """views: the whole image, then L local ones; map_VNHW: for each view [N, rows, columns]; weight_NL: [N, L]."""
    frames = []
    for number, (view, map_NHW) in enumerate(zip(views, map_VNHW, strict=True)):
        weight = np.full(len(image_ids), np.nan) if number == 0 else weight_NL[:, number - 1]
        frames.append(
            pd.DataFrame(
                {
                    "image_id": list(image_ids),
                    "view": view.name,
                    "weight": weight.astype(np.float32),
                    "rows": map_NHW.shape[1],
                    "columns": map_NHW.shape[2],
                    "look": list(map_NHW.reshape(len(image_ids), -1).astype(np.float32)),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)[list(MAP_COLUMNS)]


def mass_maps(
    image_ids: Sequence[str], views: Sequence[View], density_NVHWC: Tensor, masses: Sequence[str]
) -> pd.DataFrame:
    """Densities [grams per quadrat] of some masses at each place of each view, as MASS_MAP_COLUMNS."""
    tables = []
    for mass, density_NVHW in zip(masses, density_NVHWC.float().unbind(-1), strict=True):
        map_VNHW = [_coarse(density_NHW).numpy() for density_NHW in density_NVHW.unbind(1)]
        weight_NL = np.full((len(image_ids), len(views) - 1), np.nan, np.float32)  # views tile the photograph
        tables.append(map_table(image_ids, views, map_VNHW, weight_NL).assign(mass=mass))
    return pd.concat(tables, ignore_index=True)[list(MASS_MAP_COLUMNS)]
