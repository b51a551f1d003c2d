"""The model families by name: ours, and those of installed packages. Names only; modules are loaded when asked for.

A package of others offers a family by an entry point of the group `biomass.families`: its name is the family's, its
value the folder (a Python package with config.py, model.py and space.py).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TypeVar

from biomass_models.config_rules import did_you_mean, known_name
from biomass_models.errors import UserError
from biomass_models.families.base import Family, Model

T = TypeVar("T")
GROUP = "biomass.families"
BUILT_IN = (
    "baseline",
    "distilled",
    "probe",
    "stack",
)


@cache
def folders() -> dict[str, str]:
    """Python package of each family by name. One of ours goes before one of others that has the same name."""
    others = {name: point.value for name, point in installed().items()}
    return {**others, **{name: f"{__package__}.{name}" for name in BUILT_IN}}


def installed() -> dict[str, EntryPoint]:
    """Entry points of the families of installed packages, by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP)) if point.name not in BUILT_IN}


def names() -> list[str]:
    """Names of all families that are here, sorted."""
    return sorted(folders())


def known(name: str) -> str:
    """The name itself; UserError with the nearest name where no family is called so."""
    return known_name("a family", name, names())


def family(name: str) -> Family:
    """What is known without torch. Raises UserError for a family that is not here, or cannot be loaded."""
    return _part(name, "config", "FAMILY", Family)


def model(name: str) -> Model:
    """What fits and predicts; loads torch. Raises UserError for a family that is not here, or cannot be loaded."""
    return _part(name, "model", "MODEL", Model)


def space_module(name: str) -> ModuleType:
    """The module whose `space(backbones, scale)` has the family's ranges. Raises UserError as `family` does."""
    return _module(name, f"search_spaces.{name}" if name in BUILT_IN else f"{_folder(name)}.space")


def _part(name: str, module: str, member: str, kind: type[T]) -> T:
    found = getattr(_module(name, f"{_folder(name)}.{module}"), member, None)
    if not isinstance(found, kind):
        raise UserError(
            f"family {name} cannot be used: {_folder(name)}.{module} must define {member}, a families.base."
            f"{kind.__name__}, got {found!r}; install another version of the package that brings it"
        )
    return found


def _folder(name: str) -> str:
    if name not in folders():
        raise UserError(
            f"family {name} is not known here, this version has {', '.join(names())}{did_you_mean(name, names())}; "
            "install the package that brings it, or upgrade"
        )
    return folders()[name]


def _module(name: str, path: str) -> ModuleType:
    try:
        return import_module(path)
    except UserError:
        raise
    except Exception as error:  # the boundary to packages of others: whatever their import does costs their family only
        if name in BUILT_IN:
            raise
        raise UserError(
            f"family {name} cannot be loaded from {path} ({type(error).__name__}: {error}); repair the package that "
            "brings it, or uninstall it"
        ) from error
