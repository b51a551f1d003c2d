"""Networks whose backbone trains: precision, torch.compile, cached trunks, adapters, the published settings."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from gpu_checks.records import Findings, Skip
from gpu_checks.world import World, apart, later_epochs, ratio

from biomass_models.backbones import devices
from biomass_models.families import registry
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.training import loop
from orchestration.search.presets.named import published as published_preset

HALVES = (torch.bfloat16, torch.float16)
CLOSE = 10.0  # % of the mean mass: what rounding may do to predictions of a few epochs
ROWS, FOLDS = 286, 5  # training rows of a fold of the competition's 357 photographs


@contextmanager
def computed_in(half: torch.dtype) -> Iterator[list[Any]]:
    """Inside, training has this precision, whichever the device prefers; yields the scalers that it makes."""
    scalers: list[Any] = []

    class Noted(torch.amp.GradScaler):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            scalers.append(self)

    with ExitStack() as patched:
        for module in (devices, loop):
            patched.enter_context(mock.patch.object(module, "precision", lambda _device: half))
        patched.enter_context(mock.patch.object(torch.amp, "GradScaler", Noted))
        yield scalers


def autocast(world: World, found: Findings) -> None:
    """The same fit in float32, bfloat16 and float16: finite, alike, and with a scaler in float16 alone."""
    inputs, config = world.inputs("pixels"), world.trained
    own = devices.precision(inputs.device)
    found.note(f"this device trains in {_name(own)}")
    with computed_in(torch.float32):
        whole = world.fit(config, inputs)
    found.number("epoch in float32", "s", *later_epochs(whole))
    steps = config.epochs * math.ceil(whole.info["train_rows"] / config.batch_size)
    for half in HALVES:
        if half is torch.bfloat16 and world.device == "cuda" and own is not half:
            found.note("bfloat16 is not native here and was left out")
            continue
        with computed_in(half) as scalers:
            result = world.fit(config, inputs)
        (scaler,) = scalers
        found.number(f"epoch in {_name(half)}", "s", *later_epochs(result))
        away = found.number(f"{_name(half)} from float32", "% of a mass", apart(result.pred_NT, whole.pred_NT))
        found.require(away.median < CLOSE, f"{_name(half)} must lie within {CLOSE:g} % of float32", away.median)
        scaled = half is torch.float16
        found.require(scaler.is_enabled() == scaled, f"{_name(half)} scales its loss: {scaled}", scaler.is_enabled())
        if scaled:
            skipped = max(0.0, math.log2(torch.amp.GradScaler(world.device).get_scale() / scaler.get_scale()))
            found.number("steps that the scaler skipped", f"of {steps}", skipped)
            found.require(skipped < steps, "the scaler must let steps through", f"{skipped:g} of {steps} skipped")


def compiled(world: World, found: Findings) -> None:
    """torch.compile works, trains the same, and what it gains."""
    rows = int((world.quadrats["fold"] != 0).sum())  # batches of one size: another one is compiled again
    config = replace(world.trained, batch_size=rows, epochs=2 if world.tiny else 8)
    plain = world.fit(config, world.inputs("pixels"))
    with world.compiler():
        fast = world.fit(config, world.inputs("pixels", compile=True))
    found.require(fast.info.get("compiled") is True, "a fit that is to be compiled says so", fast.info)
    if world.tiny:
        found.note("traced and not compiled: compilers take minutes on a CPU")
    found.number("first epoch, with the compiler", "s", fast.epochs[0]["seconds"])
    found.number("epoch", "s", *later_epochs(plain))
    found.number("epoch, compiled", "s", *later_epochs(fast))
    found.number("speed ratio", "x", ratio(later_epochs(plain), later_epochs(fast)))
    away = found.number("from the plain fit", "% of a mass", apart(fast.pred_NT, plain.pred_NT))
    found.require(away.median < CLOSE, f"a compiled fit must lie within {CLOSE:g} % of the plain one", away.median)


def trunk(world: World, found: Findings) -> None:
    """Epochs on cached prefixes against epochs of all blocks."""
    config = world.large
    whole = world.fit(config, world.inputs("pixels"))
    tail = world.fit(replace(config, prefix_bank="float16"), world.inputs("prefixes"))
    found.number("epoch of all blocks", "s", *later_epochs(whole))
    found.number("epoch on the cache", "s", *later_epochs(tail))
    gain = found.number("speed ratio", "x", ratio(later_epochs(whole), later_epochs(tail)))
    away = found.number("from all blocks", "% of a mass", apart(tail.pred_NT, whole.pred_NT))
    found.require(away.median < CLOSE, f"the cache must lie within {CLOSE:g} % of all blocks", away.median)
    if not world.tiny:
        found.require(gain.median > 1, "epochs on the cache must be faster than those of all blocks", gain.median)


def lora(world: World, found: Findings) -> None:
    """Adapters train alone, in float32, and what is stored of them predicts what the fit predicted."""
    if importlib.util.find_spec("peft") is None:
        raise Skip("needs the package peft (pip install 'pasture-biomass[adapters]')")
    inputs, model = world.inputs("pixels"), registry.model("baseline")
    for kind in ("lora", "dora"):
        config = replace(world.trained, adapters=kind)
        result = world.fit(config, inputs)
        backbone = {name: part for name, part in result.tensors.items() if name.startswith("backbone.")}
        steps = math.ceil(result.info["train_rows"] / config.batch_size)
        found.number(f"{kind}: step", "s", *(seconds / steps for seconds in later_epochs(result)))
        wrong = sorted(name for name in backbone if "lora_" not in name)
        found.require(not wrong and bool(backbone), f"{kind}: adapters are all that is kept of a backbone", wrong[:3])
        kinds = {str(part.dtype) for part in backbone.values()}
        found.require(kinds == {"torch.float32"}, f"{kind}: adapters are kept in float32", kinds)
        moved = any(bool(part.any()) for name, part in backbone.items() if "lora_B" in name)
        found.require(moved, f"{kind}: adapters must learn", "zeros")
        again = model.predict(config, result.tensors, inputs.of(result.row_N))
        away = found.number(f"{kind}: stored from fitted", "% of a mass", apart(again, result.pred_NT))
        found.require(away.median < 1, f"{kind}: what is stored must predict the same to 1 %", away.median)


def published(world: World, found: Findings) -> None:
    """Epochs of the preset `published` on this card, and what all of it will take."""
    hours = 0.0
    for family, config in published_configs(world).items():
        if world.device == "cuda":
            world.card.forget()
        result = world.fit(replace(config, epochs=2 if world.tiny else 3), world.inputs("published"), family=family)
        rows = result.info["train_rows"]
        seconds = found.number(f"{family}: epoch of {rows} rows at {config.size} px", "s", *later_epochs(result))
        found.number(f"{family}: pictures at once", f"of {config.batch_size}", result.info["micro_batch"])
        found.require(bool(np.isfinite(result.pred_NT).all()), f"{family}: masses are finite", "others")
        hours += seconds.median / rows * ROWS * config.epochs * FOLDS / 3600
        if world.device == "cuda":
            found.number(f"{family}: peak memory", "GiB", world.card.peak() / 2**30)
    found.number("estimate of the whole", "GPU-hours", hours)
    found.note(f"the whole: {FOLDS} folds of {ROWS} rows, all epochs, without decoding the photographs once")


def published_configs(world: World) -> dict[str, Any]:
    """The settings of the preset's families; small ones in a rehearsal."""
    defaults = {"baseline": BaselineConfig(), "distilled": DistilledConfig()}
    configs = {family: defaults[family] for family in published_preset().study.families}
    if not world.tiny:
        return configs
    small: dict[str, Any] = {"backbone": world.backbone, "size": 64, "trained_blocks": 2, "batch_size": 8}
    own: dict[str, dict[str, Any]] = {"distilled": {"local_size": 64, "teacher_epochs": 5}}
    return {family: replace(config, **small, **own.get(family, {})) for family, config in configs.items()}


def _name(half: torch.dtype) -> str:
    return str(half).removeprefix("torch.")
