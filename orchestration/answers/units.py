"""From grams in a quadrat to the unit that is asked for: a conversion, never another view of a photograph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from biomass_models.config_rules import known_name
from biomass_models.counted import counted
from biomass_models.data.dataset import AREA_RANGE, UNITS, is_area
from biomass_models.errors import UserError
from biomass_models.targets import FloatArray
from orchestration.study.mass_unit import MassUnit


@dataclass(frozen=True, kw_only=True, eq=False)
class Conversion:
    """Of masses of one blend."""

    unit: str  # one of dataset.UNITS
    per_gram_N: FloatArray  # how much of it one gram in a quadrat is, [N] or [1]
    note: str | None = None


def conversion(own: MassUnit, unit: str | None, area: float | None, table: pd.DataFrame) -> Conversion:
    """own: unit and area of the study's quadrats; unit, area [m2]: as asked for; table: may hold a column of areas.

    Models see how much of a quadrat is covered, and learned what that weighs in a quadrat of theirs. So another area
    scales grams; per square metre it would only change what the photograph shows. Raises UserError for that, and where
    the area is needed and not known.
    """
    unit = known_name("--unit", own.name if unit is None else unit, tuple(UNITS))
    if area is not None and not is_area(area):
        raise UserError(f"--area is m2 of a quadrat, {AREA_RANGE}, got {area:g}")
    trained = own.area_m2
    if trained is not None and area is not None and not np.isclose(area, trained):
        if unit != "g":
            raise UserError(
                f"the models have seen quadrats of {trained:g} m2: photographs must show as much, and {unit} follow "
                f"from it; got --area {area:g}, leave it out"
            )
        note = f"grams on {area:g} m2, converted from the {trained:g} m2 that were weighed and that photographs show"
        return Conversion(unit=unit, per_gram_N=np.array([area / trained]), note=note)
    if unit == "g":
        if area is not None and trained is None:
            raise UserError(
                f"grams are those of a quadrat as it was weighed, and its area is not known; got --area {area:g}: "
                "leave it out, or ask for g/m2 or kg/ha with the area that was weighed"
            )
        return Conversion(unit=unit, per_gram_N=np.ones(1))
    areas = np.array([trained if trained is not None else area], dtype=np.float64)
    if trained is None and own.area_column is not None and own.area_column in table and area is None:
        areas = pd.to_numeric(table[own.area_column], errors="coerce").to_numpy(dtype=np.float64)
        if wrong := [row for row, one in enumerate(areas) if not is_area(one)]:
            raise UserError(
                f"each photograph has its quadrat's area in the column {own.area_column}, in m2, {AREA_RANGE}; "
                f"{counted(len(wrong), 'has', 'have')} none, such as photograph {wrong[0] + 1}"
            )
    elif np.isnan(areas).any():
        known = f"a column {own.area_column}, or " if own.area_column is not None else ""
        raise UserError(f"{unit} needs the area of the quadrats that were weighed, in m2; give {known}--area")
    return Conversion(unit=unit, per_gram_N=1 / (UNITS[unit] * areas))
