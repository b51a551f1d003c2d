"""What turns features into the five outputs. B images, V views, P patch tokens, D features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from biomass_models.targets import TARGETS


def mlp_head(features: int, *, width: int, width_2: int, dropout: float, outputs: int = len(TARGETS)) -> nn.Sequential:
    """The head of both published models: features [..., D] -> outputs [..., 5], or another number of them."""
    return nn.Sequential(
        nn.LayerNorm(features),
        nn.Linear(features, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, width_2),
        nn.GELU(),
        nn.Linear(width_2, outputs),
    )


class AttentionPooling(nn.Module):
    """Patch tokens to one vector: a softmax over tokens per head, weighted sums, mean over heads."""

    def __init__(self, features: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        hidden = max(1, features // 2)
        self.score = nn.Sequential(
            nn.Linear(features, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, heads, bias=False)
        )

    def forward(self, patch_BVPD: Tensor) -> tuple[Tensor, Tensor]:
        """[..., P, D] -> pooled [..., D] and where it looked, [..., P], summing to 1 over the tokens."""
        # the mean over heads of weighted sums is the sum weighted by the mean over heads
        look = self.score(patch_BVPD).float().softmax(-2).mean(-1)
        return (look.to(patch_BVPD.dtype).unsqueeze(-2) @ patch_BVPD).squeeze(-2), look


class CropAttention(nn.Module):
    """Local views to one vector."""

    def __init__(self, features: int, *, width: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def forward(self, view_BVD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, V, D] -> weighted sum [B, D] and the views' weights [B, V], summing to 1."""
        weight_BV = self.score(view_BVD).float().squeeze(-1).softmax(-1)
        return torch.einsum("bv,bvd->bd", weight_BV.to(view_BVD.dtype), view_BVD), weight_BV
