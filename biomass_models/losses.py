"""Losses on z-scored masses. B images of a batch, T = 5 targets."""

from __future__ import annotations

import torch
from torch import Tensor

from biomass_models.targets import weight_T


def weighted_mse_loss(output_BT: Tensor, goal_BT: Tensor) -> Tensor:
    """Squared error weighted by the metric's weights (which sum to 1), averaged over the batch; in float32."""
    weight = torch.as_tensor(weight_T, dtype=torch.float32, device=output_BT.device)
    return ((output_BT.float() - goal_BT) ** 2 @ weight).mean()
