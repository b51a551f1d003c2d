"""What a fold will cost, before it is started: counted operations, and what a slot was measured to do (speed.Speed).

A pass of a backbone is timed at a small size and its operations are counted there and at the size asked for (on
torch's meta device, so a 980 px estimate takes milliseconds); steps of new layers are counted from two timed ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from biomass_models.backbones.adapter import Backbone, create_timm, weightless
from biomass_models.backbones.devices import MicroBatch, autocast, encoding_precision, pick_device, precision
from biomass_models.backbones.weights import canonical_name
from biomass_models.data.images import View
from biomass_models.errors import UserError
from biomass_models.families.speed import Speed
from biomass_models.features.encoding import PIXELS_AT_ONCE
from biomass_models.features.outputs import Output
from biomass_models.features.spec import FeatureSpec, array_name, fitted
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.training.config import NetworkConfig

TIMED_SIZE = 224  # px; the pass that is really run
TIMED_PIXELS = 8 * TIMED_SIZE**2
BACKWARD = 2.0  # a backward pass through a block costs about twice its forward pass
PER_PARAMETER, PER_INPUT = 100, 800  # operations that take as long as a parameter's, or an input's, way through memory
TIMED_STEPS = 24
SLOW = 1.0  # seconds; a first pass that takes this long is measurement enough


@lru_cache(maxsize=256)
def forward_seconds(backbone: str, height: int, width: int, device: str, *, frozen: bool = False) -> float:
    """Seconds of one forward pass of one picture of that size (rounded to what the backbone takes).

    frozen: a pass that fills a bank, in the precision of those.
    """
    small, asked = _timed_size(backbone), _fitted_size(backbone, height, width)
    seconds = _timed_pass(backbone, small, device, frozen)
    return seconds * pass_operations(backbone, asked) / pass_operations(backbone, small)


def all_feature_seconds(specs: Iterable[FeatureSpec], images: int, device: str = "auto") -> float:
    """Seconds to fill some banks from nothing, once per node; what an earlier spec leaves behind costs nothing."""
    return sum(images * len(copies) * _copy_seconds(spec, device) for spec, copies in _first_asked(specs))


def all_feature_gigabytes(specs: Iterable[FeatureSpec], images: int) -> float:
    """What these banks take on a node's disk; an array that two specs ask for is counted once."""
    return sum(images * len(copies) * spec.unchanged().gigabytes(1) for spec, copies in _first_asked(specs))


def _first_asked(specs: Iterable[FeatureSpec]) -> Iterator[tuple[FeatureSpec, list[str]]]:
    """Each spec with those of its copies that have to pass the backbone for it: no spec before it asked for them.

    A pass stores arrays of a copy by layer and output (store.py), so that a further layer is a further pass.
    """
    stored: dict[Hashable, set[str]] = {}
    for spec in specs:
        views, _ = fitted(spec.views, weightless(spec.backbone))
        there = stored.setdefault((spec.backbone, views, spec.stamp, spec.dtype, spec.trunk is None), set())
        copies = [copy for copy in spec.copies() if not there.issuperset(_arrays(spec, copy, spec.outputs))]
        for copy in copies:
            there.update(_arrays(spec, copy, spec.stored))
        yield spec, copies


def _arrays(spec: FeatureSpec, copy: str, outputs: Iterable[Output]) -> Iterator[str]:
    return (array_name(copy, layer, output.name) for layer in spec.layers for output in outputs)


def _copy_seconds(spec: FeatureSpec, device: str) -> float:
    """Of one copy of one photograph: a pass of each view."""
    return sum(forward_seconds(spec.backbone, view.height, view.width, device, frozen=True) for view in spec.views)


def measure(backbones: Iterable[str], device: str, should_stop: ShouldStop | None = None) -> Speed:
    """Time this process's device: a few steps of two small nets, and a pass of each backbone that may train.

    Raises StopRequested.
    """
    where = pick_device(device)
    little, much = (_timed_step(width, where) for width in (16, 2048))
    operations, seconds = much[0] - little[0], max(much[1] - little[1], 1e-9)
    passes = {}
    for name in backbones:
        check_stop(should_stop, f"{name} is timed")
        passes[name] = _timed_pass(name, _timed_size(name), device, False)
    return Speed(
        step_seconds=max(little[1] - little[0] * seconds / operations, 0.0),
        operations=operations / seconds,
        pass_seconds=passes,
    )


