"""What a bank keeps of a view, as objects that make it and know its size.

B pictures, D features, G x G a pooled token grid. An output makes float32 [B, ...] of a layer's tokens; a Trunk makes
it of pictures. Names are those of the stored arrays: they never change, and outputs of one name are one output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from biomass_models.backbones import trunk
from biomass_models.backbones.adapter import Backbone, Tokens


class Output(ABC):
    """What is kept of one layer's tokens. Subclasses are frozen dataclasses: equal ones are one output."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Part of the name of the stored arrays: says all that makes the numbers."""

    @abstractmethod
    def reduce(self, tokens: Tokens) -> Tensor:
        """float32 [B, ...] from a layer's tokens."""

    def shape(self, backbone: Backbone, height: int, width: int) -> tuple[int, ...]:
        """Of one picture of that size, from the backbone's shapes (adapter.weightless)."""
        return tuple(self.reduce(backbone.shapes(height, width)).shape[1:])


@dataclass(frozen=True)
class Global(Output):
    """Class token or pooled vector, [B, D]."""

    name = "global"

    def reduce(self, tokens: Tokens) -> Tensor:
        return tokens.global_BD.float()


@dataclass(frozen=True)
class PatchMean(Output):
    """Mean of the patch tokens, [B, D]."""

    name = "patch_mean"

    def reduce(self, tokens: Tokens) -> Tensor:
        return tokens.patch_BPD.float().mean(1)


@dataclass(frozen=True)
class PatchStd(Output):
    """Standard deviation of the patch tokens, [B, D]."""

    name = "patch_std"

    def reduce(self, tokens: Tokens) -> Tensor:
        return tokens.patch_BPD.float().std(1, correction=0)


@dataclass(frozen=True)
class PatchMax(Output):
    """Largest value of each feature among the patch tokens, [B, D]."""

    name = "patch_max"

    def reduce(self, tokens: Tokens) -> Tensor:
        return tokens.patch_BPD.float().amax(1)


@dataclass(frozen=True)
class PatchMin(Output):
    """Smallest value of each feature among the patch tokens, [B, D]."""

    name = "patch_min"

    def reduce(self, tokens: Tokens) -> Tensor:
        return tokens.patch_BPD.float().amin(1)


@dataclass(frozen=True)
class PatchGem(Output):
    """Signed generalised mean of the patch tokens, [B, D]: mean of sign(x) |x|^3, and of that the signed cube root.

    x^3 is what that says, sign included. In float32, since it overflows float16 above 40; the root in float64, whose
    rounded result does not depend on the place in a batch.
    """

    name = "patch_gem"

    def reduce(self, tokens: Tokens) -> Tensor:
        patch_BPD = tokens.patch_BPD.float()
        mean_BD = (patch_BPD * patch_BPD * patch_BPD).mean(1).double()
        return (mean_BD.sign() * mean_BD.abs().pow(1 / 3)).float()


@dataclass(frozen=True)
class Grid(Output):
    """Patch tokens, average-pooled to side x side: [B, side * side, D]."""

    side: int

    def __post_init__(self) -> None:
        if not 1 <= self.side <= 99:
            raise ValueError(f"the side of a grid lies in [1, 99], got {self.side}")

    @property
    def name(self) -> str:
        return f"grid-{self.side}"

    def reduce(self, tokens: Tokens) -> Tensor:
        map_BDHW = tokens.patch_BPD.float().transpose(1, 2).unflatten(2, tokens.grid)
        return functional.adaptive_avg_pool2d(map_BDHW, self.side).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Trunk(Output):
    """What enters the first of the last `blocks` blocks (backbones.trunk): stands alone in its bank."""

    blocks: int

    def __post_init__(self) -> None:
        if not 1 <= self.blocks <= 99:
            raise ValueError(f"the blocks above a trunk lie in [1, 99], got {self.blocks}")

    @property
    def name(self) -> str:
        return f"prefix-{self.blocks}"

    def reduce(self, tokens: Tokens) -> Tensor:
        raise AssertionError("a trunk is made of pictures, not of a layer's tokens")

    def of_pictures(self, backbone: Backbone, image_BCHW: Tensor) -> Tensor:
        """float32 [B, ...] of float pictures in [0, 1]."""
        return trunk.prefix_of(backbone, image_BCHW, self.blocks).float()

    @torch.inference_mode()
    def shape(self, backbone: Backbone, height: int, width: int) -> tuple[int, ...]:
        picture = torch.empty(1, 3, height, width, device=backbone.mean.device)
        return tuple(self.of_pictures(backbone, picture).shape[1:])


GLOBAL, PATCH_MEAN, PATCH_STD = Global(), PatchMean(), PatchStd()
PATCH_MAX, PATCH_MIN, PATCH_GEM = PatchMax(), PatchMin(), PatchGem()
ALWAYS: tuple[Output, ...] = (GLOBAL, PATCH_MEAN, PATCH_STD)  # always stored: they cost nothing beside the forward pass
# stored too of pictures as they are: with many jittered copies they would take more room than what those are made for
OF_PLAIN: tuple[Output, ...] = (PATCH_MAX, PATCH_MIN, PATCH_GEM)
