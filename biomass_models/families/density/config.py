"""Configuration of the density family: an areal density for each patch of a photograph. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from biomass_models.config_rules import layout_of, one_of, require, within
from biomass_models.families.base import Family, differences
from biomass_models.training.config import NetworkOptions

LAYOUTS = ("whole", "halves")  # and tiles-RxC: views that tile the photograph, so that the mean over them is its own
TOKEN_BANKS = ("float16", "float32")
LEAST_GRID = 8  # of cached tokens: below it the nonlinearity, which is of a token, sees means


@dataclass(frozen=True, kw_only=True, slots=True)
class DensityConfig(NetworkOptions):
    """Green, clover and dead mass for each patch token, and their mean over the photograph."""

    backbone: str = "vit_small_patch14_dinov2.lvd142m"  # one with a token grid or a feature map
    size: int = 224  # of each view, px
    layout: str = "halves"  # whole | halves | tiles-RxC
    grid: int = 8  # cached tokens are average-pooled to grid x grid a view; trained backbones keep all of them
    token_bank: str = "float16"  # of cached tokens: half the room of float32
    trained_blocks: int = 0
    head_width: int = 128  # of the MLP that every token passes
    head_width_2: int = 32
    dropout: float = 0.1
    beta: float = 5.0  # grams: the loss is quadratic below and linear above
    head_lr: float = 1e-3
    backbone_lr: float = 1e-4
    min_lr: float = 1e-6
    batch_size: int = 32
    epochs: int = 30
    flips: int = 4

    def __post_init__(self) -> None:
        NetworkOptions.__post_init__(self)
        layout_of(self.layout, *LAYOUTS)
        within("grid", self.grid, LEAST_GRID, 99)
        one_of("token_bank", self.token_bank, TOKEN_BANKS)
        beside = self.interval_bins == 0 and self.predicted_metadata == "none"
        rule = "a patch has neither bins of mass nor metadata: set interval_bins=0 and predicted_metadata=none"
        require(rule, beside, (self.interval_bins, self.predicted_metadata))
        require("beta must be above 0", 0 < self.beta <= 1000, self.beta)


def summary(config: DensityConfig) -> str:
    """The settings that distinguish a trial from the default one, those that matter most first."""
    names = (
        "backbone",
        "size",
        "layout",
        "trained_blocks",
        "grid",
        "head_lr",
        "head_width",
        "dropout",
        "beta",
        "epochs",
    )
    return differences(config, DensityConfig(), *names)


FAMILY = Family(
    config_class=DensityConfig,
    describe="green, clover and dead mass of each patch by a small network on its token, averaged over the photograph",
    summary=summary,
    map_unit="g per quadrat",
    pseudo_labels=True,
)
