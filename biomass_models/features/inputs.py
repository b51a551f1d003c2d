"""What a fit or a prediction may ask for: the pictures of a table, as features or as pixels, on one device."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomass_models.backbones.adapter import Backbone, build_backbone, weightless
from biomass_models.backbones.devices import MicroBatch, pick_device
from biomass_models.backbones.weights import WeightsSource, fingerprint
from biomass_models.data import frames
from biomass_models.data.frames import Fit
from biomass_models.data.images import Load, Stamp, View, load_views
from biomass_models.data.photographs import ImageSet as ImageSet  # which needs no torch, and is used with Inputs
from biomass_models.features.encoding import batch_size, decoded, decoder_facts, describe, encode
from biomass_models.features.eviction import Area, note_use
from biomass_models.features.rows import Rows
from biomass_models.features.spec import FeatureBank, FeatureSpec, fitted, needed_arrays
from biomass_models.features.store import SPAN_ROWS, FeatureStore
from biomass_models.hashes import code_hash
from biomass_models.interrupt import OnProgress, ShouldStop

BANKS_IN_MEMORY = 4  # banks a process keeps; others are mapped again when asked for
DECODE_AT_ONCE = 16  # images


class Inputs:
    """Features and pixels of one image set; computed once and shared through `cache_dir` by its processes."""

    def __init__(
        self,
        images: ImageSet,
        *,
        cache_dir: Path,
        weights: WeightsSource,
        device: str = "auto",
        fit: Fit = "stretch",
        load: Load = load_views,
        cache_gb: float | None = None,
        area: Area = "study",
        compile: bool = False,
        frozen: dict[str, Backbone] | None = None,
    ) -> None:
        """fit: what views are cut from; load: how photographs are decoded; cache_gb: most GB that cache_dir may hold,
        None is no limit; area: whose quota new features count for; compile: networks whose backbone trains go through
        torch.compile; frozen: backbones that image sets share to encode with, filled as they are needed."""
        self.images = images
        self.fit = fit
        self.load = load
        self.store = FeatureStore(cache_dir, limit_gb=cache_gb, area=area)
        self.weights = weights
        self.device = pick_device(device)
        self.compile = compile
        self._frozen = frozen
        self._banks: OrderedDict[FeatureSpec, FeatureBank] = OrderedDict()
        self._fits: dict[FeatureSpec, MicroBatch] = {}  # pictures that a backbone sees at once
        self._fingerprints: dict[str, str] = {}

    def of(self, row_N: NDArray[np.int64]) -> Inputs:
        """The same for some of the images, in the given order."""
        images = self.images.take(row_N)
        same = Inputs(
            images,
            cache_dir=self.store.root,
            weights=self.weights,
            device=str(self.device),
            fit=self.fit,
            load=self.load,
        )
        same.store = self.store
        return same

    def _named(self, description: dict[str, Any]) -> dict[str, Any]:
        """What names a bank; stretched photographs keep the names that they had before there were other fits."""
        if self.fit == "stretch":
            return description
        return {**description, "fit": self.fit, "frames": code_hash(frames)}

    @property
    def _load(self) -> Load:
        return partial(self.load, fit=self.fit)

    def backbone(self, name: str) -> Backbone:
        """A backbone of one's own with the source's weights, on the CPU."""
        return build_backbone(name, self.weights)

    def fingerprint(self, backbone: str) -> str:
        """Content hash of the weights, looked up once."""
        if backbone not in self._fingerprints:
            self._fingerprints[backbone] = fingerprint(backbone, self.weights)
        return self._fingerprints[backbone]

    def features(
        self, spec: FeatureSpec, *, on_progress: OnProgress | None = None, should_stop: ShouldStop | None = None
    ) -> FeatureBank:
        """The bank of a spec, memory-mapped; processes share the work of computing what the node does not have.

        Raises StopRequested between two batches (what was done is kept), CacheError, WeightsError, BackboneError,
        ImageError.
        """
        if spec in self._banks:
            self._banks.move_to_end(spec)
            for chunk in {path for rows in self._banks[spec].arrays.values() for path in rows.paths}:
                note_use(chunk)
            return self._banks[spec]
        views, notes = fitted(spec.views, weightless(spec.backbone))
        sized = replace(spec, views=views)

        @cache
        def loaded() -> Backbone:  # only a process that computes needs it, and once
            if self._frozen is None:
                return self.backbone(spec.backbone)
            if spec.backbone not in self._frozen:
                self._frozen[spec.backbone] = self.backbone(spec.backbone)
            return self._frozen[spec.backbone]

        def produce(rows: Sequence[int], names: Sequence[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
            paths, digests = [self.images.paths[row] for row in rows], [self.images.digests[row] for row in rows]
            return encode(loaded(), sized, paths, digests, names, self.device, fits.size, self._load)

        fits = self._fits.setdefault(spec, MicroBatch(batch_size(views, self.device)))

        def fill() -> None:  # batches of another size have a bank of their own: a bank's rows are all computed alike
            arrays = self.store.bank(
                self._named(describe(sized, self.fingerprint(spec.backbone), self.device, fits.size)),
                needed_arrays(sized),
                self.images.digests,
                produce,
                span_rows=fits.size * max(1, SPAN_ROWS // fits.size),
                on_progress=on_progress,
                should_stop=should_stop,
            )
            self._banks[spec] = FeatureBank(sized, arrays, notes)

        fits.attempts(fill)
        while len(self._banks) > BANKS_IN_MEMORY:
            self._banks.popitem(last=False)
        return self._banks[spec]

    def pixels(
        self,
        view: View,
        *,
        stamp: Stamp,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Rows:
        """One view of every image, uint8 [N, H, W, 3], memory-mapped; decoded once per node."""

        def produce(rows: Sequence[int], _names: Sequence[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
            paths = [self.images.paths[row] for row in rows]
            batches = [paths[first : first + DECODE_AT_ONCE] for first in range(0, len(paths), DECODE_AT_ONCE)]
            return ({"pixels": pixels[0]} for _, pixels in decoded(batches, (view,), stamp, self._load))

        description = {"kind": "pixels", "view": asdict(view), "stamp": stamp, "decoder": decoder_facts()}
        arrays = self.store.bank(
            self._named(description),
            ["pixels"],
            self.images.digests,
            produce,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        return arrays["pixels"]
