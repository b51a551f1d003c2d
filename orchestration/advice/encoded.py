"""Features of photographs as typed; one that cannot be read has its reason, and the rest goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biomass_models.backbones.adapter import Backbone
from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.frames import Fit
from biomass_models.data.images import ImageError, file_digest, header_size
from biomass_models.features.cache_folder import usable_cache
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.features.likeness import EmbeddingBank
from biomass_models.targets import FloatArray
from orchestration.answers.shard import one_line, torn_reason
from orchestration.progress import Update
from orchestration.workers.shards import spans


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files whose header is that of a photograph."""

    paths: tuple[str, ...]
    digests: tuple[str, ...]  # of their contents


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Where features come from."""

    bank: EmbeddingBank
    source: WeightsSource
    cache: Path
    cache_gb: float | None = None


def find(paths: Sequence[str], fit: Fit, unreadable: dict[str, str]) -> Found:
    """The photographs among these that `fit` can show; the others are added to `unreadable` with their reasons."""
    found: dict[str, str] = {}
    kept = []
    for path in paths:
        try:
            header_size(Path(path), [fit])
            found[path] = file_digest(Path(path))
        except (ImageError, OSError) as error:
            unreadable[path] = one_line(error)
            continue
        kept.append(path)
    return Found(paths=tuple(kept), digests=tuple(found[path] for path in kept))


def encode_found(
    found: Found, encoder: Encoder, frozen: dict[str, Backbone], unreadable: dict[str, str], update: Update
) -> tuple[tuple[str, ...], FloatArray]:
    """Paths and features [N, D] of those that can be decoded, a run at a time; what is done is in the cache.

    frozen: backbones, shared between calls. Raises CacheError, WeightsError.
    """
    kept: list[str] = []
    parts: list[FloatArray] = []
    for first, last in spans(len(found.paths)):
        paths, digests = found.paths[first:last], found.digests[first:last]
        try:
            parts.append(_features(paths, digests, encoder, frozen))
        except ImageError:  # looked for one by one now: decoding all files twice would cost every run
            torn = {path: why for path in paths if (why := torn_reason(path)) is not None}
            if not torn:
                raise
            unreadable |= torn
            rows = [row for row, path in enumerate(paths) if path not in torn]
            paths, digests = tuple(paths[row] for row in rows), tuple(digests[row] for row in rows)
            if paths:
                parts.append(_features(paths, digests, encoder, frozen))
        kept += paths
        update(last, len(found.paths))
    return tuple(kept), np.concatenate(parts) if parts else np.empty((0, 0))


def _features(
    paths: Sequence[str], digests: Sequence[str], encoder: Encoder, frozen: dict[str, Backbone]
) -> FloatArray:
    images = ImageSet(tuple(map(str, range(len(paths)))), tuple(map(Path, paths)), tuple(digests))
    folder, _ = usable_cache(encoder.cache.expanduser())
    inputs = Inputs(
        images,
        cache_dir=folder,
        weights=encoder.source,
        fit=encoder.bank.fit,
        cache_gb=encoder.cache_gb,
        area="prediction",
        frozen=frozen,
    )
    return encoder.bank.features(inputs)
