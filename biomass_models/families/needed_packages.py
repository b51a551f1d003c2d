"""Packages that some configurations need beside those of every installation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biomass_models.families.introduced import config_from_stored
from biomass_models.training.config import NetworkOptions


def packages_of(family: str, stored: Mapping[str, Any]) -> tuple[str, ...]:
    """What a stored configuration needs; installed and imported under these names. Raises as config_from_stored."""
    config = config_from_stored(family, stored)
    return ("peft",) if isinstance(config, NetworkOptions) and config.adapters != "none" else ()
