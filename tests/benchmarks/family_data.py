"""Data sets of the family study: drawn pastures with a true test set, and photographs whose totals were weighed.

N training images, M test images, T = 5 targets; masses in grams.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import assign_folds
from biomass_models.data.importing import import_table, write_import
from biomass_models.data.table import fit_of, read_masses, read_test, read_train
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.fold_units import units_of
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS, FloatArray

IMAGES, TEST_IMAGES = 357, 120
FOLDS = 5
WEIGHTS = WeightsSource(kind="auto")


@dataclass(frozen=True)
class Dataset:
    """A data directory with one draw of folds; of drawn pasture the photographs change with the seed as well."""

    folder: Path  # of everything that is measured on it
    seed: int
    photographs: Path | None = None  # a folder with table.csv (photo, item, total_g); None: drawn pasture

    @property
    def is_drawn(self) -> bool:
        return self.photographs is None

    @property
    def data_dir(self) -> Path:
        """The photographs are the same in all draws of their folds."""
        return self.folder / "data" if self.is_drawn else self.folder.parent / "data"

    @property
    def truth_path(self) -> Path:
        """The masses of the drawn test set."""
        return self.folder / "truth.csv"

    def make(self) -> None:
        """Draw or import what is not there."""
        if self.photographs is None:
            if not self.truth_path.exists():
                make_pasture(
                    self.data_dir,
                    truth_path=self.truth_path,
                    images=IMAGES,
                    test_images=TEST_IMAGES,
                    seed=self.seed,
                    width=1000,
                    height=500,
                )
        elif not self.data_dir.exists():
            table = self.photographs / "table.csv"
            read = import_table(table, self.photographs, given={}, unit=None, area=None, groups=("item",))
            write_import(read, self.photographs, self.data_dir)

    @cached_property
    def quadrats(self) -> pd.DataFrame:
        """The training table with fold, group and unit."""
        table = read_train(self.data_dir)
        folds = assign_folds(table, n_folds=FOLDS, seed=self.seed).set_index("image_id").loc[table["image_id"]]
        folded = table.assign(fold=folds["fold"].to_numpy(), group=folds["group"].to_numpy())
        return folded.assign(unit=units_of(folded, "date"))

    @cached_property
    def test_MT(self) -> FloatArray:
        """True test masses; no rows where nothing was drawn."""
        if not self.is_drawn:
            return np.empty((0, len(TARGETS)))
        truth = read_masses(self.truth_path).loc[read_test(self.data_dir)["image_id"], list(TARGETS)]
        return truth.to_numpy(np.float64)

    def inputs(self, cache: Path) -> Inputs:
        """The training photographs."""
        return self._inputs(self.quadrats, cache)

    def test_inputs(self, cache: Path) -> Inputs | None:
        return self._inputs(read_test(self.data_dir), cache) if self.is_drawn else None

    def _inputs(self, table: pd.DataFrame, cache: Path) -> Inputs:
        images = ImageSet.from_table(self.data_dir, table)
        return Inputs(images, cache_dir=cache, weights=WEIGHTS, fit=fit_of(self.data_dir))
