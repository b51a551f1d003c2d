"""Options of commands, made from the fields of a preset that they set (orchestration/option.py)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import typer

from orchestration.commands import complete
from orchestration.option import PANELS, Option, option_of
from orchestration.search.presets.options import OPTION_FIELDS, PART_OF, PARTS

Command = TypeVar("Command", bound=Callable[..., None])


def preset_options(*names: str) -> Callable[[Command], Command]:
    """Decorate a command: its `**typed` becomes the options of these fields of a preset, without names those of all.

    A value that is not typed arrives as None.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        own += [_parameter(name) for name in names or _all_options()]
        command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in own}  # typer reads both
        return command

    return decorate


def typer_option(name: str, **changes: Any) -> Any:
    """The typer.Option of a field; changes: arguments of typer.Option that a command has otherwise."""
    field = OPTION_FIELDS[name]
    option = option_of(field)
    assert option is not None, f"{name} is typed with another option"
    arguments = {
        "help": option.help,
        "min": option.minimum,
        "max": option.maximum,
        "show_default": _shown_default(field, option) or False,
        "envvar": option.variable,
        "autocompletion": getattr(complete, option.completion) if option.completion else None,
        "rich_help_panel": option.panel,
    }
    return typer.Option(option.spelling or f"--{name.replace('_', '-')}", **{**arguments, **changes})


def _all_options() -> list[str]:
    """Fields that have an option, in the order of the panels of a help page."""
    panels = {name: option.panel for name, field in OPTION_FIELDS.items() if (option := option_of(field)) is not None}
    return sorted(panels, key=lambda name: PANELS.index(panels[name]))


def _parameter(name: str) -> inspect.Parameter:
    hint = get_type_hints(PARTS[PART_OF[name]])[name]
    kind: Any = list[str] if get_origin(hint) is tuple else hint  # such an option is repeated
    annotation = Annotated[kind | None, typer_option(name)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown_default(field: Field[Any], option: Option) -> str:
    """As a help page shows it; empty for switches, lists and what has none."""
    value = field.default
    if option.default is not None:
        return option.default
    if value is None or isinstance(value, bool | tuple):
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text} {option.unit}" if option.unit else text
