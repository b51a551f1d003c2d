"""Where a network's inputs come from while it trains: cached features, or pixels that are augmented on the device.

B images of a batch, C copies in a bank, V views, P patch tokens, D features. `plain(row_B, copy)` gives the pictures
as they are (copy 0) or turned as augment.TURNS[copy] says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomass_models.augment import Draw, change, draw_changes, turn
from biomass_models.devices import onto
from biomass_models.features import FeatureBank, to_image
from biomass_models.images import View
from biomass_models.inputs import Inputs
from biomass_models.interrupt import ShouldStop

IntArray = NDArray[np.int64]


class Source(Protocol):
    """Where a net's inputs come from, by row of the image set."""

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> Any: ...

    def plain(self, row_B: IntArray, copy: int = 0) -> Any: ...


class ViewTokens(NamedTuple):
    """Views of one size, encoded."""

    global_BVD: Tensor
    patch_BVPD: Tensor


@dataclass(frozen=True)
class FeatureSource:
    """Copies of a feature bank, held on the device; copy 0 is the picture as it is."""

    feature_NCD: Tensor

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> Tensor:
        """One copy of each row at random: features [B, D]."""
        copy_B = torch.randint(self.feature_NCD.shape[1], (len(row_B),), generator=draws)
        device = self.feature_NCD.device
        return self.feature_NCD[torch.from_numpy(row_B).to(device), copy_B.to(device)]

    def plain(self, row_B: IntArray, copy: int = 0) -> Tensor:
        """One copy of each row: features [B, D]."""
        return self.feature_NCD[torch.from_numpy(row_B).to(self.feature_NCD.device), copy]


@dataclass(frozen=True)
class TokenSource:
    """Banks of views with their tokens on a grid, read from the memory map a batch at a time.

    Token banks are large: the map's pages are shared by all workers of a node, copies of their own would not be.
    """

    banks: tuple[FeatureBank, ...]  # whole image, then local views; the same copies in the same order
    grid: int
    device: torch.device

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> tuple[ViewTokens, ...]:
        """One copy of each row at random, the same of all its views."""
        copies = len(self.banks[0].spec.copies())
        return self._read(row_B, torch.randint(copies, (len(row_B),), generator=draws).numpy())

    def plain(self, row_B: IntArray, copy: int = 0) -> tuple[ViewTokens, ...]:
        """One copy of each row."""
        return self._read(row_B, np.full(len(row_B), copy))

    def _read(self, row_B: IntArray, copy_B: IntArray) -> tuple[ViewTokens, ...]:
        outputs = ("global", f"grid-{self.grid}")
        return tuple(
            ViewTokens(*(onto(bank.rows(output, row_B, copy_B), self.device).float() for output in outputs))
            for bank in self.banks
        )


class Prefix(NamedTuple):
    """What the frozen blocks say of views of one size."""

    value_BV: Tensor  # [B, V, ...], whatever enters the first trained block
    size: tuple[int, int]  # height and width of the views in px


@dataclass(frozen=True)
class PrefixSource:
    """Banks of what the frozen blocks of a partly trained backbone say, read from the memory map a batch at a time."""

    banks: tuple[FeatureBank, ...]  # one for each part of the views; the same copies in the same order
    device: torch.device

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> tuple[Prefix, ...]:
        """One copy of each row at random, the same of all its views."""
        copies = len(self.banks[0].spec.copies())
        return self._read(row_B, torch.randint(copies, (len(row_B),), generator=draws).numpy())

    def plain(self, row_B: IntArray, copy: int = 0) -> tuple[Prefix, ...]:
        """One copy of each row."""
        return self._read(row_B, np.full(len(row_B), copy))

    def _read(self, row_B: IntArray, copy_B: IntArray) -> tuple[Prefix, ...]:
        return tuple(
            Prefix(
                onto(bank.rows(bank.spec.outputs[0], row_B, copy_B), self.device).float(),
                (bank.spec.views[0].height, bank.spec.views[0].width),
            )
            for bank in self.banks
        )


@dataclass(frozen=True)
class PixelSource:
    """Decoded pictures, memory-mapped; augmentation happens on the device, a batch at a time."""

    pixel_NHWC: NDArray[np.uint8]
    device: torch.device
    flips: int
    colour: float
    blur: float

    def draw(self, count: int, draws: torch.Generator) -> Draw:
        if self.colour == 0 and self.blur == 0:  # the very draws of a bank of turns
            one_B = torch.ones(count)
            return Draw(torch.randint(self.flips, (count,), generator=draws), one_B, one_B, one_B, 0 * one_B)
        return draw_changes(count, draws, flips=self.flips, colour=self.colour, blur=self.blur)

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> Tensor:
        """Turned, recoloured, blurred pictures [B, 3, H, W] in [0, 1]."""
        return change(self.plain(row_B), self.draw(len(row_B), draws))

    def plain(self, row_B: IntArray, copy: int = 0) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1]."""
        return turn(to_image(np.ascontiguousarray(self.pixel_NHWC[row_B]), self.device), copy)


@dataclass(frozen=True)
class ViewSource:
    """Pictures of several views: parts of one size each, all views of an image changed alike."""

    parts: tuple[tuple[PixelSource, ...], ...]

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> tuple[Tensor, ...]:
        """For each part pictures [B, V, 3, H, W] in [0, 1]."""
        draw = self.parts[0][0].draw(len(row_B), draws)
        return tuple(torch.stack([change(view.plain(row_B), draw) for view in part], dim=1) for part in self.parts)

    def plain(self, row_B: IntArray, copy: int = 0) -> tuple[Tensor, ...]:
        """For each part pictures [B, V, 3, H, W] in [0, 1]."""
        return tuple(torch.stack([view.plain(row_B, copy) for view in part], dim=1) for part in self.parts)


class BankConfig(Protocol):
    """The fields that decide what of a backbone is cached, as BaselineConfig documents them."""

    @property
    def trained_blocks(self) -> int: ...
    @property
    def prefix_bank(self) -> str: ...


def bank_of(config: BankConfig, *outputs: str) -> dict[str, Any]:
    """The fields of a FeatureSpec that say what is stored: `outputs` of a frozen backbone, or the prefix."""
    if config.trained_blocks == 0:
        return {"outputs": outputs}
    return {"outputs": (f"prefix-{config.trained_blocks}",), "dtype": config.prefix_bank}


class PixelConfig(Protocol):
    """The fields that say how pictures are decoded and augmented, as BaselineConfig documents them."""

    @property
    def flips(self) -> int: ...
    @property
    def colour_jitter(self) -> float: ...
    @property
    def blur(self) -> float: ...
    @property
    def stamp(self) -> str: ...


def open_pixels(config: PixelConfig, inputs: Inputs, view: View, should_stop: ShouldStop | None) -> PixelSource:
    """One view of all images, decoded once per node."""
    pixel_NHWC = inputs.pixels(view, stamp=config.stamp, should_stop=should_stop)  # type: ignore[arg-type]
    return PixelSource(pixel_NHWC, inputs.device, flips=config.flips, colour=config.colour_jitter, blur=config.blur)
