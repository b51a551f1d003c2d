"""Ids that neither a new field nor a changed default moves: a family's defaults at introduction, frozen.

families/<name>/introduced.py has every field of the family's configuration with its default when it was introduced. A
trial's id leaves out the fields that equal it, and a stored configuration that lacks a field has it. A new field gets a
line, with the default that does what the family did before it existed. No line ever changes or goes, not even with its
field. A family without the file, such as one of an installed package, has no such fields: its ids hash all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from biomass_models.families import registry
from biomass_models.families.base import Config
from biomass_models.families.configs import config_from_params


def introduced(family: str) -> Mapping[str, Any]:
    """Defaults of a family's fields at their introduction, by field; empty where it has none."""
    if family not in registry.BUILT_IN:
        return {}
    try:
        defaults: Mapping[str, Any] = import_module(f"{__package__}.{family}.introduced").INTRODUCED
    except ModuleNotFoundError:
        return {}
    return defaults


def fill_config(family: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with every field that was introduced after it was stored."""
    return {**introduced(family), **stored}


def distinct_fields(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that do not equal their default at introduction: what tells one configuration from another."""
    known = introduced(family)
    return {name: value for name, value in config.items() if name not in known or not _same(value, known[name])}


def config_from_stored(family: str, stored: Mapping[str, Any]) -> Config:
    """The configuration of a trial in a ledger. Raises UserError for an unknown family or field."""
    return config_from_params(family, fill_config(family, stored))


def _same(one: Any, other: Any) -> bool:
    """As JSON: 1 is not 1.0 and not true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
