"""A blend as Python holds it: its card, shown as the command shows it, and what was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ensembles.card import Card
from orchestration.python.shown import as_html


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Blend:
    """A blend of a study's trials."""

    name: str | None  # of the stored ensemble; None for one that was made to be shown
    card: Card  # every number of it (ensembles/card.py)
    beside: tuple[str, ...] = ()  # what is to be known with the scores, a line each
    labels: Mapping[str, str] = field(default_factory=dict)  # what members are: family, backbone, size, settings
    written: tuple[Path, ...] = ()  # submission, or table of masses

    @property
    def weights(self) -> pd.Series:
        """Weight of each member, heaviest first."""
        return pd.Series(self.card.members, name="weight", dtype="float64").rename_axis("trial_id")

    def __repr__(self) -> str:
        from orchestration.blending.blend import page_of

        return "\n".join(line.rstrip() for line in page_of(self.card, self.beside, self.labels).splitlines())

    def _repr_html_(self) -> str:
        return as_html(repr(self))
