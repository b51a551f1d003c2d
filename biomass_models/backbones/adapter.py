"""Any timm model as one thing: a picture in, a global vector and patch tokens out.

B pictures, P patch tokens on a grid of (rows, columns), D features.
image_BCHW   float pictures in [0, 1], before the model's own normalisation
global_BD    class token, or the pooled vector of a model without one
patch_BPD    patch tokens, row by row; class and register tokens are not among them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from biomass_models.backbones.weights import WeightsSource, canonical_name, load_weights
from biomass_models.errors import UserError


class BackboneError(UserError):
    """A timm model that cannot be used as asked: size, number of blocks, or kind of output."""


@dataclass(frozen=True)
class Tokens:
    """One layer's output for a batch."""

    global_BD: Tensor
    patch_BPD: Tensor
    grid: tuple[int, int]  # rows, columns; P = rows * columns


class Backbone(nn.Module):
    """Adapter of a timm model. Frozen when built; `train_last` frees the last blocks."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        self.model = model
        self.name = name
        cfg: dict[str, Any] = model.pretrained_cfg
        self.register_buffer("mean", torch.tensor(cfg["mean"]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"]).view(1, -1, 1, 1), persistent=False)
        self.native_size: tuple[int, int] = (int(cfg["input_size"][-2]), int(cfg["input_size"][-1]))
        self.fixed_size = bool(cfg.get("fixed_input_size")) and not getattr(model, "dynamic_img_size", False)
        self._free: list[nn.Module] = []
        self._seen: dict[tuple[int, int], Tokens] = {}  # on the meta device, by height and width
        self.requires_grad_(False)
        self.eval()

    @property
    def is_convolutional(self) -> bool:
        """Feature maps in channels first: faster in channels_last memory format on CPU and GPU."""
        has_tokens = hasattr(self.model, "num_prefix_tokens") or hasattr(self.model, "patch_embed")
        return not has_tokens and getattr(self.model, "output_fmt", "NCHW") != "NHWC"

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width in px that input sizes must be multiples of; (1, 1) for convolutional networks."""
        size = getattr(getattr(self.model, "patch_embed", None), "patch_size", (1, 1))
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    def fit_size(self, height: int, width: int) -> tuple[int, int, str]:
        """Nearest size in px that the model takes, and a note about the change ("" when there is none)."""
        if self.fixed_size:
            if (height, width) != self.native_size:
                raise BackboneError(
                    f"{self.name} takes pictures of {self.native_size[0]}x{self.native_size[1]} px only, got "
                    f"{height}x{width}; choose that size or another backbone"
                )
            return height, width, ""
        fitted = tuple(
            max(1, round(side / unit)) * unit for side, unit in zip((height, width), self.patch, strict=True)
        )
        if fitted == (height, width):
            return height, width, ""
        size = f"{height}x{width} px rounded to {fitted[0]}x{fitted[1]}"
        note = f"{size}: {self.name} has patches of {self.patch[0]} px"
        return fitted[0], fitted[1], note

    def forward(self, image_BCHW: Tensor) -> Tokens:
        """Final features of float pictures in [0, 1]."""
        return self._final(self.model.forward_features(self.normalise(image_BCHW)), image_BCHW)

    def layers(self, image_BCHW: Tensor, numbers: Sequence[int]) -> list[Tokens]:
        """Outputs of layers by their numbers from the end: 0 the final features, the others blocks or, in CNNs, stages.

        An inner layer's global vector is its class token where there is one, else the mean of its patch tokens.
        """
        if not any(numbers):
            return [self(image_BCHW)] * len(numbers)
        if not hasattr(self.model, "forward_intermediates"):
            raise BackboneError(f"{self.name} does not show its inner layers to timm; choose layers=1")
        extra: dict[str, Any] = {"return_prefix_tokens": True, "norm": True} if self._prefix else {}
        inner_numbers = sorted({number for number in numbers if number}, reverse=True)  # in the order of the blocks
        indices = [-1 - number for number in inner_numbers]
        try:
            feature, inner = self.model.forward_intermediates(self.normalise(image_BCHW), indices=indices, **extra)
        except (AssertionError, IndexError) as error:
            least = 1 + max(numbers)
            raise BackboneError(f"{self.name} has fewer than {least} layers to show; choose fewer") from error
        tokens = {0: self._final(feature, image_BCHW)}
        for number, item in zip(inner_numbers, inner, strict=True):
            map_BDHW, prefix_BRD = item if self._prefix else (item, item)
            patch_BPD = map_BDHW.flatten(2).transpose(1, 2)
            global_BD = prefix_BRD[:, 0] if self._prefix and self._has_class_token else patch_BPD.mean(1)
            tokens[number] = Tokens(global_BD, patch_BPD, (map_BDHW.shape[2], map_BDHW.shape[3]))
        return [tokens[number] for number in numbers]

    @property
    def depth(self) -> int:
        """Layers that `layers` can show: blocks or, in CNNs, stages."""
        known = getattr(self.model, "feature_info", None)
        if known is None:
            raise BackboneError(f"{self.name} does not show its inner layers to timm; choose layers=1")
        return len(known)

    @torch.inference_mode()
    def shapes(self, height: int, width: int) -> Tokens:
        """What one picture of that size gives; for its shapes. Found once a size where that takes no memory."""
        if (seen := self._seen.get((height, width))) is not None:
            return seen
        found: Tokens = self(torch.empty(1, 3, height, width, device=self.mean.device))
        if self.mean.is_meta:
            self._seen[height, width] = found
        return found

    def widths(self, height: int, width: int) -> tuple[int, int]:
        """Lengths of the global vector and of a patch token for pictures of that size."""
        tokens = self.shapes(height, width)
        return tokens.global_BD.shape[-1], tokens.patch_BPD.shape[-1]

    def normalise(self, image_BCHW: Tensor) -> Tensor:
        """Pictures in [0, 1] -> the model's own mean and standard deviation."""
        normalised = (image_BCHW - self.mean) / self.std
        return normalised.contiguous(memory_format=torch.channels_last) if self.is_convolutional else normalised

    def blocks(self) -> list[nn.Module]:
        """Blocks in the order in which a picture meets them; stages count as the blocks inside them."""
        return [block for _, container in self._containers() for block in container]

    def train_last(self, count: int) -> list[nn.Module]:
        """Free the last `count` blocks and what follows them (final norm, pooling); all else stays frozen.

        Returns the freed modules. count = 0 frees nothing.
        """
        freed: list[nn.Module] = []
        if count > 0:
            blocks = self.blocks()
            if count > len(blocks):
                raise BackboneError(
                    f"{self.name} has {len(blocks)} blocks, trained_blocks must not exceed that, got {count}"
                )
            children = list(self.model.named_children())
            last = max(index for index, (name, _) in enumerate(children) if name in dict(self._containers()))
            freed = [*blocks[-count:], *(child for _, child in children[last + 1 :])]
        self.free(freed)
        return freed

    def free(self, modules: Sequence[nn.Module]) -> None:
        """Only these train; all else stays frozen."""
        self.requires_grad_(False)
        self._free = list(modules)
        for module in self._free:
            module.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Only what trains goes to training mode: BatchNorm and dropout in frozen parts stay as in prediction."""
        super().train(False)
        self.training = mode
        for module in self._free:
            module.train(mode)
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """Parameters and buffers of the freed modules, by their names in the timm model."""
        free = {id(tensor) for module in self._free for tensor in (*module.parameters(), *module.buffers())}
        return {name: tensor for name, tensor in self.model.state_dict(keep_vars=True).items() if id(tensor) in free}

    @property
    def _prefix(self) -> int:
        """Class and register tokens in front of the patch tokens, by the model's own account."""
        return int(getattr(self.model, "num_prefix_tokens", 0))

    @property
    def _has_class_token(self) -> bool:
        # a model that pools by attention was trained for that vector; its class token is one token among others
        model = self.model
        return getattr(model, "cls_token", None) is not None and getattr(model, "attn_pool", None) is None

    def _final(self, feature: Tensor, image_BCHW: Tensor) -> Tokens:
        if feature.ndim == 4:
            map_BHWD = feature if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else feature.permute(0, 2, 3, 1)
            pooled = self.model.forward_head(feature, pre_logits=True)
            return Tokens(pooled.flatten(1), map_BHWD.flatten(1, 2), (map_BHWD.shape[1], map_BHWD.shape[2]))
        if feature.ndim != 3:
            raise BackboneError(f"{self.name} gives features of shape {tuple(feature.shape)}, no map and no tokens")
        if self._has_class_token:
            global_BD = self.model.fc_norm(feature[:, 0]) if hasattr(self.model, "fc_norm") else feature[:, 0]
        else:
            global_BD = self.model.forward_head(feature, pre_logits=True)
        patch_BPD = feature[:, self._prefix :]
        return Tokens(global_BD, patch_BPD, self._grid(image_BCHW, patch_BPD.shape[1]))

    def _grid(self, image_BCHW: Tensor, tokens: int) -> tuple[int, int]:
        height, width = image_BCHW.shape[-2:]
        embed: Any = getattr(self.model, "patch_embed", None)
        if hasattr(embed, "dynamic_feat_size"):
            rows, columns = embed.dynamic_feat_size((height, width))
        else:  # hierarchical transformers merge patches: same shape as the picture
            rows = round((tokens * height / width) ** 0.5)
            columns = tokens // max(rows, 1)
        if rows * columns != tokens:
            raise BackboneError(f"{self.name} gives {tokens} patch tokens for {height}x{width} px: no full grid")
        return rows, columns

    def _containers(self) -> list[tuple[str, list[nn.Module]]]:
        """Top-level parts that hold blocks, in order, with the blocks inside."""
        found = []
        for name, child in self.model.named_children():
            if name in {"blocks", "stages", "layers"}:
                found.append((name, [block for stage in child.children() for block in _inside(stage)]))
            elif name.startswith("layer") and name[5:].isdigit():
                found.append((name, list(child.children())))
        if not found:
            parts = ", ".join(name for name, _ in self.model.named_children())
            raise BackboneError(f"{self.name} does not name its blocks (parts: {parts}); choose trained_blocks=0")
        return found


