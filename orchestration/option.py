"""Metadata of a settings class's field, from which its command-line option is made (commands/fields.py).

A field that is an option has `metadata=option(...)`. Its name is the option's, from the command line to the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass
from typing import Any

WHAT, BUDGET, FOLDS, SLOTS = "What is searched", "Budget", "Folds", "Slots and machine"
PANELS = (WHAT, BUDGET, FOLDS, SLOTS)  # of a help page, in order


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of the command line, but for its name, type and default, which are the field's."""

    help: str
    panel: str  # one of PANELS
    spelling: str | None = None  # --family for a list that is typed one by one, --a/--b for a switch; None: the name
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    default: str | None = None  # as the help shows it, where the field's own is resolved later
    completion: str | None = None  # function of commands/complete.py
    variable: str | None = None  # of the environment, which gives it as well
    noted: bool = True  # by a new study, as what its command named; False: of this run alone


def option(help: str, panel: str, **more: Any) -> dict[str, Any]:
    """Metadata of a field that is an option; more: fields of Option."""
    return {"option": Option(help=help, panel=panel, **more)}


def typed_with(name: str) -> dict[str, Any]:
    """Metadata of a field that has no option of its own: the option of another field gives it as well."""
    return {"typed_with": name}


def option_of(field: Field[Any]) -> Option | None:
    """The option of a field; None for one that is typed with another."""
    metadata: Mapping[str, Any] = field.metadata
    found: Option | None = metadata.get("option")
    return found
