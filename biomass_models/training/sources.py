"""Where a network's inputs come from while it trains: cached features, or pixels that are augmented on the device.

B images of a batch, C copies in a bank, V views, P patch tokens, D features. `plain(row_B, copy)` gives the pictures
as they are (copy 0) or turned as augment.TURNS[copy] says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from biomass_models.backbones.adapter import Backbone, Tokens, weightless
from biomass_models.backbones.devices import onto
from biomass_models.backbones.trunk import BackboneTail
from biomass_models.data.images import View
from biomass_models.features.augment import Draw, change, draw_changes, turn
from biomass_models.features.encoding import to_image
from biomass_models.features.inputs import Inputs
from biomass_models.features.outputs import GLOBAL, Grid, Output, Trunk
from biomass_models.features.rows import Rows
from biomass_models.features.spec import FeatureBank, FeatureSpec, fitted
from biomass_models.interrupt import ShouldStop
from biomass_models.targets import IntArray
from biomass_models.training.config import NetworkConfig


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
class BankSource(ABC):
    """Banks read from the memory map a batch at a time: one for each part of the views, all with the same copies.

    Banks of tokens and prefixes are large: the map's pages are shared by all workers of a node, copies of their own
    would not be.
    """

    banks: tuple[FeatureBank, ...]
    device: torch.device

    def augmented(self, row_B: IntArray, draws: torch.Generator) -> tuple[Any, ...]:
        """One copy of each row at random, the same of all its views."""
        copies = len(self.banks[0].spec.copies())
        return self._read(row_B, torch.randint(copies, (len(row_B),), generator=draws).numpy())

    def plain(self, row_B: IntArray, copy: int = 0) -> tuple[Any, ...]:
        """One copy of each row."""
        return self._read(row_B, np.full(len(row_B), copy))

    def _read(self, row_B: IntArray, copy_B: IntArray) -> tuple[Any, ...]:
        return tuple(self.part(bank, row_B, copy_B) for bank in self.banks)

    @abstractmethod
    def part(self, bank: FeatureBank, row_B: IntArray, copy_B: IntArray) -> Any:
        """What the net takes of one part of the views."""

    def _stored(self, bank: FeatureBank, output: Output, row_B: IntArray, copy_B: IntArray) -> Tensor:
        return onto(bank.rows(output, row_B, copy_B), self.device).float()


@dataclass(frozen=True)
class TokenSource(BankSource):
    """Views of a frozen backbone, with their tokens on a grid: the whole image, then the local views."""

    grid: int

    def part(self, bank: FeatureBank, row_B: IntArray, copy_B: IntArray) -> ViewTokens:
        outputs = (GLOBAL, Grid(self.grid))
        return ViewTokens(*(self._stored(bank, output, row_B, copy_B) for output in outputs))


class Prefix(NamedTuple):
    """What the frozen blocks say of views of one size."""

    value_BV: Tensor  # [B, V, ...], whatever enters the first trained block
    size: tuple[int, int]  # height and width of the views in px


@dataclass(frozen=True)
class PrefixSource(BankSource):
    """What the frozen blocks of a partly trained backbone say."""

    def part(self, bank: FeatureBank, row_B: IntArray, copy_B: IntArray) -> Prefix:
        view = bank.spec.views[0]
        return Prefix(self._stored(bank, bank.spec.outputs[0], row_B, copy_B), (view.height, view.width))


@dataclass(frozen=True)
class PixelSource:
    """Decoded pictures, memory-mapped; augmentation happens on the device, a batch at a time."""

    pixel_NHWC: Rows
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
        return turn(to_image(self.pixel_NHWC.take(row_B), self.device), copy)


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


def bank_of(
    config: NetworkConfig, views: tuple[View, ...], *outputs: Output, stamped: int = 0, dtype: str = "float32"
) -> FeatureSpec | None:
    """The bank of views that a fit draws from: `outputs` of a frozen backbone, stored as dtype, or the prefix of a
    partly trained one.

    None where the backbone trains on pictures.
    """
    if config.trained_blocks > 0 and config.prefix_bank == "none":
        return None
    stored: dict[str, Any] = {"outputs": outputs, "dtype": dtype}
    if config.trained_blocks > 0:
        stored = {"outputs": (Trunk(config.trained_blocks),), "dtype": config.prefix_bank}
    return FeatureSpec(
        backbone=config.backbone,
        views=views,
        flips=config.flips,
        jittered=config.jittered,
        stamped=stamped,
        colour_jitter=config.colour_jitter,
        blur=config.blur,
        bank_seed=config.bank_seed,
        stamp=config.stamp,  # type: ignore[arg-type]
        **stored,
    )


def open_pixels(config: NetworkConfig, inputs: Inputs, view: View, should_stop: ShouldStop | None) -> PixelSource:
    """One view of all images, decoded once per node."""
    pixel_NHWC = inputs.pixels(view, stamp=config.stamp, should_stop=should_stop)  # type: ignore[arg-type]
    return PixelSource(pixel_NHWC, inputs.device, flips=config.flips, colour=config.colour_jitter, blur=config.blur)


@dataclass(frozen=True)
class OpenedViews:
    """Inputs of a network that reads tokens, and their widths."""

    source: Source
    backbone: Backbone | BackboneTail | None  # if some of it trains
    global_width: int
    patch_width: int
    grids: tuple[tuple[int, int], ...]  # rows and columns of patch tokens, for each part of the views
    notes: tuple[str, ...]


def open_views(
    config: NetworkConfig,
    grid: int,
    parts: Sequence[Sequence[View]],
    specs: Sequence[FeatureSpec],
    inputs: Inputs,
    should_stop: ShouldStop | None,
    *,
    flips: int | None = None,
) -> OpenedViews:
    """specs: a bank for each part, none where the backbone trains on pictures; flips: of pictures that are only
    predicted, None while training. Raises StopRequested."""
    unchanged = [spec if flips is None else spec.unchanged(flips) for spec in specs]
    banks = tuple(inputs.features(spec, should_stop=should_stop) for spec in unchanged)
    shape = weightless(config.backbone)
    views, notes = zip(*(fitted(part, shape) for part in parts), strict=True)
    seen = [shape.shapes(part[0].height, part[0].width) for part in views]
    backbone: Backbone | BackboneTail | None = None
    source: Source
    if config.trained_blocks == 0:
        source = TokenSource(banks, inputs.device, grid)
    elif banks:
        backbone = BackboneTail(inputs.backbone(config.backbone), config.trained_blocks)
        source = PrefixSource(banks, inputs.device)
    else:
        backbone = inputs.backbone(config.backbone)
        backbone.train_last(config.trained_blocks)
        pixels = (tuple(open_pixels(config, inputs, view, should_stop) for view in part) for part in views)
        source = ViewSource(tuple(pixels))
    said = [note for of_part in notes for note in of_part]
    return OpenedViews(
        source,
        backbone,
        seen[0].global_BD.shape[-1],
        seen[0].patch_BPD.shape[-1],
        tuple((grid, grid) if grid else tokens.grid for tokens in seen),
        tuple(dict.fromkeys((*said, *_finer(config.backbone, grid, seen)))),
    )


def view_tokens(backbone: Backbone | BackboneTail | None, part: ViewTokens | Prefix | Tensor, grid: int) -> ViewTokens:
    """Tokens of a part: those of a frozen backbone as they are, else of what the frozen blocks say, or of pictures
    [B, V, 3, H, W] in [0, 1]."""
    if isinstance(part, ViewTokens):
        return part
    assert backbone is not None, "pictures need a backbone that trains"
    value_BV, *size = part if isinstance(part, Prefix) else (part,)
    count = value_BV.shape[:2]
    tokens = backbone(value_BV.flatten(0, 1), *size)
    patch_BPD = Grid(grid).reduce(tokens) if grid else tokens.patch_BPD
    return ViewTokens(tokens.global_BD.unflatten(0, count), patch_BPD.unflatten(0, count))


def _finer(backbone: str, grid: int, seen: Sequence[Tokens]) -> list[str]:
    """Notes where the grid asked for only repeats tokens."""
    return [
        f"grid {grid} is finer than the {rows} x {columns} tokens of {backbone}: tokens repeat"
        for rows, columns in (tokens.grid for tokens in seen)
        if grid > min(rows, columns)
    ]
