"""Configuration of the probe family: ridge regression on frozen embeddings. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from biomass_models.config_rules import TRANSFORMS, check_image, check_types, layout_of, one_of, within
from biomass_models.families.base import Family, differences

POOLINGS = ("global", "mean", "mean+std", "global+mean+std")
VIEW_MERGES = ("concat", "mean")
LAYOUTS = ("whole", "halves", "corners4")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Ridge regression on frozen embeddings: the cheapest family."""

    backbone: str = "vit_small_patch14_dinov2.lvd142m"  # any timm name
    size: int = 224  # side of each view, px; rounded to the patch size with a note
    layout: str = "whole"  # whole | halves | corners4 | tiles-RxC
    view_merge: str = "concat"  # views side by side, or their mean
    pooling: str = "global"  # global | mean | mean+std | global+mean+std (mean, std over patch tokens)
    layers: int = 1  # last n layers, side by side: 1 = the final features
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
        one_of("pooling", self.pooling, POOLINGS)
        one_of("transform", self.transform, TRANSFORMS)
        within("layers", self.layers, 1, 64)
        within("log10_alpha_low", self.log10_alpha_low, -12, 12)
        within("log10_alpha_high", self.log10_alpha_high, self.log10_alpha_low, 12)
        within("alphas", self.alphas, 1, 200)
        within("inner_folds", self.inner_folds, 2, 50)


def summary(config: ProbeConfig) -> str:
    """The settings that tell a trial from the plainest probe, those that matter most first."""
    return differences(
        config, ProbeConfig(), "backbone", "size", "layout", "pooling", "view_merge", "layers", "flips", "transform"
    )


FAMILY = Family(
    config_class=ProbeConfig,
    describe="ridge regression on features of a frozen network, its penalty chosen by folds grouped by date",
    summary=summary,
)
