"""Thumbnails of photographs, and the same lit where a model looked, as pictures that a page carries along.

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
UNSEEN = 0.2  # brightness that is left where the model did not look


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


def lit(pixels: np.ndarray, map_HW: FloatArray) -> np.ndarray:
    """The photograph, dark but for where the model looked; the brightest place is the map's largest."""
    height, width = pixels.shape[:2]
    strongest = float(map_HW.max())
    light = Image.fromarray((map_HW / (strongest or 1.0)).astype(np.float32))
    smooth = np.asarray(light.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
    return (pixels * (UNSEEN + (1 - UNSEEN) * smooth[..., None])).clip(0, 255).astype(np.uint8)


def whole_map(maps: pd.DataFrame, image_id: str) -> FloatArray | None:
    """Where the model looked in the whole image, from a fold's table (training.maps), [rows, columns]."""
    own = maps[(maps["image_id"].astype(str) == image_id) & maps["weight"].isna()]
    if own.empty:
        return None
    row = own.iloc[0]
    looked: FloatArray = np.reshape(np.asarray(row["look"], dtype=np.float64), (int(row["rows"]), int(row["columns"])))
    return looked


def data_uri(pixels: np.ndarray) -> str:
    """A JPEG that stands in the page itself."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
