"""Photographs through a frozen backbone, in batches of one fixed shape.

The bytes of a photograph's features do not depend on those that are encoded with it. B photographs of a batch, padded
to the batch's size; the arrays are those of features.py. Some networks' products on a CPU also depend on the place in
a batch, in the last bit: they see one picture at a time (`places_are_alike`).
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from biomass_models.backbones import adapter as backbones
from biomass_models.backbones import trunk
from biomass_models.backbones.adapter import Backbone, BackboneError
from biomass_models.backbones.devices import autocast, encoding_precision, onto, precision
from biomass_models.data import images, stamps
from biomass_models.data.images import Load, Stamp, View, load_views
from biomass_models.features import augment, outputs, stamped
from biomass_models.features.spec import FeatureSpec, array_name
from biomass_models.features.store import SPAN_ROWS
from biomass_models.hashes import code_hash, hash_of

PIXELS_AT_ONCE = {"cpu": 8 * 224**2, "cuda": 128 * 224**2}  # small batches stay in a CPU core's cache
MOST_AT_ONCE = {"cpu": SPAN_ROWS, "cuda": 128}  # pictures, however small
_ALIKE: dict[tuple[Any, ...], bool] = {}  # what `places_are_alike` has found in this process


def decoder_facts() -> dict[str, str]:
    """What decides pixels besides the file: part of every cache key."""
    return {"pillow": PIL.__version__, "code": code_hash(images, stamps)}


def describe(spec: FeatureSpec, fingerprint: str, device: torch.device, size: int) -> dict[str, Any]:
    """All that changes the numbers of a spec's arrays but the photographs: names their bank.

    size: of the batches that the backbone sees.
    """
    return {
        "kind": "features",
        "backbone": spec.backbone,
        "weights": fingerprint,
        "timm": timm.__version__,
        "torch": torch.__version__,
        "views": [asdict(view) for view in spec.views],
        "stamp": spec.stamp,
        "decoder": decoder_facts(),
        "code": code_hash(backbones, augment, trunk, outputs, sys.modules[__name__]),
        "dtype": spec.dtype,
        "batch": size,
        "device": device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "precision": str(computed_in(spec, device)),
        **({"outputs": others} if (others := _code_of_others(spec)) else {}),
    }


def _code_of_others(spec: FeatureSpec) -> dict[str, str]:
    """Code of the outputs that a package of others defines, by their names."""
    others = [output for output in spec.outputs if type(output).__module__ != outputs.__name__]
    return {one.name: hash_of({"source": inspect.getsource(sys.modules[type(one).__module__])}) for one in others}


def computed_in(spec: FeatureSpec, device: torch.device) -> torch.dtype:
    """Precision of the passes that fill a bank. A trunk's is what training computes too: as exact."""
    return precision(device) if spec.trunk else encoding_precision(device)


