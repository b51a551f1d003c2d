"""The student's network: views through one shared backbone, attention over tokens and views, a head.

B images, V views of a part, L local views, P patch tokens, D features of a view (global vector and pooled patches).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from biomass_models.backbones.adapter import Backbone
from biomass_models.backbones.trunk import BackboneTail
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.training.heads import AttentionPooling, CropAttention, mlp_head
from biomass_models.training.network import Network
from biomass_models.training.sources import Prefix, ViewTokens, view_tokens


class StudentOutput(NamedTuple):
    """What `ratios.reconstruct` makes masses of, and what the student looked at."""

    output_BT: Tensor
    weight_BL: Tensor  # of the local views; [B, 0] without any
    look_BVP: tuple[Tensor, ...]  # over the patch tokens of each part's views


Beside = tuple[Tensor, tuple[Tensor, ...]]  # what a StudentOutput has beside the head's output


class Student(Network):
    """Backbone, attention pooling, crop attention (None without local views) and head."""

    crops: CropAttention | None

    def __init__(
        self, config: DistilledConfig, backbone: Backbone | BackboneTail | None, *, global_width: int, patch_width: int
    ) -> None:
        """global_width, patch_width: lengths of the backbone's global vector and of its patch tokens."""
        super().__init__(backbone)
        self.grid = config.grid
        view_width = global_width + patch_width
        has_local = config.layout != "none"
        self.pooling = AttentionPooling(patch_width, heads=config.pooling_heads, dropout=config.pooling_dropout)
        self.crops = CropAttention(view_width, width=config.crop_width) if has_local else None
        self.head = mlp_head(
            view_width * (2 if has_local else 1),
            width=config.head_width,
            width_2=config.head_width_2,
            dropout=config.dropout,
        )

    def embed(self, given: Sequence[ViewTokens] | Sequence[Prefix] | Sequence[Tensor]) -> tuple[Tensor, Beside]:
        """given: the whole image (one view), then the local views if there are any; as tokens of a frozen backbone, as
        pictures [B, V, 3, H, W] in [0, 1], or as what the frozen blocks say of these."""
        views, looks = [], []
        for part in given:
            tokens = view_tokens(self.backbone, part, self.grid)
            pooled_BVD, look_BVP = self.pooling(tokens.patch_BVPD)
            views.append(torch.cat([tokens.global_BVD, pooled_BVD], dim=-1))
            looks.append(look_BVP)
        whole_BD = views[0][:, 0]
        if self.crops is None:
            return whole_BD, (whole_BD.new_empty(len(whole_BD), 0), tuple(looks))
        local_BD, weight_BL = self.crops(views[1])
        return torch.cat([whole_BD, local_BD], dim=-1), (weight_BL, tuple(looks))

    def outputs(self, output_BT: Tensor, beside: Beside) -> StudentOutput:
        """The head's output, with what the student looked at."""
        return StudentOutput(output_BT, *beside)
