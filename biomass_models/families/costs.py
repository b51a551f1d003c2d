"""What a fold will cost, before it is started: a timed forward pass of the backbone, scaled by counted operations.

The pass is timed at a small size and its operations are counted there and at the size asked for (on torch's meta
device, so a 980 px estimate takes milliseconds). Estimates are for this machine and this process's threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from biomass_models.backbones.adapter import Backbone, create_timm, weightless
from biomass_models.backbones.devices import autocast, encoding_precision, pick_device, precision
from biomass_models.backbones.weights import canonical_name
from biomass_models.data.images import View
from biomass_models.features.encoding import PIXELS_AT_ONCE
from biomass_models.features.outputs import Output
from biomass_models.features.spec import FeatureSpec
from biomass_models.training.config import NetworkConfig

TIMED_SIZE = 224  # px; the pass that is really run
TIMED_PIXELS = 8 * TIMED_SIZE**2
BACKWARD = 2.0  # a backward pass through a block costs about twice its forward pass
SLOW = 1.0  # seconds; a first pass that takes this long is measurement enough


@lru_cache(maxsize=256)
def forward_seconds(backbone: str, height: int, width: int, device: str, *, frozen: bool = False) -> float:
    """Seconds of one forward pass of one picture of that size (rounded to what the backbone takes).

    frozen: a pass that fills a bank, in the precision of those.
    """
    shape = weightless(backbone)
    small = shape.native_size if shape.fixed_size else shape.fit_size(TIMED_SIZE, TIMED_SIZE)[:2]
    asked = shape.fit_size(height, width)[:2]
    return _timed_pass(backbone, small, device, frozen) * _operations(shape, asked) / _operations(shape, small)


def feature_seconds(spec: FeatureSpec, images: int, device: str) -> float:
    """Seconds to fill a feature bank for that many images; once per node, not per fold."""
    one_copy = sum(forward_seconds(spec.backbone, view.height, view.width, device, frozen=True) for view in spec.views)
    return images * len(spec.copies()) * one_copy


def all_feature_seconds(specs: Iterable[FeatureSpec], images: int, device: str = "auto") -> float:
    """Seconds to fill all banks of a configuration, once per node and none if they are cached."""
    return sum(feature_seconds(spec, images, device) for spec in specs)


def trained_fold_seconds(config: NetworkConfig, views: Sequence[View], n_train: int, device: str) -> float:
    """Seconds of one fold whose backbone trains: all epochs, and a prediction of the held-out rows (a quarter)."""
    forward = sum(forward_seconds(config.backbone, view.height, view.width, device) for view in views)
    share = min(1.0, config.trained_blocks / len(weightless(config.backbone).blocks()))
    if config.prefix_bank != "none":  # the frozen blocks are paid for in feature_seconds
        return forward * share * (config.epochs * n_train * (1 + BACKWARD) + n_train / 4)
    passes = config.epochs * n_train * (1 + BACKWARD * share)
    return forward * (passes + n_train / 4)


def head_fold_seconds(
    config: NetworkConfig,
    net: nn.Module,
    inputs_of: Callable[[int, torch.device], Any],
    n_train: int,
    device: str,
) -> float:
    """Seconds of one fold of new layers on cached features: a few timed steps, scaled to all epochs.

    inputs_of(count, device): what `net` takes for that many images; its output is a tensor or a tuple of which the
    first is one.
    """
    where = pick_device(device)
    net = net.to(where)
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    batch = inputs_of(min(config.batch_size, n_train), where)
    steps, start = 6, 0.0
    for step in range(steps):
        if step == 1:  # the first one warms up
            _wait(where)
            start = time.perf_counter()
        optimiser.zero_grad()
        output = net(batch)
        (output if isinstance(output, torch.Tensor) else output[0]).square().mean().backward()
        optimiser.step()
    _wait(where)
    a_step = (time.perf_counter() - start) / (steps - 1)
    return config.epochs * -(-n_train // config.batch_size) * a_step


@lru_cache(maxsize=64)
def _timed_pass(backbone: str, size: tuple[int, int], device: str, frozen: bool) -> float:
    where = pick_device(device)
    half = encoding_precision(where) if frozen else precision(where)
    model = Backbone(create_timm(canonical_name(backbone)), backbone).to(where)
    if model.is_convolutional:
        model = model.to(memory_format=torch.channels_last)
    batch = max(1, PIXELS_AT_ONCE.get(where.type, TIMED_PIXELS) // (size[0] * size[1]))
    best = float("inf")
    with torch.inference_mode(), autocast(where, half):
        for count in (1, batch, batch):
            image_BCHW = torch.rand(count, 3, *size, device=where)
            _wait(where)
            start = time.perf_counter()
            model(image_BCHW)
            _wait(where)
            best = min(best, (time.perf_counter() - start) / count)
            if best > SLOW:
                break
    return best


def _operations(shape: Backbone, size: tuple[int, int]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shape(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops()


@lru_cache(maxsize=256)
def feature_widths(backbone: str, size: int) -> tuple[int, int]:
    """Lengths of the global vector and of a patch token for square pictures."""
    shape = weightless(backbone)
    return shape.widths(*shape.fit_size(size, size)[:2])


@lru_cache(maxsize=256)
def output_numbers(output: Output, backbone: str, size: int) -> int:
    """Numbers of one output for a square picture."""
    shape = weightless(backbone)
    return math.prod(output.shape(shape, *shape.fit_size(size, size)[:2]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
