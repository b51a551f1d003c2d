"""Params of a proposal or a ledger, and the configuration of a family that they make: JSON there and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from biomass_models.config_rules import did_you_mean, types_of
from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.families.base import Config


def config_from_params(family: str, params: Mapping[str, Any]) -> Config:
    """Params of a proposal or a ledger -> config; UserError for unknown or ill-typed ones."""
    config_class = registry.family(family).config_class
    names = [field.name for field in dataclasses.fields(config_class)]
    for name in params:
        if name not in names:
            hint = did_you_mean(name, names, most=3) or f"; its parameters are {', '.join(names)}"
            raise UserError(f"{family} has no parameter {name!r}{hint}")
    hints = types_of(config_class)
    # JSON does not tell 1.0 from 1: a whole number is a fine value of a float field
    values: dict[str, Any] = {
        name: float(value) if hints[name] is float and type(value) is int else value for name, value in params.items()
    }
    config: Config = config_class(**values)
    return config


def config_to_params(config: Any) -> dict[str, Any]:
    """Config -> JSON-able dict with every field; `config_from_params` is its inverse."""
    return dataclasses.asdict(config)
