"""Features of the frozen backbone: computed once per node and photograph, memory-mapped by every fold.

N images, C copies of each (turned, mirrored, jittered), V views, D features, G x G a pooled token grid.
Arrays are stored per copy, layer and output, so a larger bank only computes the copies that are new:
global       [N, V, D]       class token or pooled vector
patch_mean   [N, V, D]       mean of the patch tokens; patch_std their standard deviation
grid-G       [N, V, G*G, D]  patch tokens, average-pooled to G x G
prefix-T     [N, V, ...]     what enters the first of the last T blocks (prefix.py); stands alone
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from biomass_models import augment, backbones, images, prefix, stamps
from biomass_models.backbones import Backbone, Tokens
from biomass_models.config_rules import FLIPS, STAMPS
from biomass_models.devices import MicroBatch, autocast, encoding_precision, onto, precision
from biomass_models.feature_store import SPAN_ROWS, Rows
from biomass_models.hashes import source_hash
from biomass_models.images import Load, Stamp, View, load_views

CHEAP = ("global", "patch_mean", "patch_std")  # always stored: they cost nothing beside the forward pass
PIXELS_AT_ONCE = {"cpu": 8 * 224**2, "cuda": 128 * 224**2}  # small batches stay in a CPU core's cache


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which features of which pictures; everything here that changes the numbers is part of the cache key."""

    backbone: str  # timm name
    views: tuple[View, ...]
    flips: int = 1  # copies by turning and mirroring: 1, 2, 4 or 8; the first is the picture as it is
    jittered: int = 0  # further copies with random turn, colour and blur
    colour_jitter: float = 0.05
    blur: float = 1.0
    bank_seed: int = 0
    stamp: Stamp = "keep"
    outputs: tuple[str, ...] = ("global",)
    layers: int = 1  # last n layers, the final features first
    dtype: str = "float32"  # as stored: float32 or float16

    def __post_init__(self) -> None:
        if not self.views or not self.outputs:
            raise ValueError(f"at least one view and one output are needed, got {self.views} and {self.outputs}")
        for output in self.outputs:
            if output not in CHEAP and not re.fullmatch(r"(grid|prefix)-[1-9]\d?", output):
                raise ValueError(f"outputs must be of {', '.join(CHEAP)}, grid-G and prefix-T, got {output!r}")
        if self.is_prefix and (len(self.outputs) > 1 or self.layers > 1):
            raise ValueError(f"a prefix stands alone, got {self.outputs} of {self.layers} layers")
        for name, allowed in (("flips", FLIPS), ("stamp", STAMPS), ("dtype", ("float32", "float16"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.layers < 1 or self.jittered < 0:
            raise ValueError(f"layers must be >= 1 and jittered >= 0, got {self.layers} and {self.jittered}")

    @property
    def is_prefix(self) -> bool:
        """What is stored is what the frozen blocks say, not what the whole backbone says."""
        return self.outputs[0].startswith("prefix-")

    def copies(self) -> tuple[str, ...]:
        """Names of the copies in the order of the bank; they say all that makes the copy."""
        turned = [f"turn{index}" for index in range(self.flips)]
        strength = f"c{self.colour_jitter:g}-b{self.blur:g}-f{self.flips}-s{self.bank_seed}"
        return (*turned, *(f"jitter{index}-{strength}" for index in range(self.jittered)))

    def unchanged(self, flips: int = 1) -> FeatureSpec:
        """The same features of the pictures as they are, or of the first `flips` turns: what predictions need."""
        return replace(self, flips=flips, jittered=0)


@dataclass(frozen=True)
class FeatureBank:
    """Arrays of a spec, memory-mapped; `stack` puts what a head needs into memory, once per process."""

    spec: FeatureSpec
    arrays: Mapping[str, Rows]  # by array_name
    notes: tuple[str, ...]  # changes of size that the backbone's patches forced
    _stacked: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def stack(self, output: str, *, layer: int = 0) -> Tensor:
        """One output of all copies, float32 on the CPU: [N, C, V, D], or [N, C, V, G*G, D] for a grid."""
        if (output, layer) not in self._stacked:
            parts = [self.arrays[array_name(copy, layer, output)].read() for copy in self.spec.copies()]
            stacked = np.stack(parts, axis=1).astype(np.float32, copy=False)
            self._stacked[output, layer] = torch.from_numpy(stacked)
        return self._stacked[output, layer]

    def width(self, output: str) -> int:
        """Length D of an output's vectors."""
        return int(self.arrays[array_name(self.spec.copies()[0], 0, output)].shape[-1])

    def rows(self, output: str, row_B: NDArray[np.int64], copy_B: NDArray[np.int64]) -> Tensor:
        """One output of the final layer for some rows, each of the copy asked for, as stored: [B, V, ...]."""
        copies = self.spec.copies()
        arrays = {copy: self.arrays[array_name(copies[copy], 0, output)] for copy in np.unique(copy_B).tolist()}
        first = next(iter(arrays.values()))
        picked = np.empty((len(row_B), *first.shape[1:]), dtype=first.dtype)
        for copy, array in arrays.items():
            chosen = copy_B == copy
            picked[chosen] = array.take(row_B[chosen])
        return torch.from_numpy(picked)


def array_name(copy: str, layer: int, output: str) -> str:
    """Name of a stored array; layer 0 is the final one."""
    return f"{copy}.layer{layer}.{output}"


def needed_arrays(spec: FeatureSpec) -> list[str]:
    """Names of all arrays of a spec."""
    return [array_name(c, layer, o) for c in spec.copies() for layer in range(spec.layers) for o in spec.outputs]


def decoder_facts() -> dict[str, str]:
    """What decides pixels besides the file: part of every cache key."""
    return {"pillow": PIL.__version__, "code": source_hash(images, stamps)}


def describe(spec: FeatureSpec, fingerprint: str, device: torch.device) -> dict[str, Any]:
    """All that changes the numbers of a spec's arrays but the photographs: names their bank (DESIGN, Feature store)."""
    return {
        "kind": "features",
        "backbone": spec.backbone,
        "weights": fingerprint,
        "timm": timm.__version__,
        "views": [asdict(view) for view in spec.views],
        "stamp": spec.stamp,
        "decoder": decoder_facts(),
        "code": source_hash(backbones, augment),
        "dtype": spec.dtype,
        "batch": batch_size(spec.views, device),
        "precision": str(computed_in(spec, device)),
        **({"prefix": source_hash(prefix)} if spec.is_prefix else {}),
    }


def computed_in(spec: FeatureSpec, device: torch.device) -> torch.dtype:
    """Precision of the passes that fill a bank. A prefix is what training would compute itself, so it is as exact."""
    return precision(device) if spec.is_prefix else encoding_precision(device)


def fitted(views: Sequence[View], backbone: Backbone) -> tuple[tuple[View, ...], tuple[str, ...]]:
    """The views at sizes that the backbone takes, and notes about the changes."""
    sizes = [backbone.fit_size(view.height, view.width) for view in views]
    changed = tuple(replace(v, height=h, width=w) for v, (h, w, _) in zip(views, sizes, strict=True))
    return changed, tuple(dict.fromkeys(note for *_, note in sizes if note))


def encode(
    backbone: Backbone,
    spec: FeatureSpec,
    paths: Sequence[Path],
    digests: Sequence[str],
    names: Sequence[str],
    device: torch.device,
    load: Load = load_views,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Batches of feature arrays of photographs, for the copies and layers that `names` ask for.

    Each image is decoded once for all its copies; the next batch is decoded while this one is encoded. The backbone
    sees batches of one fixed shape: a photograph's bytes do not depend on those that are encoded with it.
    """
    copies = [copy for copy in spec.copies() if any(name.startswith(f"{copy}.") for name in names)]
    layers = 1 + max(int(name.split(".layer")[1].split(".")[0]) for name in names)
    outputs = spec.outputs if spec.is_prefix else tuple(dict.fromkeys((*CHEAP, *spec.outputs)))
    fits = MicroBatch(batch_size(spec.views, device))
    batches = fits.slices(len(paths))
    backbone, half = backbone.to(device), computed_in(spec, device)
    for rows, pixels in decoded([paths[rows] for rows in batches], spec.views, spec.stamp, load):
        result: dict[str, list[NDArray[Any]]] = {}
        for view_BHWC in pixels:
            image_BCHW = to_image(view_BHWC, device)
            for copy in copies:
                changed = copy_of(image_BCHW, copy, spec, digests[batches[rows]])
                for name, value in _outputs(backbone, changed, copy, layers, outputs, fits, half).items():
                    result.setdefault(name, []).append(value.cpu().numpy().astype(spec.dtype))
        yield {name: np.stack(values, axis=1) for name, values in result.items()}


def batch_size(views: Sequence[View], device: torch.device) -> int:
    """Pictures that a backbone sees at once; a divisor of a span, so that padding costs a large bank nothing."""
    largest = max(view.height * view.width for view in views)
    fit = PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE["cpu"]) // largest
    return max(size for size in range(1, SPAN_ROWS + 1) if SPAN_ROWS % size == 0 and size <= max(1, fit))


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


def copy_of(image_BCHW: Tensor, copy: str, spec: FeatureSpec, digests: Sequence[str]) -> Tensor:
    """One copy of each picture of a batch (its content's hash beside it), by the copy's name."""
    if copy.startswith("turn"):
        return augment.turn(image_BCHW, int(copy.removeprefix("turn")))
    # drawn from the image's content: a copy does not depend on its neighbours in a batch or a table
    flips = spec.flips if image_BCHW.shape[2] == image_BCHW.shape[3] else min(spec.flips, 4)
    drawn = []
    for row, digest in enumerate(digests):
        seed = int.from_bytes(hashlib.blake2b(f"{copy}/{digest}".encode(), digest_size=7).digest())
        generator = torch.Generator().manual_seed(seed)
        draw = augment.draw_changes(1, generator, flips=flips, colour=spec.colour_jitter, blur=spec.blur)
        drawn.append(augment.change(image_BCHW[row : row + 1], draw))
    return torch.cat(drawn)


@torch.inference_mode()
def _outputs(
    backbone: Backbone,
    image_BCHW: Tensor,
    copy: str,
    layers: int,
    outputs: Sequence[str],
    fits: MicroBatch,
    half: torch.dtype,
) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {}

    def work() -> None:
        parts.clear()
        for rows in fits.slices(len(image_BCHW)):
            some_BCHW = image_BCHW[rows]
            real, padding = len(some_BCHW), (0, 0) * 3 + (0, fits.size - len(some_BCHW))
            same_shape_BCHW = functional.pad(some_BCHW, padding)
            with autocast(image_BCHW.device, half):
                if outputs[0].startswith("prefix-"):
                    prefix_B = prefix.prefix_of(backbone, same_shape_BCHW, int(outputs[0].removeprefix("prefix-")))
                    parts.setdefault(array_name(copy, 0, outputs[0]), []).append(prefix_B[:real].float())
                    continue
                tokens = backbone.layers(same_shape_BCHW, layers)
            for layer, token in enumerate(tokens):
                for output in outputs:
                    parts.setdefault(array_name(copy, layer, output), []).append(reduced(token, output)[:real])

    fits.attempts(work)
    return {name: torch.cat(values) for name, values in parts.items()}


def reduced(token: Tokens, output: str) -> Tensor:
    """One output of a bank, float32, from a layer's tokens: [B, D], or [B, G*G, D] for a grid."""
    patch_BPD = token.patch_BPD.float()
    if output == "global":
        return token.global_BD.float()
    if output == "patch_mean":
        return patch_BPD.mean(1)
    if output == "patch_std":
        return patch_BPD.std(1, correction=0)
    side = int(output.removeprefix("grid-"))
    map_BDHW = patch_BPD.transpose(1, 2).unflatten(2, token.grid)
    return functional.adaptive_avg_pool2d(map_BDHW, side).flatten(2).transpose(1, 2)
