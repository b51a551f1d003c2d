"""Configurations of the model families: frozen, checked when built, and torch-free.

Each field has its unit and meaning beside it. `config_from_params` and `config_to_params` are the way from and to
JSON, so that a trial in the ledger and a proposal of the search are the same thing.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, get_type_hints

TRANSFORMS = ("log1p", "sqrt", "none")
STAMPS = ("keep", "remove")
FLIPS = (1, 2, 4, 8)
POOLINGS = ("global", "mean", "mean+std", "global+mean+std")
VIEW_MERGES = ("concat", "mean")
_LAYOUT = re.compile(r"whole|halves|corners4|tiles-[1-9]\d?x[1-9]\d?")


def _require(rule: str, ok: bool, got: object) -> None:
    if not ok:
        raise ValueError(f"{rule}, got {got!r}")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    _require(f"{name} must be one of {', '.join(map(str, allowed))}", value in allowed, value)


def _within(name: str, value: float, low: float, high: float) -> None:
    _require(f"{name} must lie in [{low:g}, {high:g}]", math.isfinite(value) and low <= value <= high, value)


def _check_types(config: Any) -> None:
    """Every field holds exactly its declared type; numpy scalars and booleans for numbers are refused."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if kind is float and type(value) is int:
            object.__setattr__(config, name, float(value))
        elif type(value) is not kind:
            raise ValueError(f"{name} must be of type {kind.__name__}, got {value!r} ({type(value).__name__})")


def _check_image(backbone: str, size: int, flips: int, stamp: str) -> None:
    _require("backbone must be a timm name", bool(backbone.strip()), backbone)
    _within("size", size, 16, 4096)
    _one_of("flips", flips, FLIPS)
    _one_of("stamp", stamp, STAMPS)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig:
    """Model 1 (SPEC 4). The defaults are the published setting, field by field."""

    backbone: str = "vit_small_patch14_dinov2.lvd142m"  # any timm name
    size: int = 980  # side of the square input, px; rounded to the patch size with a note
    trained_blocks: int = 4  # last blocks (and final norm) that train; 0 = all frozen, features are cached
    head_width: int = 256  # first hidden layer
    head_width_2: int = 128  # second hidden layer
    dropout: float = 0.4  # after the first hidden layer
    transform: str = "log1p"  # of grams, before the z-score per target
    head_lr: float = 3e-5  # peak learning rate of new layers
    backbone_lr: float = 3e-5  # peak learning rate of trained backbone blocks
    min_lr: float = 1e-6  # end of the cosine
    weight_decay: float = 0.05  # none on norms and biases
    clip_norm: float = 5.0  # largest gradient norm
    batch_size: int = 32  # images a step, kept when GPU memory forces smaller micro-batches
    epochs: int = 50  # passes over the training rows
    ema_decay: float = 0.0  # of the weights, per step; 0 = the last weights are scored
    select_best_epoch: bool = False  # score the best epoch of the validation fold: biased, and recorded as such
    flips: int = 8  # 1 none, 2 mirror, 4 also turned by 180 degrees, 8 also by 90
    jittered: int = 0  # frozen backbone only: further bank copies with colour jitter and blur
    colour_jitter: float = 0.05  # largest relative change of brightness, contrast, saturation
    blur: float = 1.0  # largest standard deviation of the Gaussian blur, px; half of the pictures are blurred
    bank_seed: int = 0  # frozen backbone only: draws of the jittered copies
    stamp: str = "keep"  # the orange date stamp: keep or remove

    def __post_init__(self) -> None:
        _check_types(self)
        _check_image(self.backbone, self.size, self.flips, self.stamp)
        _one_of("transform", self.transform, TRANSFORMS)
        _within("trained_blocks", self.trained_blocks, 0, 200)
        _within("head_width", self.head_width, 1, 8192)
        _within("head_width_2", self.head_width_2, 1, 8192)
        _require("dropout must lie in [0, 1)", 0 <= self.dropout < 1, self.dropout)
        for name in ("head_lr", "backbone_lr"):
            _require(f"{name} must lie in (0, 1)", 0 < getattr(self, name) < 1, getattr(self, name))
        lowest = self.head_lr if self.trained_blocks == 0 else min(self.head_lr, self.backbone_lr)
        _require(f"min_lr must lie in [0, lowest peak rate = {lowest:g}]", 0 <= self.min_lr <= lowest, self.min_lr)
        _within("weight_decay", self.weight_decay, 0, 10)
        _require("clip_norm must be above 0", self.clip_norm > 0, self.clip_norm)
        _within("batch_size", self.batch_size, 1, 4096)
        _within("epochs", self.epochs, 1, 10_000)
        _require("ema_decay must lie in [0, 1)", 0 <= self.ema_decay < 1, self.ema_decay)
        _within("jittered", self.jittered, 0, 64)
        _require(
            "jittered copies belong to a frozen backbone: set trained_blocks=0 or jittered=0",
            self.jittered == 0 or self.trained_blocks == 0,
            (self.jittered, self.trained_blocks),
        )
        _within("colour_jitter", self.colour_jitter, 0, 0.9)
        _within("blur", self.blur, 0, 10)


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
        _check_types(self)
        _check_image(self.backbone, self.size, self.flips, self.stamp)
        known = _LAYOUT.fullmatch(self.layout) is not None
        _require("layout must be whole, halves, corners4 or tiles-RxC", known, self.layout)
        _one_of("view_merge", self.view_merge, VIEW_MERGES)
        _one_of("pooling", self.pooling, POOLINGS)
        _one_of("transform", self.transform, TRANSFORMS)
        _within("layers", self.layers, 1, 64)
        _within("log10_alpha_low", self.log10_alpha_low, -12, 12)
        _within("log10_alpha_high", self.log10_alpha_high, self.log10_alpha_low, 12)
        _within("alphas", self.alphas, 1, 200)
        _within("inner_folds", self.inner_folds, 2, 50)


Config: TypeAlias = BaselineConfig | ProbeConfig
CONFIGS: dict[str, type[BaselineConfig] | type[ProbeConfig]] = {"baseline": BaselineConfig, "probe": ProbeConfig}

BASELINE_REFERENCE = BaselineConfig()


def baseline_twin(backbone: str = "tf_efficientnet_lite0", size: int = 224) -> BaselineConfig:
    """The reference's small twin: same structure, backbone frozen, small image, a head's own learning rate."""
    return dataclasses.replace(BASELINE_REFERENCE, backbone=backbone, size=size, trained_blocks=0, head_lr=3e-4)


def config_from_params(family: str, params: Mapping[str, Any]) -> Config:
    """Params of a proposal or a ledger -> config; ValueError for unknown or ill-typed ones."""
    if family not in CONFIGS:
        raise ValueError(f"family must be one of {', '.join(CONFIGS)}, got {family!r}")
    config_class = CONFIGS[family]
    names = [field.name for field in dataclasses.fields(config_class)]
    for name in params:
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=3) or names
            raise ValueError(f"{family} has no parameter {name!r}; did you mean {', '.join(close)}?")
    hints = get_type_hints(config_class)
    # JSON does not tell 1.0 from 1: a whole number is a fine value of a float field
    values: dict[str, Any] = {
        name: float(value) if hints[name] is float and type(value) is int else value for name, value in params.items()
    }
    return config_class(**values)


def config_to_params(config: Config) -> dict[str, Any]:
    """Config -> JSON-able dict with every field; `config_from_params` is its inverse."""
    return dataclasses.asdict(config)
