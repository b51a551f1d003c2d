"""The engines by name: ours, and those of installed packages. Names only; a module is loaded when its engine is made.

A package of others offers an engine by an entry point of the group `biomass.engines`: its name is the engine's, its
value `module:callable`, which makes an engine of a search space.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from biomass_models.config_rules import did_you_mean, known_name
from biomass_models.errors import UserError
from orchestration.search.engines.base import Engine
from search_spaces.domain import SearchSpace

if TYPE_CHECKING:
    from orchestration.study.records import Params  # pandas with it, and every command has the engines' names

GROUP = "biomass.engines"
DEFAULT, RANDOM = "tpe", "random"
BUILT_IN = {
    DEFAULT: f"{__package__}.tpe:TpeEngine",
    "gp": f"{__package__}.gp:GpEngine",
    RANDOM: f"{__package__}.random_search:RandomEngine",
}


def names() -> list[str]:
    """Names of all engines that are here: ours first, then those of others, sorted."""
    return list(_points())


def known(name: str) -> str:
    """The name itself; UserError with the nearest name where no engine is called so."""
    return known_name("an engine", name, names(), UserError)


def new_engine(name: str, space: SearchSpace) -> Engine:
    """An engine without observations. Raises UserError for one that is not here, or cannot be loaded."""
    points = _points()
    if name not in points:
        raise UserError(
            f"engine {name} is not known here, this version has {', '.join(points)}{did_you_mean(name, points)}; "
            "install the package that brings it, or name another with --engine"
        )
    return _checked(name, points[name].value, _made(points[name], space))


def next_point(
    name: str, engine: Engine, space: SearchSpace, pending: Mapping[str, Params], seed: int, fixed: Params | None
) -> Params | None:
    """What an engine of that name proposes. Raises UserError where one of others fails, or proposes no point."""
    try:
        params = engine.ask(pending, seed, fixed)
    except UserError:
        raise
    except Exception as error:  # the boundary to packages of others
        if name in BUILT_IN:
            raise
        raise UserError(
            f"engine {name} must propose points of the {space.family} space, got {type(error).__name__}: {error}; "
            "repair the package that brings it, or name another with --engine"
        ) from error
    wrong = [] if params is None else space.misfits(params)
    if wrong:
        raise UserError(
            f"engine {name} must propose points of the {space.family} space, got {params}, wrong in "
            f"{', '.join(wrong)}; repair the package that brings it, or name another with --engine"
        )
    return params


def _points() -> dict[str, EntryPoint]:
    """Where each engine is made. One of ours goes before one of others that has the same name."""
    own = {name: EntryPoint(name=name, value=value, group=GROUP) for name, value in BUILT_IN.items()}
    others = {point.name: point for point in sorted(entry_points(group=GROUP)) if point.name not in own}
    return {**own, **others}


def _made(point: EntryPoint, space: SearchSpace) -> Any:
    try:
        return point.load()(space)
    except UserError:
        raise
    except Exception as error:  # the boundary to packages of others: whatever they do costs their engine only
        if point.name in BUILT_IN:
            raise
        raise UserError(
            f"engine {point.name} cannot be made by {point.value} ({type(error).__name__}: {error}); repair the "
            "package that brings it, or name another with --engine"
        ) from error


def _checked(name: str, made_by: str, engine: Any) -> Engine:
    if not isinstance(engine, Engine):
        raise UserError(
            f"engine {name} cannot be used: {made_by} must make an engines.base.Engine (observe, ask, uses_pending), "
            f"got {engine!r}; install another version of the package that brings it, or name another with --engine"
        )
    return engine
