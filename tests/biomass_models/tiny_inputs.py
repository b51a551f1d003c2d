"""A small table with photographs whose colours follow from the masses; shared by the tests of the models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.frames import Fit
from biomass_models.features.eviction import Area
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.targets import GDM, TARGETS, TOTAL, from_components

IMAGES, GROUPS = 20, 5
RANDOM = WeightsSource(kind="random")


def write_photographs(folder: Path, masses_NT: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """One noisy 96 x 48 px JPEG an image: greener with green mass, redder with dead mass; metadata follow them."""
    rng = np.random.default_rng(seed)
    for row, mass in enumerate(masses_NT):
        pixels = rng.uniform(0, 90, (12, 24, 3))
        pixels[..., 1] += 2.5 * mass[0]
        pixels[..., 0] += 2.5 * mass[1]
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.resize((96, 48), Image.Resampling.NEAREST).save(folder / f"q{row}.jpg", quality=95)
    table = pd.DataFrame(masses_NT, columns=list(TARGETS))
    table["image_id"] = [f"q{row}" for row in range(len(masses_NT))]
    table["image_path"] = [f"q{row}.jpg" for row in range(len(masses_NT))]
    table["group"] = [f"date{row % GROUPS}" for row in range(len(masses_NT))]
    table["Sampling_Date"] = [pd.Timestamp(2015, 2 + 2 * (row % GROUPS), 4) for row in range(len(masses_NT))]
    table["State"] = "Tas"
    table["Species"] = [("Ryegrass", "Ryegrass_Clover", "Lucerne")[row % GROUPS % 3] for row in range(len(masses_NT))]
    table["Pre_GSHH_NDVI"] = 0.3 + masses_NT[:, GDM] / (2 * masses_NT[:, GDM].max())
    table["Height_Ave_cm"] = 2.0 + masses_NT[:, TOTAL] / 10
    return table


def tiny_quadrats(folder: Path, images: int = IMAGES) -> tuple[pd.DataFrame, np.ndarray]:
    """Table and folds; every group lies in one of three folds."""
    component = np.random.default_rng(3).gamma(2.0, 8.0, (images, 3))
    table = write_photographs(folder, from_components(*component.T))
    return table, np.array([row % GROUPS % 3 for row in range(images)])


def inputs_for(
    folder: Path,
    table: pd.DataFrame,
    cache: Path,
    weights: WeightsSource = RANDOM,
    area: Area = "study",
    fit: Fit = "stretch",
) -> Inputs:
    images = ImageSet.from_table(folder, table)
    return Inputs(images, cache_dir=cache, weights=weights, device="cpu", area=area, fit=fit)
