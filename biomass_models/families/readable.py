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


def label_of(family: str, stored: Mapping[str, Any]) -> str:
    """A stored configuration in a line: backbone, size, and what else tells it from the published one.

    Of a family that is not here what every family has: a backbone, and a size where it has one.
    """
    backbone, size = stored.get("backbone"), stored.get("size")
    first = " ".join(filter(None, (str(backbone or ""), "" if size is None else f"{size} px")))
    named = (f"backbone={backbone}", f"size={size}")
    others = [part for part in summary_of(family, stored).split(", ") if part and part not in named]
    return ", ".join(filter(None, (first, *others)))


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
