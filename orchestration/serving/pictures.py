"""Pictures of the photographs of a request, for its page: small, with the map of a member that has one, and the nearest
training photographs. Each is a JPEG that stands in the page itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.torch import load as load_tensors

from biomass_models.data.images import ImageError, file_digest, shown_photograph
from biomass_models.families import registry
from biomass_models.families.introduced import config_from_stored
from biomass_models.features.inputs import ImageSet
from biomass_models.features.likeness import names_of
from biomass_models.interrupt import ShouldStop, check_stop
from orchestration.answers.opened import OpenBlend, OpenMember
from orchestration.answers.trained_on import training_photographs
from orchestration.inspect.maps import map_panels, maps_in_unit, mean_maps
from orchestration.report.sections.photographs import data_uri
from orchestration.serving.asked import Asked
from orchestration.workers.shards import InputsOfFit, shard_inputs

SIDE = 640  # px, longest of a photograph
MAP_SIDE = 420  # px, of a map, whose scale must be read on a phone
SMALL = 220  # px, longest of a training photograph
NEIGHBOURS = 3
KEPT = 256  # pictures of training photographs in memory


@dataclass(frozen=True)
class Picture:
    """With its caption."""

    uri: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Of one photograph."""

    photograph: Picture
    maps: tuple[Picture, ...]  # none where no member has any
    neighbours: tuple[tuple[str, Picture | None], ...]  # nearest training photographs, and their pictures where known


def pictures(
    blend: OpenBlend,
    paths: Mapping[int, Path],
    asked: Asked,
    trained: TrainingPhotographs | None,
    *,
    cache: Path,
    should_stop: ShouldStop | None = None,
) -> dict[int, Pictures]:
    """By row, of photographs that can be read. cache: the folder of features that `answer` has filled."""
    rows, files = list(paths), list(paths.values())
    if not rows:
        return {}
    images = ImageSet(tuple(map(str, rows)), tuple(files), tuple(map(file_digest, files)))
    inputs_of, _ = shard_inputs(images, (0, len(rows)), cache_dir=cache, weights=blend.source, frozen=blend.frozen)
    maps = _maps(blend, inputs_of, images, asked, should_stop)
    neighbours = _neighbours(blend, inputs_of, len(rows))
    found = {}
    for place, (row, path) in enumerate(paths.items()):
        check_stop(should_stop, f"{place} of {len(rows)} photographs are drawn")
        found[row] = Pictures(
            photograph=_picture(shown_photograph(path, SIDE, SIDE, fit=blend.members[0].fit), "as models see it"),
            maps=maps.get(row, ()),
            neighbours=tuple((name, trained.small(name) if trained else None) for name in neighbours[place]),
        )
    return found


def member_with_maps(blend: OpenBlend) -> OpenMember | None:
    """The heaviest member whose family has maps."""
    members = sorted(blend.members, key=lambda member: -blend.card.members.get(member.name, 0.0))
    return next((member for member in members if registry.model(member.family).maps is not None), None)


def _maps(
    blend: OpenBlend, inputs_of: InputsOfFit, images: ImageSet, asked: Asked, should_stop: ShouldStop | None
) -> dict[int, tuple[Picture, ...]]:
    member = member_with_maps(blend)
    if member is None:
        return {}
    model, config = registry.model(member.family), config_from_stored(member.family, member.config)
    assert model.maps is not None
    tables = []
    for one in member.models(blend.member_limit):
        check_stop(should_stop, "maps are drawn")
        tables.append(model.maps(config, load_tensors(one), inputs_of(member.fit)))
    per_square_metre = blend.mass_unit.per_square_metre()
    if per_square_metre is None and asked.area is not None:
        per_square_metre = np.array([1 / asked.area])
    found = {}
    for image_id, path in zip(images.image_ids, images.paths, strict=True):
        maps, unit = maps_in_unit(mean_maps(tables, image_id), member.family, per_square_metre)
        photograph = shown_photograph(path, MAP_SIDE, MAP_SIDE, fit=member.fit)
        views = tuple(model.views(config))
        panels = map_panels(path, photograph, views, member.fit, maps, unit)
        found[int(image_id)] = tuple(_picture(pixels, caption) for caption, pixels in panels)
    return found


def _neighbours(blend: OpenBlend, inputs_of: InputsOfFit, size: int) -> Sequence[Sequence[str]]:
    """Ids of the nearest training photographs of each; from features that are in the cache already."""
    if blend.likeness is None:
        return [()] * size
    bank = blend.likeness.bank
    _, near_NK = blend.likeness.nearest(bank.features(inputs_of(bank.fit)))
    return names_of(blend.likeness, near_NK[:, :NEIGHBOURS])


class TrainingPhotographs:
    """Small pictures of them, by id. Raises what training_photographs raises."""

    def __init__(self, blend: OpenBlend, data_dir: Path) -> None:
        self._paths = training_photographs(blend, data_dir)
        self._drawn = lru_cache(KEPT)(self._draw)

    def small(self, image_id: str) -> Picture | None:
        """None for one that is not there, or cannot be read."""
        return self._drawn(image_id)

    def _draw(self, image_id: str) -> Picture | None:
        path = self._paths.get(image_id)
        if path is None:
            return None
        try:
            return _picture(shown_photograph(path, SMALL, SMALL), image_id)
        except (ImageError, OSError):
            return None


def _picture(pixels: np.ndarray, caption: str) -> Picture:
    return Picture(data_uri(pixels), pixels.shape[1], pixels.shape[0], caption)
