"""Thumbnails of photographs, and what a model saw in them, as pictures that a page carries along.

Pixels are uint8 RGB [height, width, 3]. Nothing outside of the data directory is ever opened.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from biomass_models.data.frames import Fit
from biomass_models.data.images import ImageError, shown_photograph
from biomass_models.targets import FloatArray

WIDTH, TALLEST = 360, 300  # px of a thumbnail: twice as fine as a small screen shows it
QUALITY = 74


@dataclass(frozen=True)
class Photographs:
    """The photographs of a data directory; without one there are none."""

    folder: Path | None
    fit: Fit = "stretch"  # what the study's models see of them

    def thumbnail(self, image_path: str) -> np.ndarray | None:
        """What models see of a photograph, small; None where there is no folder or the file cannot be shown."""
        path = self._path(image_path)
        if path is None:
            return None
        try:
            return shown_photograph(path, WIDTH, TALLEST, fit=self.fit)
        except (ImageError, OSError):
            return None

    def _path(self, image_path: str) -> Path | None:
        relative = PurePosixPath(image_path)
        if self.folder is None or relative.is_absolute() or ".." in relative.parts or "\\" in image_path:
            return None
        return self.folder / relative


def whole_map(maps: pd.DataFrame, image_id: str) -> FloatArray | None:
    """Where the model looked in the whole image, from a fold's table (training.maps), [rows, columns]."""
    own = maps[(maps["image_id"].astype(str) == image_id) & maps["weight"].isna()]
    return None if own.empty else _map(own.iloc[0])


def density_maps(maps: pd.DataFrame, image_id: str) -> dict[str, dict[str, FloatArray]]:
    """Densities [rows, columns] in grams per quadrat by mass and view; empty for maps of where a model looked."""
    found: dict[str, dict[str, FloatArray]] = {}
    if "mass" in maps:
        for _, row in maps[maps["image_id"].astype(str) == image_id].iterrows():
            found.setdefault(str(row["mass"]), {})[str(row["view"])] = _map(row)
    return found


def _map(row: pd.Series) -> FloatArray:
    looked: FloatArray = np.reshape(np.asarray(row["look"], dtype=np.float64), (int(row["rows"]), int(row["columns"])))
    return looked


def data_uri(pixels: np.ndarray) -> str:
    """A JPEG that stands in the page itself."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