def build_backbone(name: str, source: WeightsSource) -> Backbone:
    """A timm model by name with the source's weights, without classifier. Raises WeightsError for both."""
    model = create_timm(canonical_name(name))
    load_weights(model, name, source)
    backbone = Backbone(model, name)
    return backbone.to(memory_format=torch.channels_last) if backbone.is_convolutional else backbone


@lru_cache(maxsize=32)
def weightless(name: str) -> Backbone:
    """A backbone on torch's meta device: knows sizes, blocks and shapes, and costs neither memory nor a file."""
    with torch.device("meta"):
        model = create_timm(canonical_name(name))
        return Backbone(model, name)


def create_timm(name: str) -> nn.Module:
    """The bare timm model without classifier; a transformer takes other sizes than its own if timm can do that."""
    try:
        return timm.create_model(name, num_classes=0, dynamic_img_size=True)
    except TypeError as error:  # a family of models that has no such option
        if "dynamic_img_size" not in str(error):
            raise
    return timm.create_model(name, num_classes=0)


def parameter_groups(
    backbone: nn.Module, head: nn.Module, *, backbone_lr: float, head_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimiser groups: every trainable parameter in exactly one; no weight decay on norms and biases."""
    groups = []
    for module, rate in ((backbone, backbone_lr), (head, head_lr)):
        decayed = [tensor for _, tensor in _trainable(module) if tensor.ndim > 1]
        plain = [tensor for _, tensor in _trainable(module) if tensor.ndim <= 1]
        groups += [
            {"params": tensors, "lr": rate, "weight_decay": decay}
            for tensors, decay in ((decayed, weight_decay), (plain, 0.0))
            if tensors
        ]
    return groups


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad)


def _inside(stage: nn.Module) -> list[nn.Module]:
    """Blocks of a stage: its `blocks`, its members if it is a bare sequence, or else the stage itself."""
    inner = getattr(stage, "blocks", None)
    if isinstance(inner, nn.Sequential | nn.ModuleList):
        return list(inner.children())
    return list(stage.children()) if type(stage) is nn.Sequential else [stage]
