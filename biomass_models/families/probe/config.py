"""Configuration of the probe family: ridge regression on frozen embeddings. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from biomass_models.config_rules import (
    TRANSFORMS,
    check_image,
    check_types,
    layout_of,
    one_of,
    pooling_of,
    require,
    sizes_of,
    taps_of,
    within,
)
from biomass_models.families.base import Family, differences

VIEW_MERGES = ("concat", "mean")
LAYOUTS = ("whole", "halves", "corners4")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Ridge regression on frozen embeddings: the cheapest family."""

    backbone: str = "vit_small_patch14_dinov2.lvd142m"  # any timm name
    size: int = 224  # side of each view, px; rounded to the patch size with a note
    layout: str = "whole"  # whole | halves | corners4 | tiles-RxC
    view_merge: str = "concat"  # views side by side, or their mean
    more_sizes: str = ""  # further sides of views, px, side by side with `size`, such as 336+448
    pooling: str = "global"  # of global, mean, max, min, gem, std (all but the first over patch tokens), joined by +
    layers: int = 1  # last n layers, side by side: 1 = the final features
    taps: str = ""  # in place of the last layers those at shares of the depth, side by side, such as 0.67+0.83+1
    flips: int = 1  # 1, 2, 4 or 8 flips and turns whose embeddings are averaged
    transform: str = "log1p"  # of grams, before the z-score per target
    log10_alpha_low: float = -5.0  # grid of penalties; features have a mean square norm of 1, errors are means
    log10_alpha_high: float = 1.0
    alphas: int = 13  # points of the grid
    inner_folds: int = 4  # folds by group inside the training rows that choose the penalty
    alpha_per_target: bool = False  # each target has a penalty of its own
    stamp: str = "keep"  # the orange date stamp: keep or remove

    def __post_init__(self) -> None:
        check_types(self)
        check_image(self)
        layout_of(self.layout, *LAYOUTS)
        one_of("view_merge", self.view_merge, VIEW_MERGES)
        pooling_of(self.pooling)
        one_of("transform", self.transform, TRANSFORMS)
        within("layers", self.layers, 1, 64)
        rule = "layers are the last ones or those at taps: set layers=1 or taps to nothing"
        require(rule, not taps_of(self.taps) or self.layers == 1, (self.layers, self.taps))
        others = sizes_of("more_sizes", self.more_sizes)
        require("more_sizes must be other sizes than size", self.size not in others, (self.size, self.more_sizes))
        within("log10_alpha_low", self.log10_alpha_low, -12, 12)
        within("log10_alpha_high", self.log10_alpha_high, self.log10_alpha_low, 12)
        within("alphas", self.alphas, 1, 200)
        within("inner_folds", self.inner_folds, 2, 50)


def summary(config: ProbeConfig) -> str:
    """The settings that distinguish a trial from the default probe, those that matter most first."""
    first = (
        "backbone",
        "size",
        "more_sizes",
        "layout",
        "pooling",
        "view_merge",
        "layers",
        "taps",
        "flips",
        "transform",
    )
    return differences(config, ProbeConfig(), *first)


FAMILY = Family(
    config_class=ProbeConfig,
    describe="ridge regression on features of a frozen network, its penalty chosen by folds grouped by date",
    summary=summary,
    pseudo_labels=True,
)
