"""An engine that notes what it observes, for tests of what a proposer passes on."""

from __future__ import annotations

from typing import ClassVar

import pytest

from orchestration.search.engines import registry
from orchestration.search.engines.base import Observation
from orchestration.search.engines.tpe import TpeEngine

NAME = "noting"


class NotingEngine(TpeEngine):
    seen: ClassVar[dict[str, Observation]] = {}  # by trial id, of all that were made

    def observe(self, observation: Observation) -> bool:
        self.seen[observation.trial_id] = observation
        return super().observe(observation)


def register(monkeypatch: pytest.MonkeyPatch) -> dict[str, Observation]:
    """What engines of the name observe from now on."""
    monkeypatch.setitem(registry.BUILT_IN, NAME, f"{__name__}:{NotingEngine.__name__}")
    NotingEngine.seen.clear()
    return NotingEngine.seen
