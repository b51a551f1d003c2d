"""The contract of an engine: what proposes the next configuration of a family.

An engine holds no state but its observations, which are a set: a sampler sees them in the order of proposal, however
they came in. A proposal is therefore a function of the space, the observations, the pending trials and the seed. An
engine that is rebuilt from a ledger proposes what the one before it would have proposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from orchestration.study.records import Params  # pandas with it, and every command has the engines' names


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """An ended trial. Its params may lie outside of the space, as in a study with other ranges."""

    trial_id: str
    number: int  # order of proposal in the study
    params: Params
    value: float | None = None  # larger is better; None: it failed or was refused
    refused: bool = False  # too expensive, so that it never ran: points like it are not wanted

    @property
    def place(self) -> tuple[int, str]:
        """Sorts observations by their proposal."""
        return self.number, self.trial_id


@runtime_checkable
class Engine(Protocol):
    """Proposes points of one search space; larger values are better."""

    uses_pending: ClassVar[bool]  # whether a proposal depends on the trials that have not ended

    def observe(self, observation: Observation) -> bool:
        """Add an ended trial; one of the same id is replaced.

        False means that the engine cannot hold its params, and learns nothing from the trial.
        """
        ...

    def ask(self, pending: Mapping[str, Params], seed: int, fixed: Params | None = None) -> Params | None:
        """A point of the space, or None where the engine has no more.

        The point may be known already: of a finite space the nearest new one is taken; else the engine is asked again
        with another seed, and with that point as pending.
        pending: by trial id, those that have not ended; fixed: fields of the point that have these values.
        """
        ...
