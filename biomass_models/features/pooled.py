"""Statistics of a view's tokens, of layers at shares of the backbone's depth: frozen features that take no training.

N images, V views, F features: the statistics side by side.
tap          a layer by its share of the depth: 1 the last, 0.67 of twelve blocks the eighth (config_rules.taps_of)
pooled_NVF   statistics of the tokens of one layer, averaged over the copies of a bank
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biomass_models.backbones.adapter import weightless
from biomass_models.config_rules import STATISTICS, pooling_of, sizes_of
from biomass_models.data.images import views_for
from biomass_models.features.outputs import GLOBAL, PATCH_GEM, PATCH_MAX, PATCH_MEAN, PATCH_MIN, PATCH_STD, Output
from biomass_models.features.spec import FeatureBank, FeatureSpec

OUTPUTS: dict[str, Output] = dict(
    zip(STATISTICS, (GLOBAL, PATCH_MEAN, PATCH_MAX, PATCH_MIN, PATCH_GEM, PATCH_STD), strict=True)
)


def outputs_of(statistics: Sequence[str]) -> tuple[Output, ...]:
    """What a bank keeps for these statistics, by their names (config_rules.STATISTICS)."""
    return tuple(OUTPUTS[name] for name in statistics)


def tap_layers(backbone: str, taps: Sequence[float]) -> tuple[int, ...]:
    """Numbers from the end (FeatureSpec.layers) of the layers at these shares of a backbone's depth (timm name).

    The nearest layer, halves up, and at least the first. Shares that are nearest to one layer are that one layer.
    Raises BackboneError for a backbone that does not show its layers; 1 alone is there for any.
    """
    if tuple(taps) == (1.0,):
        return (0,)
    depth = weightless(backbone).depth
    return tuple(dict.fromkeys(depth - max(1, math.floor(tap * depth + 0.5)) for tap in taps))


class PooledConfig(Protocol):
    """Settings of a family of pooled features: which photographs' views, and which statistics of them."""

    @property
    def backbone(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def layout(self) -> str: ...
    @property
    def more_sizes(self) -> str: ...
    @property
    def pooling(self) -> str: ...
    @property
    def view_merge(self) -> str: ...
    @property
    def flips(self) -> int: ...
    @property
    def stamp(self) -> str: ...


def pooled_specs(config: PooledConfig, layers: tuple[int, ...]) -> list[FeatureSpec]:
    """The banks that a fit and a prediction need, one a size."""
    plain = FeatureSpec(
        backbone=config.backbone,
        views=views_for(config.layout, config.size),
        flips=config.flips,
        stamp=config.stamp,  # type: ignore[arg-type]
        outputs=outputs_of(pooling_of(config.pooling)),
        layers=layers,
    )
    others = sizes_of("more_sizes", config.more_sizes)
    return [plain, *(replace(plain, views=views_for(config.layout, size)) for size in others)]


def merge_views(feature_NVF: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    """Features of a photograph: the `mean` of its views [N, F], or (`concat`) its views side by side [N, V F]."""
    return feature_NVF.mean(1) if how == "mean" else feature_NVF.reshape(len(feature_NVF), -1)


def pooled(bank: FeatureBank, outputs: Sequence[Output], layer: int) -> NDArray[np.float64]:
    """Statistics [N, V, F] of one layer (its number from the end), averaged over the bank's copies, in order."""
    parts = [bank.stack(output, layer=layer).numpy().astype(np.float64).mean(1) for output in outputs]
    return np.concatenate(parts, axis=-1)
