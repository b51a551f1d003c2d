"""The frozen front of a partly trained backbone runs once: its output is cached, only the trained blocks run.

B pictures. A prefix is what enters the first trained block: tokens [B, P + class and register tokens, D] of a
transformer, a map [B, C, H, W] of a CNN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from biomass_models.backbones.adapter import Backbone, Tokens

SMALLEST = 64  # px; a CNN's stem sees a picture of this size in place of the one that is cached


class _Reached(Exception):
    """Carries a block's input out of the forward pass that need not go on."""

    def __init__(self, prefix_B: Tensor) -> None:
        self.prefix_B = prefix_B


class _Skip(nn.Module):
    """Stands for a frozen block whose work is in the cache."""

    def forward(self, value: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return value


def prefix_of(backbone: Backbone, image_BCHW: Tensor, trained_blocks: int) -> Tensor:
    """What enters the first of the last `trained_blocks` blocks, for float pictures in [0, 1]."""

    def stop(_block: nn.Module, given: tuple[Any, ...]) -> None:
        raise _Reached(given[0])

    handle = backbone.blocks()[-trained_blocks].register_forward_pre_hook(stop)
    try:
        backbone(image_BCHW)
    except _Reached as reached:
        return reached.prefix_B
    finally:
        handle.remove()
    raise AssertionError(f"{backbone.name} never reached its trained blocks")


class BackboneTail(nn.Module):
    """The trained blocks of a backbone, and what follows them: takes prefixes where the backbone takes pictures.

    The backbone becomes part of it and loses its frozen blocks; names of trained tensors stay as they are. Embedding
    and stem still run, on an empty picture: they make what every model hands its blocks beside the tokens (RoPE).
    """

    def __init__(self, backbone: Backbone, trained_blocks: int) -> None:
        super().__init__()
        self.backbone = backbone
        backbone.train_last(trained_blocks)
        self._entering: Tensor | None = None
        blocks = backbone.blocks()
        frozen = {id(block) for block in blocks[:-trained_blocks]}
        for parent in list(backbone.modules()):
            for name, child in parent.named_children():
                if id(child) in frozen:
                    setattr(parent, name, _Skip())
        blocks[-trained_blocks].register_forward_pre_hook(self._enter)

    def forward(self, prefix_B: Tensor, size: tuple[int, int]) -> Tokens:
        """Final features of the pictures behind the prefixes; size: height and width of those in px."""
        self._entering = prefix_B
        height, width = (SMALLEST, SMALLEST) if self.backbone.is_convolutional else size
        try:
            return self.backbone(torch.zeros(len(prefix_B), 3, height, width, device=prefix_B.device))
        finally:
            self._entering = None

    def trained_state(self) -> dict[str, Tensor]:
        """As the whole backbone's."""
        return self.backbone.trained_state()

    def _enter(self, _block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._entering, *given[1:])
