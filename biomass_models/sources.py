"""Where a network's inputs come from while it trains: cached features, or pixels that are augmented on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomass_models.augment import change, draw_changes
from biomass_models.features import to_image

IntArray = NDArray[np.int64]


class Source(Protocol):
    """Where a net's inputs come from, by row of the image set."""

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> Tensor: ...

    def plain(self, row_B: IntArray) -> Tensor: ...


@dataclass(frozen=True)
class FeatureSource:
    """Copies of a feature bank, held on the device; copy 0 is the picture as it is."""

    feature_NCD: Tensor

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> Tensor:
        """One copy of each row at random: features [B, D]."""
        copy_B = torch.randint(self.feature_NCD.shape[1], (len(row_B),), generator=draws)
        device = self.feature_NCD.device
        return self.feature_NCD[torch.from_numpy(row_B).to(device), copy_B.to(device)]

    def plain(self, row_B: IntArray) -> Tensor:
        """Features [B, D] of the pictures as they are."""
        return self.feature_NCD[torch.from_numpy(row_B).to(self.feature_NCD.device), 0]


@dataclass(frozen=True)
class PixelSource:
    """Decoded pictures, memory-mapped; augmentation happens on the device, a batch at a time."""

    pixel_NHWC: NDArray[np.uint8]
    device: torch.device
    flips: int
    colour: float
    blur: float

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> Tensor:
        """Turned, recoloured, blurred pictures [B, 3, H, W] in [0, 1]."""
        draw = draw_changes(len(row_B), draws, flips=self.flips, colour=self.colour, blur=self.blur)
        return change(self.plain(row_B), draw)

    def plain(self, row_B: IntArray) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] as they are."""
        return to_image(np.ascontiguousarray(self.pixel_NHWC[row_B]), self.device)
