"""The settings that every network shares which trains by gradient. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from biomass_models.config_rules import check_image, check_training, check_types, one_of, require, within

ADAPTERS = ("none", "lora", "dora")
PREDICTED_METADATA = ("none", "film", "shuffled")  # shuffled among the training rows: what film brings without them


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Settings of a network that trains by gradient; the defaults are those of its family."""

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
class NetworkOptions(NetworkConfig):
    """What a network may do beside the published setting; off by default."""

    interval_bins: int = 0  # of each mass, classified beside the regression (training/intervals.py); 0 = off
    interval_weight: float = 0.1  # of their cross-entropy, beside a loss on z-scored masses
    mixup_alpha: float = 0.0  # inputs and masses of two rows are mixed by Beta(alpha, alpha); 0 = off
    predicted_metadata: str = "none"  # film: they modulate the embedding (training/predicted_metadata.py); shuffled
    stamped: int = 0  # banks only: further copies with a drawn date stamp and red dots
    adapters: str = "none"  # lora | dora (backbones/adapters.py): they train at head_lr, the last blocks stay frozen
    adapter_rank: int = 8

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        one_of("adapters", self.adapters, ADAPTERS)
        within("adapter_rank", self.adapter_rank, 1, 256)
        require(
            "adapters sit in the last blocks: set trained_blocks above 0 or adapters=none",
            self.adapters == "none" or self.trained_blocks > 0,
            (self.adapters, self.trained_blocks),
        )
        within("stamped", self.stamped, 0, 16)
        require(
            "stamped copies belong to a bank: set trained_blocks=0, or a prefix_bank, or stamped=0",
            self.stamped == 0 or self.trained_blocks == 0 or self.prefix_bank != "none",
            (self.stamped, self.trained_blocks),
        )
        require(
            "stamps are either learned from or removed: set stamp=keep or stamped=0",
            self.stamped == 0 or self.stamp == "keep",
            (self.stamped, self.stamp),
        )
        require("interval_bins is 0 or lies in [2, 50]", self.interval_bins in (0, *range(2, 51)), self.interval_bins)
        one_of("predicted_metadata", self.predicted_metadata, PREDICTED_METADATA)
        within("mixup_alpha", self.mixup_alpha, 0, 10)
        require("interval_weight must be above 0", 0 < self.interval_weight <= 1000, self.interval_weight)

    @property
    def learns_masses_alone(self) -> bool:
        """Whether the rows' own masses are all that is learned: folds of a frozen baseline are one batch then."""
        return self.interval_bins == 0 and self.mixup_alpha == 0 and self.predicted_metadata == "none"
