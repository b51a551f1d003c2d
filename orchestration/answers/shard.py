"""Masses of one shard of photographs, by all members of a blend; what a process does, alone or as an actor.

n photographs of a shard, T = 5 targets; masses in grams per quadrat. A shard has the same numbers in any process that
has as many threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.data.images import ImageError, file_digest, header_size, probe_image
from biomass_models.data.photographs import PUBLISHED_SIZE, is_unlike
from biomass_models.features.inputs import ImageSet
from biomass_models.interrupt import ShouldStop
from biomass_models.targets import TARGETS, FloatArray
from ensembles.blend import apply_blend
from orchestration.answers.opened import OpenBlend
from orchestration.answers.photographs import as_utf8
from orchestration.workers.shards import mean_prediction, shard_inputs

REASON, DIGEST, ODD, PERCENTILE, NEAREST = "unreadable", "blake2b", "odd_shape", "unlike_percentile", "nearest"


def predict_shard(
    blend: OpenBlend,
    paths: Sequence[str],
    *,
    cache: Path,
    cache_gb: float | None = None,
    device: str = "auto",
    should_stop: ShouldStop | None = None,
) -> pd.DataFrame:
    """One row a photograph: TARGETS in grams, REASON (empty: it was read), DIGEST of its content, ODD (another shape
    than those trained on), PERCENTILE and NEAREST (unlike the training photographs).

    What cannot be read has a reason and blank numbers. Raises what members raise, CacheError, StopRequested.
    """
    reason, digest, odd = [""] * len(paths), [""] * len(paths), np.zeros(len(paths), dtype=bool)
    trained_on = blend.photograph_size or PUBLISHED_SIZE
    for row, path in enumerate(paths):
        try:
            odd[row] = is_unlike(header_size(Path(path), blend.fits), trained_on, blend.members[0].fit)
            digest[row] = file_digest(Path(path))
        except (ImageError, OSError) as error:
            reason[row] = one_line(error)
    while True:
        rows = [row for row in range(len(paths)) if not reason[row]]
        images = ImageSet(
            tuple(map(str, rows)), tuple(Path(paths[row]) for row in rows), tuple(digest[row] for row in rows)
        )
        try:
            mass_nT, percentile_n, nearest = _predict(blend, images, cache, cache_gb, device, should_stop)
            break
        except ImageError as error:  # looked for one by one now: decoding all files twice would cost every shard
            found = {row: why for row in rows if (why := torn_reason(paths[row])) is not None}
            if not found:
                raise error
            for row, why in found.items():
                reason[row] = why
    table = pd.DataFrame(np.full((len(paths), len(TARGETS)), np.nan), columns=list(TARGETS))
    table.loc[rows, list(TARGETS)] = mass_nT
    table[REASON], table[DIGEST], table[ODD] = reason, digest, odd
    table[PERCENTILE] = pd.Series(percentile_n, index=rows, dtype="float64").reindex(table.index)
    table[NEAREST] = pd.Series(nearest, index=rows, dtype="object").reindex(table.index).fillna("")
    return table


def _predict(
    blend: OpenBlend,
    images: ImageSet,
    cache: Path,
    cache_gb: float | None,
    device: str,
    should_stop: ShouldStop | None,
) -> tuple[FloatArray, FloatArray, list[str]]:
    size = len(images.image_ids)
    if not size:
        return np.empty((0, len(TARGETS))), np.empty(0), []
    inputs_of, _ = shard_inputs(
        images,
        (0, size),
        cache_dir=cache,
        weights=blend.source,
        device=device,
        cache_gb=cache_gb,
        frozen=blend.frozen,
    )
    pred = {
        member.name: mean_prediction(
            member.family,
            member.config,
            member.models(blend.member_limit),
            inputs_of(member.fit),
            flips=blend.card.flips,
            should_stop=should_stop,
        )
        for member in blend.members
    }
    model = blend.state_model
    likely_nS = None if model is None else model.likely(model.bank.features(inputs_of(model.bank.fit)))
    mass_nT = apply_blend(blend.card, pred, likely_nS)
    if blend.likeness is None:
        return mass_nT, np.full(size, np.nan), [""] * size
    bank = blend.likeness.bank
    percentile_n, near_nK = blend.likeness.nearest(bank.features(inputs_of(bank.fit)))
    return mass_nT, percentile_n, [blend.likeness.image_ids[near_K[0]] for near_K in near_nK]


def torn_reason(path: str) -> str | None:
    """Why a photograph cannot be decoded; None where it can."""
    try:
        probe_image(Path(path))
    except (ImageError, OSError) as error:
        return one_line(error)
    return None


def one_line(error: Exception) -> str:
    """On one line, as texts of a file: it is a cell of a table."""
    return " ".join(as_utf8(str(error)).split())
