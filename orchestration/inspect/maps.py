"""What models say of places in a photograph: where they looked, or how dense a mass is there; and pictures of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from biomass_models.data.frames import Fit, placed
from biomass_models.data.images import View, header_size
from biomass_models.families.readable import map_unit_of
from biomass_models.targets import FloatArray
from orchestration.overlay import G_PER_M2, Pixels, Placed, overlaid, scale_end, with_scale


class ViewMap(NamedTuple):
    """What a model says of the places of one view: where it looked, or how dense a mass is there."""

    view: str
    weight: float  # of a local view beside the others; NaN for the whole image, and for densities
    map_HW: FloatArray  # share of each place, summing to 1, or its density; see maps_in_unit
    mass: str = ""  # the target of a density map


def view_maps(table: pd.DataFrame | None, image_id: str) -> tuple[ViewMap, ...]:
    """Maps of one image, from what a family's `maps` returns; none where there is no table."""
    if table is None:
        return ()
    maps = table[table["image_id"].astype(str) == image_id]
    shapes = zip(maps["rows"].astype(int), maps["columns"].astype(int), strict=True)
    arrays = [np.reshape(flat, shape).astype(np.float64) for flat, shape in zip(maps["look"], shapes, strict=True)]
    mass = maps["mass"].astype(str) if "mass" in maps else [""] * len(maps)
    return tuple(map(ViewMap, maps["view"].astype(str), maps["weight"].astype(float), arrays, mass))


def mean_maps(tables: Sequence[pd.DataFrame], image_id: str) -> tuple[ViewMap, ...]:
    """Maps of one image, each the mean over the tables of some fold models."""
    by_fold = [view_maps(table, image_id) for table in tables]
    return tuple(_mean(of_view) for of_view in zip(*by_fold, strict=True))


def _mean(maps: Sequence[ViewMap]) -> ViewMap:
    """Fold models' maps of the same view and mass."""
    weight, map_HW = np.mean([one.weight for one in maps]), np.mean([one.map_HW for one in maps], axis=0)
    return maps[0]._replace(weight=float(weight), map_HW=map_HW)


def maps_in_unit(
    maps: tuple[ViewMap, ...], family: str, per_square_metre: FloatArray | None
) -> tuple[tuple[ViewMap, ...], str]:
    """Maps in the unit that is shown, and its name: densities are g/m2 where the area of the quadrat is known."""
    if per_square_metre is None or not by_mass(maps):
        return maps, map_unit_of(family)
    return tuple(one._replace(map_HW=one.map_HW * per_square_metre[0]) for one in maps), G_PER_M2


def by_mass(maps: Sequence[ViewMap]) -> dict[str, list[ViewMap]]:
    """Density maps by target; empty for maps of where a model looked."""
    found: dict[str, list[ViewMap]] = {}
    for one in maps:
        if one.mass:
            found.setdefault(one.mass, []).append(one)
    return found


def map_panels(
    path: Path, photograph: Pixels, views: Sequence[View], fit: Fit, maps: Sequence[ViewMap], unit: str
) -> list[tuple[str, Pixels]]:
    """Caption and picture of the density of each mass; or of where a model looked in the whole photograph, and in its
    local views. Colours over the grey photograph, with their scale.

    photograph: as it is shown; views: that the model sees of the file at `path`.
    """
    boxes = {view.name: view.box for view in placed(views, header_size(path), fit)}
    densities = by_mass(maps)
    panels = []
    for mass, of_mass in densities.items():
        end = scale_end(max(float(one.map_HW.max()) for one in of_mass))
        name = mass.removeprefix("Dry_").removesuffix("_g")
        painted = overlaid(photograph, [Placed(boxes[one.view], one.map_HW) for one in of_mass], end)
        caption = f"{name if name == 'GDM' else name.lower()}: density of each place"
        panels.append((caption, with_scale(painted, "", end, unit)))
    if maps and not densities:
        whole, *local = maps
        end = float(whole.map_HW.max())
        picture = _share_panel(photograph, [Placed(boxes[whole.view], whole.map_HW)], end, unit)
        panels.append(("Where it looked in the whole image", picture))
        if local:
            scaled = [
                Placed(boxes[one.view], one.map_HW * one.weight, f"{one.weight:.2f}")
                for one in sorted(local, key=lambda one: one.weight)  # what weighs more lies above
            ]
            caption = "Where it looked in the local views, each share times the view's weight (numbers: the weights)"
            end = max(float(one.map_HW.max()) for one in scaled)
            panels.append((caption, _share_panel(photograph, scaled, end, unit)))
    return panels


def _share_panel(photograph: Pixels, places: Sequence[Placed], end: float, unit: str) -> Pixels:
    """Shares of the attention, whose scale is in percent."""
    return with_scale(overlaid(photograph, places, end or 1.0), "", float(f"{100 * end:.2g}"), f"% ({unit})")
