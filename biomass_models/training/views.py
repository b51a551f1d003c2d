"""Views of a photograph as tokens, for networks that read tokens: cached, or of a backbone that trains.

B images, V views of a part (views of one size), P patch tokens, D features. A grid of 0 is all the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from biomass_models.backbones.adapter import Backbone, Tokens, weightless
from biomass_models.backbones.trunk import BackboneTail
from biomass_models.data.images import View
from biomass_models.features.inputs import Inputs
from biomass_models.features.outputs import Grid
from biomass_models.features.spec import FeatureSpec, fitted
from biomass_models.interrupt import ShouldStop
from biomass_models.training.config import NetworkConfig
from biomass_models.training.sources import (
    Prefix,
    PrefixSource,
    Source,
    TokenSource,
    ViewSource,
    ViewTokens,
    open_pixels,
)


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
