"""Configurations of the model families: frozen, checked when built, and torch-free.

Each field has its unit and meaning beside it. `config_from_params` and `config_to_params` are the way from and to
JSON, so that a trial in the ledger and a proposal of the search are the same thing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, get_type_hints

from biomass_models.config_rules import (
    TRANSFORMS,
    check_image,
    check_training,
    check_types,
    did_you_mean,
    known_name,
    layout_of,
    one_of,
    require,
    within,
)
from biomass_models.errors import UserError

POOLINGS = ("global", "mean", "mean+std", "global+mean+std")
VIEW_MERGES = ("concat", "mean")
LAYOUTS = ("whole", "halves", "corners4")
LOCAL_LAYOUTS = ("none", "halves", "corners4")


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """What every network that trains by gradient is told; its family says from which values it starts."""

    backbone: str  # any timm name
    size: int  # side of the whole image, px; rounded to the patch size with a note
    trained_blocks: int  # last blocks (and final norm) that train; 0 = all frozen, features are cached
    head_width: int  # first hidden layer
    head_width_2: int  # second hidden layer
    dropout: float  # after the first hidden layer
    head_lr: float  # peak learning rate of new layers
    backbone_lr: float  # peak learning rate of trained backbone blocks
    min_lr: float  # end of the cosine
    batch_size: int  # images a step, kept when GPU memory forces smaller micro-batches
    epochs: int  # passes over the training rows
    weight_decay: float = 0.05  # none on norms and biases
    clip_norm: float = 5.0  # largest gradient norm
    ema_decay: float = 0.0  # of the weights, per step; 0 = the last weights are scored
    select_best_epoch: bool = False  # score the best epoch of the validation fold: biased, and recorded as such
    flips: int = 8  # 1 none, 2 mirror, 4 also turned by 180 degrees, 8 also by 90; all views of a picture alike
    prefix_bank: str = "none"  # trained blocks only: copies as the frozen blocks see them, cached as float16 | float32
    jittered: int = 0  # banks only: further copies with colour jitter and blur
    colour_jitter: float = 0.05  # largest relative change of brightness, contrast, saturation
    blur: float = 1.0  # largest standard deviation of the Gaussian blur, px; half of the pictures are blurred
    bank_seed: int = 0  # banks only: draws of the jittered copies
    stamp: str = "keep"  # the orange date stamp: keep or remove

    def __post_init__(self) -> None:
        check_types(self)
        check_image(self)
        check_training(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig(NetworkConfig):
    """Model 1 (SPEC 4). The defaults are the published setting, field by field."""

    backbone: str = "vit_small_patch14_dinov2.lvd142m"
    size: int = 980
    trained_blocks: int = 4
    head_width: int = 256
    head_width_2: int = 128
    dropout: float = 0.4
    transform: str = "log1p"  # of grams, before the z-score per target
    head_lr: float = 3e-5
    backbone_lr: float = 3e-5
    min_lr: float = 1e-6
    batch_size: int = 32
    epochs: int = 50

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        one_of("transform", self.transform, TRANSFORMS)

    @property
    def batches_folds(self) -> bool:
        """Whether all folds can be one batched problem (the family's `fit_folds`)."""
        return self.trained_blocks == 0


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


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """The metadata teacher (SPEC 5). Its loss has the published weights, so that trials with other ones share it."""

    width: int = 128  # first hidden layer
    width_2: int = 64  # second hidden layer
    epochs: int = 200  # full-batch steps
    lr: float = 1e-3  # AdamW
    weight_decay: float = 0.01  # AdamW's own default
    inner_folds: int = 4  # by group inside the training rows; what is taught comes out of them

    def __post_init__(self) -> None:
        check_types(self)
        within("teacher_width", self.width, 1, 4096)
        within("teacher_width_2", self.width_2, 1, 4096)
        within("teacher_epochs", self.epochs, 1, 10_000)
        require("teacher_lr must lie in (0, 1)", 0 < self.lr < 1, self.lr)
        within("teacher_weight_decay", self.weight_decay, 0, 10)
        within("teacher_inner_folds", self.inner_folds, 2, 50)


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilledConfig(NetworkConfig):
    """Model 2 (SPEC 5): student of a metadata teacher. The defaults are the published setting.

    SPEC 5 gives the corners' size only; the whole image is taken at the same one.
    """

    backbone: str = "vit_small_patch16_dinov3.lvd1689m"  # one with a token grid or a feature map
    size: int = 224
    layout: str = "corners4"  # local views: none | halves | corners4 | tiles-RxC
    local_size: int = 224  # side of a local view, px
    trained_blocks: int = 5
    grid: int = 0  # patch tokens are average-pooled to grid x grid; 0 = all of them (trained backbones only)
    pooling_heads: int = 4  # of the attention over patch tokens
    pooling_dropout: float = 0.1
    crop_width: int = 128  # hidden layer of the attention over local views
    head_width: int = 512
    head_width_2: int = 128
    dropout: float = 0.2
    total_weight: float = 3.0  # of the Huber loss on the total
    ratio_weight: float = 1.2  # of the two ratio losses; 0 = off
    distillation_weight: float = 0.5  # of the Huber loss to the teacher; 0 = no teacher
    huber_delta: float = 1.0  # standard deviations of log1p grams
    group_weights: bool = True  # rows weigh by the inverse frequency of their date, state and species
    teacher_width: int = 128  # see TeacherConfig
    teacher_width_2: int = 64
    teacher_epochs: int = 200
    teacher_lr: float = 1e-3
    teacher_weight_decay: float = 0.01
    teacher_inner_folds: int = 4
    head_lr: float = 3e-4
    backbone_lr: float = 1e-4
    min_lr: float = 2e-6
    batch_size: int = 20
    epochs: int = 70

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        layout_of(self.layout, *LOCAL_LAYOUTS)
        within("local_size", self.local_size, 16, 4096)
        within("grid", self.grid, 0, 99)
        require(
            "a frozen backbone caches its tokens on a grid: set grid to 1 or more, or trained_blocks above 0",
            self.grid > 0 or self.trained_blocks > 0,
            self.grid,
        )
        within("pooling_heads", self.pooling_heads, 1, 64)
        require("pooling_dropout must lie in [0, 1)", 0 <= self.pooling_dropout < 1, self.pooling_dropout)
        within("crop_width", self.crop_width, 1, 8192)
        require("total_weight must be above 0", 0 < self.total_weight <= 1000, self.total_weight)
        within("ratio_weight", self.ratio_weight, 0, 1000)
        within("distillation_weight", self.distillation_weight, 0, 1000)
        require("huber_delta must be above 0", 0 < self.huber_delta <= 1000, self.huber_delta)
        self.teacher_config()

    def teacher_config(self) -> TeacherConfig | None:
        """Settings of the teacher, or None when nothing is distilled."""
        names = [field.name for field in dataclasses.fields(TeacherConfig)]
        teacher = TeacherConfig(**{name: getattr(self, f"teacher_{name}") for name in names})
        return teacher if self.distillation_weight > 0 else None


Config: TypeAlias = BaselineConfig | ProbeConfig | DistilledConfig
CONFIGS: dict[str, type[BaselineConfig] | type[ProbeConfig] | type[DistilledConfig]] = {
    "baseline": BaselineConfig,
    "probe": ProbeConfig,
    "distilled": DistilledConfig,
}

BASELINE_REFERENCE = BaselineConfig()


def baseline_twin(backbone: str = "tf_efficientnet_lite0", size: int = 224) -> BaselineConfig:
    """The reference's small twin: same structure, backbone frozen, small image, a head's own learning rate."""
    return dataclasses.replace(BASELINE_REFERENCE, backbone=backbone, size=size, trained_blocks=0, head_lr=3e-4)


def config_from_params(family: str, params: Mapping[str, Any]) -> Config:
    """Params of a proposal or a ledger -> config; ValueError for unknown or ill-typed ones."""
    config_class = CONFIGS[known_name("a family", family, CONFIGS)]
    names = [field.name for field in dataclasses.fields(config_class)]
    for name in params:
        if name not in names:
            hint = did_you_mean(name, names, most=3) or f"; its parameters are {', '.join(names)}"
            raise UserError(f"{family} has no parameter {name!r}{hint}")
    hints = get_type_hints(config_class)
    # JSON does not tell 1.0 from 1: a whole number is a fine value of a float field
    values: dict[str, Any] = {
        name: float(value) if hints[name] is float and type(value) is int else value for name, value in params.items()
    }
    return config_class(**values)


def batches_folds(config: Any) -> bool:
    """Whether the folds of a configuration can be one batched problem; a family without the property has none."""
    return getattr(config, "batches_folds", False)


def config_to_params(config: Config) -> dict[str, Any]:
    """Config -> JSON-able dict with every field; `config_from_params` is its inverse."""
    return dataclasses.asdict(config)
