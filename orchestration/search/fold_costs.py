"""What a fold will cost on a slot: measured once there, then counted for each proposal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray

from biomass_models.families import registry
from biomass_models.families.base import Config
from biomass_models.families.speed import Speed
from orchestration.search.trial import BlockedError
from orchestration.workers.jobs import MeasureJob, Outcome
from orchestration.workers.pool import RETRY
from search_spaces.domain import Choice, SearchSpace, When


class FoldCosts:
    """Seconds of a fold by family and configuration, its features apart."""

    def __init__(self, n_train: int, backbones: tuple[str, ...], speed: Speed | None = None) -> None:
        """n_train: training rows of a fold; backbones: that may train; speed: of a slot, None has `ask` measure one."""
        self._n_train, self._backbones, self._speed = n_train, backbones, speed
        self._answer: Any = None
        self.unknown: str | None = None  # why nothing can be estimated

    def ask(self, broker: Any) -> None:
        """Have the first slot that is there measured, where that is not done; before any fold runs on it."""
        if self._speed is None:
            self._answer = broker.run.remote(MeasureJob(backbones=self._backbones), RETRY)

    @property
    def are_known(self) -> bool:
        """Whether an estimate can be given at once. Raises BlockedError where the pool has no slot to measure."""
        if self._speed is not None or self.unknown is not None:
            return True
        if self._answer is None or not ray.wait([self._answer], timeout=0)[0]:
            return False
        outcome: Outcome = ray.get(self._answer)
        if outcome.status == "blocked":
            raise BlockedError(f"{outcome.reason}, then give the same command again")
        if outcome.speed is None:
            self.unknown = outcome.reason or "the search is being stopped"
        self._speed = outcome.speed
        return True

    def seconds(self, family: str, config: Config) -> float | None:
        """Of a fold; None where nothing is known of the slots."""
        if self._speed is None:
            return None
        return registry.model(family).fold_seconds(config, self._n_train, self._speed)


def trained_backbones(spaces: Mapping[str, SearchSpace], here: Mapping[str, str]) -> tuple[str, ...]:
    """Backbones of which some proposal may train blocks: their passes are timed.

    here: those whose weights are here.
    """
    names = set()
    for space in spaces.values():
        if any(_options(space, "trained_blocks")):
            names |= {str(name) for name in _options(space, "backbone")} & set(here)
    return tuple(sorted(names))


def _options(space: SearchSpace, name: str) -> tuple[Any, ...]:
    domain = space.domains.get(name)
    domain = domain.domain if isinstance(domain, When) else domain
    return domain.options if isinstance(domain, Choice) else (space.fixed[name],) if name in space.fixed else ()
