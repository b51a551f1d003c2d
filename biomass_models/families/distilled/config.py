"""Configurations of the distilled family: student and metadata teacher. Torch-free."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomass_models.config_rules import check_types, layout_of, require, within
from biomass_models.families.base import Family, differences
from biomass_models.targets import CLOVER, DEAD, GDM, GREEN, LEAST_MEASURED, TARGETS, TOTAL
from biomass_models.training.config import NetworkOptions

KIND = ("Sampling_Date", "State", "Species")  # rows alike in these are one kind of sampling
NUMERIC = ("Pre_GSHH_NDVI", "Height_Ave_cm")  # what the teacher reads beside date and species
TERMS = ((TOTAL,), (GDM, DEAD), (GREEN, CLOVER))  # masses that a row needs for each term of the loss
LOCAL_LAYOUTS = ("none", "halves", "corners4")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """The metadata teacher. Its loss has the published weights, so that trials with other ones share it."""

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
class DistilledConfig(NetworkOptions):
    """The published student of a metadata teacher. The defaults are the published setting.

    Only the corners' size is published; the whole image is taken at the same one.
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
        NetworkOptions.__post_init__(self)
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


def summary(config: DistilledConfig) -> str:
    """Whether a teacher helps, then the settings that tell a trial from the published one, most important first."""
    names = ("backbone", "size", "layout", "local_size", "trained_blocks", "grid", "head_lr", "dropout", "head_width")
    found = differences(config, DistilledConfig(), *names)
    return ", ".join(filter(None, ["" if config.distillation_weight else "no teacher", found]))


def learned_targets(measured_NT: NDArray[np.bool_], least: int = 1) -> NDArray[np.bool_]:
    """Which targets student and teacher learn, [5]: a mass is a share of a share of the total, and each term of the
    loss on the way to it has `least` rows in which its masses were measured."""
    learned_T, enough = np.zeros(len(TARGETS), dtype=bool), True
    for needed in TERMS:
        enough = enough and bool(measured_NT[:, needed].all(axis=1).sum() >= least)
        learned_T[list(needed)] = enough
    return learned_T


def learns(measured_NT: NDArray[np.bool_]) -> str | None:
    """Which masses were measured and cannot be learned, and why (families.base.Family.learns)."""
    unlearned_T = measured_NT.any(axis=0) & ~learned_targets(measured_NT, LEAST_MEASURED)
    if measured_NT.all() or not unlearned_T.any():
        return None
    names = ", ".join(name for name, lost in zip(TARGETS, unlearned_T, strict=True) if lost)
    return (
        f"{names}: it learns the total, then GDM with dead, then green with clover, each from {LEAST_MEASURED} "
        "training rows or more that have both"
    )


FAMILY = Family(
    config_class=DistilledConfig,
    describe="the published student: DINOv3 ViT-S/16, attention over tokens and views, taught by metadata as it trains",
    summary=summary,
    metadata=(*KIND, *NUMERIC),
    learns=learns,
    map_unit="share of the attention",
    pseudo_labels=True,
)
