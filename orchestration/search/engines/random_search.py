"""Random search: the baseline of every other engine."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar

from orchestration.search.engines.base import Observation
from orchestration.study.records import Params
from search_spaces.domain import SearchSpace


class RandomEngine:
    """Draws each field uniformly over its domain, on the domain's own scale."""

    uses_pending: ClassVar[bool] = False

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    def observe(self, observation: Observation) -> bool:
        """Nothing is learnt, so that anything can be observed."""
        return True

    def ask(self, pending: Mapping[str, Params], seed: int, fixed: Params | None = None) -> Params | None:
        return self._space.draw(Random(seed), fixed or {})
