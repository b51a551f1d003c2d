"""What readers of a study show of its families. A family that is not installed here costs its words, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.families.introduced import config_from_stored


def summary_of(family: str, stored: Mapping[str, Any]) -> str:
    """What tells a stored configuration from the published one; "" where the family is not here, or another one now."""
    try:
        return registry.family(family).summary(config_from_stored(family, stored))
    except UserError:
        return ""


def description_of(family: str) -> str:
    """What kind of model a family is, in half a line; "" where it is not here."""
    try:
        return registry.family(family).describe
    except UserError:
        return ""


def map_unit_of(family: str) -> str:
    """Unit of the maps of where a family's models looked."""
    try:
        return registry.family(family).map_unit or "share"
    except UserError:
        return "share"
