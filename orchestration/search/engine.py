"""The contract of an engine: what proposes the next configuration of a family.

An engine holds no state but its observations, which are a set: they are sorted by trial id before a sampler sees them.
A proposal is therefore a function of the space, the observations, the pending trials and the seed. An engine that is
rebuilt from a ledger proposes what the one before it would have proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

from biomass_models.config_rules import known_name
from biomass_models.errors import UserError
from orchestration.study.records import Params
from search_spaces.domain import SearchSpace


class Engine(Protocol):
    """Proposes points of one search space; larger values are better."""

    uses_pending: ClassVar[bool]  # whether a proposal depends on the trials that have not ended

    def observe(self, trial_id: str, params: Params, value: float | None) -> bool:
        """Add an ended trial; a value of None means that it failed. Observed again, it replaces what was there.

        params may lie outside of the space, as in a study with other ranges; False means that the engine cannot hold
        them, and learns nothing from the trial.
        """
        ...

    def ask(self, pending: Mapping[str, Params], seed: int, fixed: Params | None = None) -> Params | None:
        """The next point of the space, or None where the engine has no more.

        pending: by trial id, those that have not ended; fixed: fields of the point that have these values.
        """
        ...


def _tpe(space: SearchSpace) -> Engine:
    from orchestration.search.optuna_engine import TpeEngine

    return TpeEngine(space)


def _gp(space: SearchSpace) -> Engine:
    from orchestration.search.optuna_engine import GpEngine

    return GpEngine(space)


def _random(space: SearchSpace) -> Engine:
    from orchestration.search.random_engine import RandomEngine

    return RandomEngine(space)


ENGINES: dict[str, Callable[[SearchSpace], Engine]] = {"tpe": _tpe, "gp": _gp, "random": _random}


def new_engine(name: str, space: SearchSpace) -> Engine:
    """An engine without observations. Raises UserError with the nearest name for one that does not exist."""
    return ENGINES[known_name("an engine", name, ENGINES, UserError)](space)
