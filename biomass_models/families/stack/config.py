"""Configuration of the stack family: regressors on frozen features, stacked on two levels. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from biomass_models.config_rules import (
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

REGRESSORS = ("ridge", "kernel", "svr", "trees")
GOALS = ("both", "grams", "log1p")
VIEW_MERGES = ("concat", "mean")
LAYOUTS = ("whole", "halves", "corners4")


@dataclass(frozen=True, kw_only=True, slots=True)
class StackConfig:
    """One regressor for each size and layer, and a ridge on their out-of-fold predictions."""

    backbone: str = "vit_small_patch14_dinov2.lvd142m"  # any timm name
    size: int = 224  # side of each view, px; rounded to the patch size with a note
    layout: str = "halves"  # whole | halves | corners4 | tiles-RxC
    view_merge: str = "concat"  # views side by side, or their mean
    more_sizes: str = ""  # further sides of views, px, each with level 1 regressors of its own, such as 336+448
    pooling: str = "mean+max+min+gem"  # of global, mean, max, min, gem, std (all but the first over patch tokens)
    taps: str = "0.67+0.83+1"  # layers at shares of the depth, each with a level 1 regressor of its own
    flips: int = 1  # 1, 2, 4 or 8 flips and turns whose embeddings are averaged
    goals: str = "both"  # what is regressed: grams, log1p of grams, or both, whose predictions are averaged in grams
    regressor: str = "ridge"  # of level 1: ridge | kernel (RBF kernel ridge) | svr (RBF) | trees (extra trees)
    penalty: float = 5.0  # ridge: squared errors, summed, + penalty * |coefficient|^2
    choose_penalty: bool = False  # ridge: the best of a grid by the inner folds, never by the one that is predicted
    log10_penalty_low: float = 0.0  # of the grid
    log10_penalty_high: float = 5.0
    penalties: int = 11  # points of the grid
    kernel_penalty: float = 0.3  # kernel: as `penalty`, of z-scores in the space of the kernel
    kernel_width: float = 1.0  # kernel and svr: factor of the RBF's gamma, 1 / (features * their variance)
    svr_c: float = 1.0  # svr: what an error outside the tube costs
    svr_epsilon: float = 0.1  # svr: half width of the tube, in z-scores
    trees: int = 100  # trees: how many
    tree_leaf: int = 3  # trees: smallest number of rows in a leaf
    tree_features: float = 0.03  # trees: share of the features that a node tries
    level2_penalty: float = 1.0  # of the ridge on level 1's predictions
    inner_folds: int = 5  # folds by group inside the training rows: level 2's rows come out of them
    stamp: str = "keep"  # the orange date stamp: keep or remove

    def __post_init__(self) -> None:
        check_types(self)
        check_image(self)
        layout_of(self.layout, *LAYOUTS)
        one_of("view_merge", self.view_merge, VIEW_MERGES)
        pooling_of(self.pooling)
        require("taps must name a layer at least: 1 is the last", bool(taps_of(self.taps)), self.taps)
        others = sizes_of("more_sizes", self.more_sizes)
        require("more_sizes must be other sizes than size", self.size not in others, (self.size, self.more_sizes))
        one_of("goals", self.goals, GOALS)
        one_of("regressor", self.regressor, REGRESSORS)
        rule = "a penalty is chosen for ridge: set regressor=ridge or choose_penalty=false"
        require(rule, self.regressor == "ridge" or not self.choose_penalty, (self.regressor, self.choose_penalty))
        for name in ("penalty", "kernel_penalty", "kernel_width", "svr_c", "level2_penalty"):
            within(name, getattr(self, name), 1e-9, 1e9)
        within("svr_epsilon", self.svr_epsilon, 0, 10)
        within("log10_penalty_low", self.log10_penalty_low, -9, 9)
        within("log10_penalty_high", self.log10_penalty_high, self.log10_penalty_low, 9)
        within("penalties", self.penalties, 1, 100)
        within("trees", self.trees, 1, 5000)
        within("tree_leaf", self.tree_leaf, 1, 1000)
        require("tree_features must lie in (0, 1]", 0 < self.tree_features <= 1, self.tree_features)
        within("inner_folds", self.inner_folds, 2, 50)


def summary(config: StackConfig) -> str:
    """The settings that distinguish a trial from the default stack, those that matter most first."""
    first = ("backbone", "regressor", "size", "more_sizes", "taps", "layout", "pooling", "goals", "choose_penalty")
    return differences(config, StackConfig(), *first, "penalty", "view_merge", "flips")


FAMILY = Family(
    config_class=StackConfig,
    describe="two levels of ridge, kernel, SVR or extra trees on frozen features of several sizes and layers",
    summary=summary,
    pseudo_labels=True,
)
