"""Old spellings of what was renamed: stored names and typed options never change, so each stays here for good.

Commands and options are accepted under both spellings; a stored field is written and read under its first one, so that
every released version reads what this one writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMMANDS: Mapping[str, str] = {"recipes": "presets"}  # old -> new, as typed
OPTIONS: Mapping[str, str] = {"--recipe": "--preset"}  # old -> new, as typed
FIELDS: Mapping[str, str] = {"compiles": "compile"}  # old -> new, fields of a preset in a study's note and in --json
STORED: Mapping[str, Mapping[str, str]] = {  # class of a record -> field -> name in the file
    "Asked": {"preset": "recipe"},
    "StudySettings": {"folds": "n_folds"},
}


def new_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field of a preset, under the names of today."""
    return {FIELDS.get(name, name): value for name, value in values.items()}


def old_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field of a preset, under the names under which they are stored."""
    first = {new: old for old, new in FIELDS.items()}
    return {first.get(name, name): value for name, value in values.items()}
