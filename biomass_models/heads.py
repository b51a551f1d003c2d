"""What turns features into the five outputs."""

from __future__ import annotations

from torch import nn

from biomass_models.targets import TARGETS


def baseline_head(features: int, *, width: int, width_2: int, dropout: float) -> nn.Sequential:
    """Model 1's head (SPEC 4): features [B, D] -> z-scores [B, 5]."""
    return nn.Sequential(
        nn.LayerNorm(features),
        nn.Linear(features, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, width_2),
        nn.GELU(),
        nn.Linear(width_2, len(TARGETS)),
    )
