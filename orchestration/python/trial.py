"""A trial as Python holds it: what is known of it, shown as the command shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestration.python.shown import as_html

if TYPE_CHECKING:
    from orchestration.inspect.show import ShownTrial


@dataclass(frozen=True, eq=False, repr=False)
class TrialPage:
    """One trial, whole."""

    facts: ShownTrial  # settings, folds, cost, worth in the blend (orchestration/inspect/show.py)

    def __repr__(self) -> str:
        from orchestration.inspect.show_page import render_trial
        from orchestration.terminal import text_of

        lines = text_of(render_trial(self.facts)).splitlines()
        return "\n".join([line.rstrip() for line in lines] + [f"  {command}" for command in self.facts.commands])

    def _repr_html_(self) -> str:
        return as_html(repr(self))
