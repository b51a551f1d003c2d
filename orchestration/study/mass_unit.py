"""The unit in which a user has weighed, and how it is stored.

N rows of a quadrats table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from biomass_models.data.dataset import QUADRATS_FILE, UNITS, Dataset, inspect_dataset
from biomass_models.data.table import train_file
from biomass_models.targets import TARGETS, FloatArray
from orchestration.study.record import Part


@dataclass(frozen=True, kw_only=True)
class MassUnit(Part):
    """The unit in which a user has weighed: what pages and predictions show. Models and ledger hold grams a quadrat."""

    name: str = "g"  # one of dataset.UNITS
    area_m2: float | None = None  # of a quadrat
    area_column: str | None = None  # of the quadrats table, where areas differ [m2]

    @classmethod
    def of(cls, dataset: Dataset, quadrats: pd.DataFrame) -> Self:
        """As a dataset.toml says; quadrats: the models' table, which ends names that it needs itself in `_`."""
        if not isinstance(dataset.area, str):
            return cls(name=dataset.unit, area_m2=dataset.area)
        column = next(name for name in (dataset.area, f"{dataset.area}_") if name in quadrats)
        areas = quadrats[column].unique()
        if len(areas) == 1:
            return cls(name=dataset.unit, area_m2=float(areas[0]))
        return cls(name=dataset.unit, area_column=column)

    def per_gram(self, quadrats: pd.DataFrame | None = None) -> FloatArray | None:
        """How much of the unit one gram in a quadrat is: [N, 1], or [1, 1] where one number serves all.

        quadrats: a table that may have the areas. None where it has not, and areas differ.
        """
        if self.name == "g":
            return np.ones((1, 1))
        if self.area_m2 is not None:
            return np.full((1, 1), 1 / (UNITS[self.name] * self.area_m2))
        if quadrats is None or self.area_column not in quadrats:
            return None
        per_gram_N = 1 / (UNITS[self.name] * quadrats[self.area_column].to_numpy(dtype=np.float64))
        return per_gram_N[:, None]

    def per_square_metre(self, quadrats: pd.DataFrame | None = None) -> FloatArray | None:
        """How many g/m2 one gram in a quadrat is, [N] or [1]; None where the areas are not known."""
        if self.area_m2 is not None:
            return np.array([1 / self.area_m2])
        if quadrats is None or self.area_column is None or self.area_column not in quadrats:
            return None
        return 1 / quadrats[self.area_column].to_numpy(dtype=np.float64)


GRAMS = MassUnit()  # of train.csv


def table_unit(unit: MassUnit, measured: Sequence[str]) -> MassUnit | None:
    """Unit of the table of masses that predictions are written as; None where the competition's form holds all."""
    return None if unit.name == "g" and tuple(measured) == TARGETS else unit


def mass_unit_of(data_dir: Path, here: pd.DataFrame) -> MassUnit:
    """Unit of the masses of a data directory, whose table is `here`."""
    dataset = inspect_dataset(data_dir)[0] if train_file(data_dir) == QUADRATS_FILE else None
    return GRAMS if dataset is None else MassUnit.of(dataset, here)
