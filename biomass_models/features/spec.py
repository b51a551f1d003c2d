"""Features of the frozen backbone: computed once per node and photograph, memory-mapped by every fold.

N images, C copies of each (turned, mirrored, jittered), V views, D features. Arrays [N, V, ...] are stored per copy,
layer and output (outputs.py), so a larger bank only computes the copies that are new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomass_models.backbones.adapter import Backbone, weightless
from biomass_models.config_rules import FLIPS, STAMPS
from biomass_models.data.images import Stamp, View
from biomass_models.features import stamped
from biomass_models.features.outputs import ALWAYS, GLOBAL, OF_PLAIN, Output, Trunk
from biomass_models.features.rows import Rows
from biomass_models.hashes import code_hash


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which features of which pictures; everything here that changes the numbers is part of the cache key."""

    backbone: str  # timm name
    views: tuple[View, ...]
    flips: int = 1  # copies by turning and mirroring: 1, 2, 4 or 8; the first is the picture as it is
    jittered: int = 0  # further copies with random turn, colour and blur
    colour_jitter: float = 0.05
    blur: float = 1.0
    stamped: int = 0  # further copies with a drawn date stamp and red dots
    bank_seed: int = 0
    stamp: Stamp = "keep"
    outputs: tuple[Output, ...] = (GLOBAL,)
    layers: tuple[int, ...] = (0,)  # numbers from the end: 0 the final features, 1 the layer before the last, ...
    dtype: str = "float32"  # as stored: float32 or float16

    def __post_init__(self) -> None:
        if not self.views or not self.outputs:
            raise ValueError(f"at least one view and one output are needed, got {self.views} and {self.outputs}")
        for output in self.outputs:
            if not isinstance(output, Output):
                raise ValueError(f"outputs are objects of features.outputs, got {output!r}")
        if len({output.name for output in self.stored}) < len(self.stored):
            raise ValueError(f"outputs of one name are one output, got {self.stored}")
        if self.trunk is None and any(isinstance(output, Trunk) for output in self.outputs):
            raise ValueError(f"a trunk stands alone, got {self.outputs}")
        if self.trunk is not None and (len(self.outputs) > 1 or self.layers != (0,)):
            raise ValueError(f"a trunk stands alone, got {self.outputs} of the layers {self.layers}")
        for name, allowed in (("flips", FLIPS), ("stamp", STAMPS), ("dtype", ("float32", "float16"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if not self.layers or min(self.layers) < 0 or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers must be different numbers from the end, 0 or above, got {self.layers}")
        if self.jittered < 0 or self.stamped < 0:
            raise ValueError(f"jittered and stamped must be >= 0, got {self.jittered} and {self.stamped}")

    @property
    def trunk(self) -> Trunk | None:
        """The output of the frozen blocks, where that is stored and not the whole backbone's."""
        return self.outputs[0] if isinstance(self.outputs[0], Trunk) else None

    @property
    def stored(self) -> tuple[Output, ...]:
        """The outputs, each once, with those that come with any forward pass."""
        if self.trunk:
            return self.outputs
        return tuple(dict.fromkeys((*ALWAYS, *(OF_PLAIN if self.jittered == 0 else ()), *self.outputs)))

    def gigabytes(self, images: int) -> float:
        """Size of the bank of that many images on disk; inner layers are taken to be as wide as the last."""
        shape = weightless(self.backbone)
        views, _ = fitted(self.views, shape)
        sizes = [math.prod(one.shape(shape, view.height, view.width)) for view in views for one in self.stored]
        numbers = images * len(self.copies()) * len(self.layers) * sum(sizes)
        return numbers * np.dtype(self.dtype).itemsize / 2**30

    def copies(self) -> tuple[str, ...]:
        """Names of the copies in the order of the bank; they say all that makes the copy."""
        turned = [f"turn{index}" for index in range(self.flips)]
        strength = f"c{self.colour_jitter:g}-b{self.blur:g}-f{self.flips}-s{self.bank_seed}"
        jittered = (f"jitter{index}-{strength}" for index in range(self.jittered))
        # with the code that draws them: banks without such copies keep their names when it changes
        drawn = (f"stamp{index}-s{self.bank_seed}-{code_hash(stamped)}" for index in range(self.stamped))
        return (*turned, *jittered, *drawn)

    def unchanged(self, flips: int = 1) -> FeatureSpec:
        """The same features of the pictures as they are, or of the first `flips` turns: what predictions need."""
        return replace(self, flips=flips, jittered=0, stamped=0)


@dataclass(frozen=True)
class FeatureBank:
    """Arrays of a spec, memory-mapped; `stack` puts what a head needs into memory, once per process."""

    spec: FeatureSpec
    arrays: Mapping[str, Rows]  # by array_name
    notes: tuple[str, ...]  # changes of size that the backbone's patches forced
    _stacked: dict[tuple[Output, int], Tensor] = field(default_factory=dict)

    def stack(self, output: Output, *, layer: int = 0) -> Tensor:
        """One output of all copies, float32 on the CPU: [N, C, V, D], or [N, C, V, G*G, D] for a grid."""
        if (output, layer) not in self._stacked:
            parts = [self.arrays[array_name(copy, layer, output.name)].read() for copy in self.spec.copies()]
            stacked = np.stack(parts, axis=1).astype(np.float32, copy=False)
            self._stacked[output, layer] = torch.from_numpy(stacked)
        return self._stacked[output, layer]

    def width(self, output: Output) -> int:
        """Length D of an output's vectors, of the first of the layers."""
        return int(self.arrays[array_name(self.spec.copies()[0], self.spec.layers[0], output.name)].shape[-1])

    def rows(self, output: Output, row_B: NDArray[np.int64], copy_B: NDArray[np.int64]) -> Tensor:
        """One output of the final layer for some rows, each of the copy asked for, as stored: [B, V, ...]."""
        copies = self.spec.copies()
        arrays = {copy: self.arrays[array_name(copies[copy], 0, output.name)] for copy in np.unique(copy_B).tolist()}
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
    return [array_name(c, layer, o.name) for c in spec.copies() for layer in spec.layers for o in spec.outputs]


def fitted(views: Sequence[View], backbone: Backbone) -> tuple[tuple[View, ...], tuple[str, ...]]:
    """The views at sizes that the backbone takes, and notes about the changes."""
    sizes = [backbone.fit_size(view.height, view.width) for view in views]
    changed = tuple(replace(v, height=h, width=w) for v, (h, w, _) in zip(views, sizes, strict=True))
    return changed, tuple(dict.fromkeys(note for *_, note in sizes if note))
