"""Values of Python as options of a search: the names and limits of the command line, each checked when it is given."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from biomass_models.config_rules import did_you_mean
from biomass_models.errors import UserError
from orchestration.option import option_of
from orchestration.search.presets.options import OPTION_FIELDS, PART_OF, PARTS

OPTIONS = {name: option for name, field in OPTION_FIELDS.items() if (option := option_of(field)) is not None}


class OptionError(UserError):
    """An option that does not exist, or a value that it does not take."""


def typed_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given, by field, as the command line hands them on; None is not given.

    A list takes a single text as well; a path may be a text, a number one of numpy's. What the environment says counts
    where the command line reads it as well. Raises OptionError.
    """
    for name in given:
        if name not in OPTIONS:
            near = did_you_mean(name, OPTIONS)
            raise OptionError(f"options have the names that help(search) lists, got {name!r}{near}")
    named = {name: os.environ.get(option.variable) for name, option in OPTIONS.items() if option.variable}
    values = {**{name: value for name, value in named.items() if value}, **_without_none(given)}
    return {name: _value(name, value) for name, value in values.items()}


def signature_with_options(function: Any) -> inspect.Signature:
    """The signature of a function whose last parameter is **options, with each of them by name instead."""
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    own += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_type(name) | None)
        for name in OPTIONS
    ]
    return signature.replace(parameters=own)


def options_text() -> str:
    """A line an option, for the docstring of a function."""
    return "\n".join(f"    {name}: {option.help}" for name, option in OPTIONS.items())


def _without_none(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _value(name: str, value: Any) -> Any:
    hint = _type(name)
    kind = tuple if get_origin(hint) is tuple else next(iter(get_args(hint)), hint)  # the first of a union with None
    found = _as(kind, value)
    if found is None:
        raise OptionError(f"{name} is {_WORDS[kind]}, got {value!r}")
    minimum = OPTIONS[name].minimum
    if minimum is not None and not found >= minimum:
        raise OptionError(f"{name} is at least {minimum:g}, got {value!r}")
    maximum = OPTIONS[name].maximum
    if maximum is not None and not found <= maximum:
        raise OptionError(f"{name} is at most {maximum:g}, got {value!r}")
    return found


_WORDS = {
    tuple: "a list of texts",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    Path: "a path",
}


def _as(kind: type, value: Any) -> Any:
    """The value as the type of the field, or None where it is none of that."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if kind is int:
        return int(value) if isinstance(value, Integral) else None
    if kind is float:
        return float(value) if isinstance(value, Real) else None
    if kind is Path:
        return Path(value) if isinstance(value, str | Path) else None
    if kind is str:
        return str(value) if isinstance(value, str | Path) else None
    texts = [value] if isinstance(value, str) else value
    fit = isinstance(texts, list | tuple) and texts and all(isinstance(text, str) for text in texts)
    return list(texts) if fit else None


def _type(name: str) -> Any:
    return get_type_hints(PARTS[PART_OF[name]])[name]
