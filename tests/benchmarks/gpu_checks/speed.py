"""How fast: the card's own peak, encoding, folds in one batch."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from gpu_checks.drawn import result_of
from gpu_checks.records import PASSED, Findings, Outcome
from gpu_checks.world import RANDOM, World, apart, ratio
from numpy.typing import NDArray
from PIL import Image

from biomass_models.backbones.adapter import build_backbone
from biomass_models.backbones.devices import ENCODING
from biomass_models.data.images import load_views, views_for
from biomass_models.families import registry
from biomass_models.families.costs import pass_operations
from biomass_models.features.encoding import batch_size, computed_in, encode
from biomass_models.features.outputs import GLOBAL
from biomass_models.features.spec import FeatureSpec, needed_arrays

RATE = "photographs/s"
SIDE = 8192  # of the matrices whose product is timed
CLOSE = 5.0  # % of the features' size: what half precision may do to them
ENCODED = {"vit_small_patch14_dinov2.lvd142m": (224, 518), "vit_large_patch14_dinov2.lvd142m": (224,)}  # px


def peak(world: World, found: Findings) -> None:
    """Operations a second of large matrix products, by precision: what encoding is compared with."""
    side = 256 if world.tiny else SIDE
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        left, right = (torch.rand(side, side, device=world.device, dtype=kind) for _ in range(2))
        seconds = world.seconds(partial(torch.matmul, left, right), repeats=20)
        found.number(_kind(kind), "TFLOP/s", *(2 * side**3 / one / 1e12 for one in seconds))


def encoder(world: World, found: Findings) -> None:
    """Photographs that a frozen backbone encodes a second, against the peak; half precision against float32."""
    measured = _peaks(result_of(world.folder, "peak"))
    for backbone, sizes in ({world.backbone: (64,)} if world.tiny else ENCODED).items():
        for size in sizes:
            _encode(world, found, backbone, size, measured)
    fastest = max(one.median for one in found.numbers if one.unit == RATE)
    views, wide = views_for("whole", 224), world.folder / "wide.jpg"
    first = world.inputs("encoder").images.paths[0]
    Image.open(first).resize((400, 200) if world.tiny else (2000, 1000)).save(wide, quality=92)
    seconds = world.seconds(lambda: load_views(wide, views))
    decoded = found.number("decoding, one thread", RATE, *(1 / one for one in seconds))
    found.number("threads that decode as fast as the smallest network encodes", "", fastest / decoded.median)


def _encode(world: World, found: Findings, backbone: str, size: int, measured: dict[str, float]) -> None:
    inputs, spec = world.inputs("encoder"), FeatureSpec(backbone=backbone, views=views_for("whole", size))
    batch, names, model = batch_size(spec.views, inputs.device), needed_arrays(spec), build_backbone(backbone, RANDOM)
    count = batch * (1 if world.tiny else 4)
    paths = list(islice(cycle(inputs.images.paths), count))
    digests = list(islice(cycle(inputs.images.digests), count))
    kept = {path: load_views(path, spec.views) for path in inputs.images.paths}  # decoding is measured apart

    def load(path: Path, *_: Any, **__: Any) -> list[NDArray[np.uint8]]:
        return kept[path]

    def bank() -> np.ndarray:
        parts = encode(model, spec, paths, digests, names, inputs.device, batch, load)
        return np.concatenate([part[name] for part in parts for name in names])

    half, label = computed_in(spec, inputs.device), f"{backbone.partition('.')[0]}, {size} px"
    rates = [count / one for one in world.seconds(bank)]
    speed = found.number(f"{label}, {_kind(half)}", RATE, *rates)
    teraflops = speed.median * pass_operations(backbone, (size, size)) / 1e12
    if _kind(half) in measured:
        found.number(f"{label}, of the peak", "%", 100 * teraflops / measured[_kind(half)])
    features = bank()
    with mock.patch.dict(os.environ, {ENCODING: "float32"}):
        whole = bank()
    away = found.number(f"{label}, from float32", "%", 100 * np.abs(features - whole).mean() / np.abs(whole).mean())
    found.require(away.median < CLOSE, f"{label}: features within {CLOSE:g} % of those in float32", away.median)


def folds_together(world: World, found: Findings) -> None:
    """All folds of a frozen head in one batch against one fold alone; the target is a ratio near 1."""
    inputs, model, config = world.inputs("folds"), registry.model("baseline"), world.frozen
    folds = list(range(world.folds))
    for spec in model.feature_specs(config):
        found.note(f"{inputs.features(spec).width(GLOBAL)} features a photograph")
    fold_N = world.quadrats["fold"].to_numpy()
    fit_folds = model.fit_folds
    assert fit_folds is not None
    batched = fit_folds(config, world.quadrats, fold_N, folds, inputs, seeds=[0] * len(folds))
    alone = [world.fit(config, inputs, fold) for fold in folds]
    away = apart(*(np.concatenate([one.pred_NT for one in results]) for results in (batched, alone)))
    found.number("from folds alone", "% of a mass", away)
    found.require(away < 10, "folds in one batch must lie within 10 % of folds alone", away)

    usual = replace(config, dropout=0.4)
    one = world.seconds(lambda: world.fit(usual, inputs))
    many = world.seconds(lambda: fit_folds(usual, world.quadrats, fold_N, folds, inputs, seeds=[0] * len(folds)))
    found.number("one fold", "s", *one)
    found.number(f"{len(folds)} folds in one batch", "s", *many)
    cost = found.number("ratio", "x", ratio(many, one))
    if not world.tiny:
        found.require(cost.median < len(folds), "a batch must take less than its folds in turn", cost.median)


def _peaks(result: Path) -> dict[str, float]:
    """TFLOP/s by precision, as the check of the peak has found them; nothing where it did not."""
    if not result.exists():
        return {}
    outcome = Outcome.from_json(json.loads(result.read_text()))
    return {one.name: one.median for one in outcome.numbers} if outcome.status == PASSED else {}


def _kind(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