def batch_size(views: Sequence[View], device: torch.device) -> int:
    """Pictures that a backbone sees at once, where they fit."""
    kind = device.type if device.type in PIXELS_AT_ONCE else "cpu"
    largest = max(view.height * view.width for view in views)
    return max(1, min(PIXELS_AT_ONCE[kind] // largest, MOST_AT_ONCE[kind]))


def encode(
    backbone: Backbone,
    spec: FeatureSpec,
    paths: Sequence[Path],
    digests: Sequence[str],
    names: Sequence[str],
    device: torch.device,
    size: int,
    load: Load = load_views,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Batches of feature arrays of photographs, for the copies and layers that `names` ask for.

    size: pictures that the backbone sees at once. Each image is decoded once for all its copies; the next batch is
    decoded while this one is encoded. Raises torch.cuda.OutOfMemoryError where a batch does not fit, BackboneError for
    features that are not finite.
    """
    copies = [copy for copy in spec.copies() if any(name.startswith(f"{copy}.") for name in names)]
    layers = tuple(sorted({int(name.split(".layer")[1].split(".")[0]) for name in names}))
    backbone, half = backbone.to(device), computed_in(spec, device)
    if not places_are_alike(backbone, spec, layers, device, size):
        size = 1
    batches = [slice(first, first + size) for first in range(0, len(paths), size)]
    for number, pixels in decoded([paths[rows] for rows in batches], spec.views, spec.stamp, load):
        result: dict[str, list[NDArray[Any]]] = {}
        for view, view_BHWC in zip(spec.views, pixels, strict=True):
            image_BCHW = to_image(view_BHWC, device)
            for copy in copies:
                changed_BCHW = copy_of(image_BCHW, copy, spec, digests[batches[number]], view.box)
                padded_BCHW = functional.pad(changed_BCHW, (0, 0) * 3 + (0, size - len(changed_BCHW)))
                for (layer, output), value in _outputs(backbone, padded_BCHW, spec, layers, half).items():
                    computed = value[: len(changed_BCHW)].cpu().numpy()
                    real = computed.astype(spec.dtype)
                    if not np.isfinite(real).all():
                        raise BackboneError(
                            f"features must stay finite, got nan or inf of {spec.backbone} in {half}, {spec.dtype}; "
                            f"{_remedy(spec, bool(np.isfinite(computed).all()))}"
                        )
                    result.setdefault(array_name(copy, layer, output), []).append(real)
        yield {name: np.stack(values, axis=1) for name, values in result.items()}


def _remedy(spec: FeatureSpec, is_computed: bool) -> str:
    """Where features are not finite; is_computed: only what is stored of them."""
    if is_computed:
        return f"store them as float32 ({'prefix_bank' if spec.trunk else 'token_bank'}=float32)"
    if spec.trunk:  # computed as training does: the precision of other banks is not its own
        return "check its weights file, or set trained_blocks=0"
    return "check its weights file, or set BIOMASS_ENCODING=float32"


def places_are_alike(
    backbone: Backbone, spec: FeatureSpec, layers: tuple[int, ...], device: torch.device, size: int
) -> bool:
    """Whether a picture has the same bytes at each place of a batch; tried out once per process with a random one.

    On a GPU it is taken for granted: one picture at a time would waste it, and the difference is of the last bit.
    """
    if device.type != "cpu" or size == 1:
        return True
    shapes = sorted({(view.height, view.width) for view in spec.views})
    half = computed_in(spec, device)
    key = (backbone.name, spec.stored, layers, size, *shapes, half, torch.get_num_threads())
    if key not in _ALIKE:
        random = torch.Generator().manual_seed(0)
        _ALIKE[key] = all(
            bool((value == value[:1]).all())
            for height, width in shapes
            for value in _outputs(
                backbone, torch.rand(1, 3, height, width, generator=random).repeat(size, 1, 1, 1), spec, layers, half
            ).values()
        )
    return _ALIKE[key]


def decoded(
    batches: Sequence[Sequence[Path]], views: Sequence[View], stamp: Stamp, load: Load = load_views
) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    """Number and pixels of each batch: for each view uint8 [B, H, W, 3]; decodes one batch ahead."""
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool:

        def submit(number: int) -> list[Any]:
            if number >= len(batches):
                return []
            return [pool.submit(load, path, views, stamp=stamp) for path in batches[number]]

        try:
            ahead = submit(0)
            for number in range(len(batches)):
                now, ahead = ahead, submit(number + 1)
                loaded = [job.result() for job in now]
                yield number, [np.stack(view) for view in zip(*loaded, strict=True)]
        finally:
            pool.shutdown(cancel_futures=True)


def to_image(pixel_BHWC: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 pixels [B, H, W, 3] -> float pictures [B, 3, H, W] in [0, 1] on the device."""
    return onto(torch.from_numpy(pixel_BHWC), device).permute(0, 3, 1, 2).float().div(255)


def copy_of(
    image_BCHW: Tensor, copy: str, spec: FeatureSpec, digests: Sequence[str], box: tuple[float, ...] = (0, 0, 1, 1)
) -> Tensor:
    """One copy of each picture of a batch (its content's hash beside it), by the copy's name.

    box: what the pictures show of the photograph's frame (images.View).
    """
    if copy.startswith("turn"):
        return augment.turn(image_BCHW, int(copy.removeprefix("turn")))
    # drawn from the image's content: a copy does not depend on its neighbours in a batch or a table
    flips = spec.flips if image_BCHW.shape[2] == image_BCHW.shape[3] else min(spec.flips, 4)
    drawn = []
    for row, digest in enumerate(digests):
        seed = int.from_bytes(hashlib.blake2b(f"{copy}/{digest}".encode(), digest_size=7).digest())
        generator = torch.Generator().manual_seed(seed)
        if copy.startswith("stamp"):
            drawn.append(stamped.stamped(image_BCHW[row : row + 1], box, generator))
            continue
        draw = augment.draw_changes(1, generator, flips=flips, colour=spec.colour_jitter, blur=spec.blur)
        drawn.append(augment.change(image_BCHW[row : row + 1], draw))
    return torch.cat(drawn)


@torch.inference_mode()
def _outputs(
    backbone: Backbone, image_BCHW: Tensor, spec: FeatureSpec, layers: tuple[int, ...], half: torch.dtype
) -> dict[tuple[int, str], Tensor]:
    """(layer, output) -> [B, ...] of one pass, float32."""
    with autocast(image_BCHW.device, half):
        if spec.trunk is not None:
            return {(0, spec.trunk.name): spec.trunk.of_pictures(backbone, image_BCHW)}
        tokens = dict(zip(layers, backbone.layers(image_BCHW, layers), strict=True))
    return {(layer, one.name): one.reduce(token) for layer, token in tokens.items() for one in spec.stored}
