"""From patch tokens to areal densities, and to masses.

B images, V views that tile the photograph, P patch tokens of a view, D features, C = 3 components (COMPONENTS).
z_BVPC         an MLP of a token
density_BVPC   softplus(z) / softplus(0) * mean_C: grams that a quadrat would hold which looks like this everywhere
mean_C         of the training rows, grams per quadrat: what is predicted where z is 0
mass_BC        mean of the densities over all views and tokens, in float32

GDM and total follow by the identities, so that masses are coherent, and not negative, in any precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from biomass_models.backbones.adapter import Backbone
from biomass_models.backbones.trunk import BackboneTail
from biomass_models.families.density.config import DensityConfig
from biomass_models.targets import CLOVER, DEAD, FROM_COMPONENTS, GREEN, FloatArray, weights_of
from biomass_models.training.heads import mlp_head
from biomass_models.training.network import Network
from biomass_models.training.sources import Prefix, ViewTokens, view_tokens

COMPONENTS = (GREEN, DEAD, CLOVER)  # in the order of targets.FROM_COMPONENTS
LEAST_MEAN = 0.01  # grams: a component that no training row has can still be predicted, in traces


class DensityOutput(NamedTuple):
    """What a photograph holds, and where."""

    mass_BC: Tensor
    density_BVPC: Tensor


class DensityNet(Network):
    """Backbone (None when frozen), and the head that every token passes: its embedding is of a token."""

    head: nn.Sequential

    def __init__(
        self,
        config: DensityConfig,
        backbone: Backbone | BackboneTail | None,
        *,
        patch_width: int,
        mean_C: FloatArray | None = None,
    ) -> None:
        """patch_width: length of the backbone's patch tokens; mean_C: None where a stored one will be loaded."""
        super().__init__(backbone)
        self.grid = grid_of(config)
        self.head = mlp_head(
            patch_width,
            width=config.head_width,
            width_2=config.head_width_2,
            dropout=config.dropout,
            outputs=len(COMPONENTS),
        )
        self.density = Density(np.ones(len(COMPONENTS)) if mean_C is None else mean_C)

    def embed(self, given: Sequence[ViewTokens] | Sequence[Prefix] | Sequence[Tensor]) -> tuple[Tensor, None]:
        """given: one part, the views; as tokens of a frozen backbone, as pictures [B, V, 3, H, W] in [0, 1], or as what
        the frozen blocks say of these."""
        (part,) = given
        return view_tokens(self.backbone, part, self.grid).patch_BVPD, None

    def outputs(self, z_BVPC: Tensor, _beside: None) -> DensityOutput:
        """Densities of the head's output, and their mean."""
        density_BVPC = self.density(z_BVPC)
        return DensityOutput(density_BVPC.mean((1, 2)), density_BVPC)


class Density(nn.Module):
    """What the head says of tokens -> densities, float32 whatever the precision of the tokens."""

    mean_C: Tensor

    def __init__(self, mean_C: FloatArray) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.tensor(mean_C, dtype=torch.float32))

    def forward(self, z_BVPC: Tensor) -> Tensor:
        return functional.softplus(z_BVPC.float()) / math.log(2.0) * self.mean_C.float()


def grid_of(config: DensityConfig) -> int:
    """Side of the token grid, 0 where all tokens are there because blocks train."""
    return config.grid if config.trained_blocks == 0 else 0


def five_masses(mass_BC: Tensor) -> Tensor:
    """Components [..., C] -> all five targets [..., T] in grams, by the identities."""
    return mass_BC @ torch.as_tensor(FROM_COMPONENTS, dtype=mass_BC.dtype, device=mass_BC.device).T


def density_loss(mass_BC: Tensor, goal_BT: Tensor, weight: Tensor, *, beta: float) -> Tensor:
    """SmoothL1 in grams, weighted by cell and averaged over the batch: x^2 / (2 beta) below beta grams, |x| - beta / 2
    above.

    goal_BT: NaN where not measured; weight: what a cell counts in the metric, [5] or [B, 5], 0 where not measured.
    """
    if weight.ndim == 2:
        goal_BT = torch.where(weight > 0, goal_BT, 0.0)
    loss_BT = functional.smooth_l1_loss(five_masses(mass_BC.float()), goal_BT, reduction="none", beta=beta)
    return (loss_BT * weight).sum(-1).mean()


def component_means(mass_MT: FloatArray, weight: FloatArray) -> FloatArray:
    """Mean mass [C] of each component in grams, as far as what was measured says it.

    Of the means of the measured targets; what they leave open is shared evenly: of a total alone each component has a
    third. weight: of the cells, [5] or [M, 5].
    """
    weight_MT = np.broadcast_to(weights_of(mass_MT, weight), mass_MT.shape)
    known_T = (weight_MT > 0).any(axis=0)
    known_MT = np.where(weight_MT > 0, mass_MT, 0.0)
    mean_T = (weight_MT * known_MT).sum(0)[known_T] / weight_MT.sum(0)[known_T]
    mean_C: FloatArray = np.maximum(np.linalg.pinv(FROM_COMPONENTS[known_T]) @ mean_T, LEAST_MEAN)
    return mean_C