def trained_fold_seconds(config: NetworkConfig, views: Sequence[View], n_train: int, speed: Speed) -> float:
    """Seconds of one fold whose backbone trains: all epochs, and a prediction of the held-out rows (a quarter).

    Raises UserError for a backbone of which no pass was timed.
    """
    name = config.backbone
    if name not in speed.pass_seconds:
        raise UserError(
            f"a fold that trains blocks of a backbone is counted from a timed pass of it, got {name}, timed are "
            f"{', '.join(speed.pass_seconds) or 'none'}; fix trained_blocks with --set, to 0 if none shall train"
        )
    operations = sum(pass_operations(name, _fitted_size(name, view.height, view.width)) for view in views)
    forward = speed.pass_seconds[name] * operations / pass_operations(name, _timed_size(name))
    share = min(1.0, config.trained_blocks / len(weightless(name).blocks()))
    if config.prefix_bank != "none":  # the frozen blocks are paid for in feature_seconds
        return forward * share * (config.epochs * n_train * (1 + BACKWARD) + n_train / 4)
    passes = config.epochs * n_train * (1 + BACKWARD * share)
    return forward * (passes + n_train / 4)


def head_fold_seconds(
    config: NetworkConfig,
    net: nn.Module,
    inputs_of: Callable[[int], Any],
    n_train: int,
    speed: Speed,
) -> float:
    """Seconds of one fold of new layers on cached features: a step, times the steps of all epochs.

    net: on the meta device; inputs_of(count): what it takes for that many images, there as well. Its output is a tensor
    or a tuple of which the first is one.
    """
    a_step = speed.step_seconds + step_operations(net, inputs_of(min(config.batch_size, n_train))) / speed.operations
    return config.epochs * -(-n_train // config.batch_size) * a_step


def step_operations(net: nn.Module, batch: Any) -> float:
    """Of a training step: forward, backward and optimiser, with numbers that are read and written among them.

    With these factors counted and timed steps of the families' heads agree within 15 % on a CPU core.
    """
    with FlopCounterMode(display=False) as counter:
        _backward(net, batch)
    numbers = sum(tensor.numel() for tensor in _tensors(batch))
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return counter.get_total_flops() + PER_PARAMETER * parameters + PER_INPUT * numbers


def _timed_step(width: int, where: torch.device) -> tuple[float, float]:
    """Operations and seconds of a training step of a small net; the fastest, for others are held up by other work."""
    net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 512), nn.GELU(), nn.Linear(512, 5)).to(where)
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    batch = torch.zeros(64, width, device=where)
    seconds = []
    for _ in range(TIMED_STEPS):
        _wait(where)
        start = time.perf_counter()
        optimiser.zero_grad()
        _backward(net, batch)
        optimiser.step()
        _wait(where)
        seconds.append(time.perf_counter() - start)
    return step_operations(net.to("meta"), batch.to("meta")), min(seconds)


def _backward(net: nn.Module, batch: Any) -> None:
    output = net(batch)
    (output if isinstance(output, torch.Tensor) else output[0]).square().mean().backward()


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
        return
    for part in batch:
        yield from _tensors(part)


def _timed_size(backbone: str) -> tuple[int, int]:
    shape = weightless(backbone)
    return shape.native_size if shape.fixed_size else shape.fit_size(TIMED_SIZE, TIMED_SIZE)[:2]


def _fitted_size(backbone: str, height: int, width: int) -> tuple[int, int]:
    return weightless(backbone).fit_size(height, width)[:2]


@lru_cache(maxsize=64)
def _timed_pass(backbone: str, size: tuple[int, int], device: str, frozen: bool) -> float:
    where = pick_device(device)
    half = encoding_precision(where) if frozen else precision(where)
    model = Backbone(create_timm(canonical_name(backbone)), backbone).to(where)
    if model.is_convolutional:
        model = model.to(memory_format=torch.channels_last)
    micro = MicroBatch(max(1, PIXELS_AT_ONCE.get(where.type, TIMED_PIXELS) // (size[0] * size[1])))
    seconds: list[float] = []  # a picture

    def work() -> None:
        for count in (1, micro.size, micro.size):
            image_BCHW = torch.rand(count, 3, *size, device=where)
            _wait(where)
            start = time.perf_counter()
            model(image_BCHW)
            _wait(where)
            seconds.append((time.perf_counter() - start) / count)
            # a GPU's first pass loads libraries and kernels: it says nothing of the next
            if where.type == "cpu" and min(seconds) > SLOW:
                break

    with torch.inference_mode(), autocast(where, half):
        micro.attempts(work)
    if where.type == "cuda":  # the driver of a search, which measures too, leaves the GPU's memory to the slots
        del model
        torch.cuda.empty_cache()
    return min(seconds)


@lru_cache(maxsize=256)
def pass_operations(backbone: str, size: tuple[int, int]) -> int:
    """Of a forward pass of one picture of that height and width, which the backbone takes."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        weightless(backbone)(torch.empty(1, 3, *size, device="meta"))
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
