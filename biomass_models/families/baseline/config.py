"""Configuration of the baseline family. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from biomass_models.config_rules import TRANSFORMS, one_of
from biomass_models.families.base import Family, differences
from biomass_models.training.config import NetworkOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig(NetworkOptions):
    """The published baseline. The defaults are its setting, field by field."""

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
        NetworkOptions.__post_init__(self)
        one_of("transform", self.transform, TRANSFORMS)


def summary(config: BaselineConfig) -> str:
    """The settings that tell a trial from the published one, those that matter most first."""
    return differences(
        config, BaselineConfig(), "backbone", "size", "trained_blocks", "transform", "head_lr", "dropout", "head_width"
    )


FAMILY = Family(
    config_class=BaselineConfig,
    describe="the published baseline: DINOv2 ViT-S/14, last blocks trained (or all frozen), and a small head",
    summary=summary,
    batches_folds=lambda config: config.trained_blocks == 0 and config.learns_masses_alone,
    pseudo_labels=True,
)
