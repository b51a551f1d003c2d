"""What a planned study will cost: settings are drawn as a search may propose them, their folds and banks counted.

A bank is paid for by the trial that asks for it first, so that on a CPU a study's first hours are mostly features. What
an engine learns, and what pruning saves, is not foreseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, repeat, zip_longest
from random import Random

from biomass_models.families import registry
from biomass_models.families.base import Config
from biomass_models.families.costs import all_feature_gigabytes, all_feature_seconds, measure
from search_spaces.domain import SearchSpace

COUNTED = 24  # settings of a family whose folds are counted
STUDIES = 8  # that are drawn, for the features; their mean
MOST_DRAWS = 1000  # of a family: its config may refuse all that own ranges draw


@dataclass(frozen=True, kw_only=True)
class StudyCost:
    """Seconds are those of one slot, gigabytes those of one node's disk."""

    fold_seconds: Mapping[str, tuple[float, ...]]  # by family, of settings that may be proposed; those that have any
    feature_seconds: float
    feature_gigabytes: float

    def mean_fold_seconds(self, family: str) -> float:
        found = self.fold_seconds[family]
        return sum(found) / len(found)


def study_cost(
    spaces: Mapping[str, SearchSpace], trials: Mapping[str, float], *, images: int, folds: int, device: str
) -> StudyCost:
    """Counted from passes that are timed where this runs; spaces and number of trials by family."""
    n_train = round(images * (1 - 1 / folds))
    counted = {family: list(islice(_proposals(space, 0), COUNTED)) for family, space in spaces.items()}
    trained = {one.backbone for one in chain(*counted.values()) if getattr(one, "trained_blocks", 0)}
    speed = measure(sorted(trained), device)
    fold_seconds = {
        family: tuple(registry.model(family).fold_seconds(config, n_train, speed) for config in configs)
        for family, configs in counted.items()
        if configs
    }
    seconds, gigabytes = 0.0, 0.0
    for seed in range(STUDIES):
        proposed = _study(spaces, trials, seed)
        banks = [spec for family, config in proposed for spec in registry.model(family).feature_specs(config)]
        seconds += all_feature_seconds(banks, images, device) / STUDIES
        gigabytes += all_feature_gigabytes(banks, images) / STUDIES
    return StudyCost(fold_seconds=fold_seconds, feature_seconds=seconds, feature_gigabytes=gigabytes)


def _study(spaces: Mapping[str, SearchSpace], trials: Mapping[str, float], seed: int) -> Iterator[tuple[str, Config]]:
    """Families and settings in the order of their proposal: families take turns."""
    by_family = (
        zip(repeat(family), islice(_proposals(space, seed), max(1, round(trials[family]))), strict=False)
        for family, space in spaces.items()
    )
    return (one for turn in zip_longest(*by_family) for one in turn if one is not None)


def _proposals(space: SearchSpace, seed: int) -> Iterator[Config]:
    """First trials, then random ones, without those that the config refuses."""
    rng = Random(seed)
    drawn = (space.draw(rng, {}) for _ in range(MOST_DRAWS))
    return (space.config(params) for params in chain(space.first_trials, drawn) if space.refusal(params) is None)
