"""Ranges of the user's own as they are written: a TOML file, or `FAMILY.FIELD=VALUE`, that changes, adds, fixes or
conditions fields.

A file has, first, the scale whose ranges it was written from (it may be left out), then a table for each family and a
key for each field. A plain value fixes the field. A table with `uniform`, `log-uniform`, `integer` or `choice` searches
it, under a condition with `when`; ranges_text.py writes examples. A field that is not named stays as it is. A condition
stays where a new range or value names none; `when = {}` takes it away.

Each field is checked by itself when it is read, and all problems are raised together; own_ranges.py puts them over a
family's ranges.
"""

from __future__ import annotations

import math
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from biomass_models.config_rules import did_you_mean, types_of
from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.toml_files import TomlFile, read_toml
from search_spaces.domain import Choice, Integer, LogUniform, Plain, Uniform
from search_spaces.spaces import SCALES

SEARCHED = ("uniform", "log-uniform", "integer", "choice")  # keys of a field's table, of which it has one
WHEN, STEP = "when", "step"
SCALE = "scale"  # key before all tables: of the ranges that the file was written from
GUIDE = "docs/search.md"
_SHOWN = 10  # problems that are listed
_LARGEST = int(sys.float_info.max)  # what a real number holds


class RangesError(UserError):
    """Ranges that cannot be searched; `problems` holds every reason with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        more = len(self.problems) - _SHOWN
        lines = [f"{counted(len(self.problems), 'problem')} in the ranges:"] if len(self.problems) > 1 else []
        super().__init__("\n".join([*lines, *self.problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]))


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a user says of one field."""

    family: str
    field: str
    place: str  # where it was said: my.toml:12, or --set
    domain: Plain | None = None  # to search; None: it is fixed
    value: Any = None  # that it is fixed to
    condition: tuple[str, tuple[Any, ...]] | None = None  # field and values; () values: no condition
    says_condition: bool = False  # whether `when` was written; if not, a condition that was there stays
    is_typed: bool = False  # on the command line
    of_scale: tuple[str, str] | None = None  # that its file names, and where

    @property
    def values(self) -> tuple[Any, ...]:
        """What the field may be: the value that it is fixed to, or the options of a choice."""
        return self.domain.options if isinstance(self.domain, Choice) else () if self.domain else (self.value,)


def read_changes(file: Path | None, fixed: Sequence[str] = ()) -> list[Change]:
    """What a file and `FAMILY.FIELD=VALUE` texts say, each field once: what is typed goes over the file.

    Raises RangesError with every problem, TomlError for a file that is no TOML.
    """
    found, problems = {}, list[str]()
    for change in [*(() if file is None else _of_file(file)), *map(_of_text, fixed)]:
        if isinstance(change, str):
            problems.append(change)
        else:
            found[change.family, change.field] = change
    if problems:
        raise RangesError(problems)
    return list(found.values())


def _of_file(path: Path) -> Iterator[Change | str]:
    file = read_toml(path, f'texts stand in quotes, as in transform = "sqrt" ({GUIDE})')
    content, of_scale = dict(file.content), None
    if (scale := content.pop(SCALE, None)) is not None:
        of_scale = (scale, _place(file, SCALE))
        if scale not in SCALES:
            yield f"{of_scale[1]}: {SCALE} is one of {', '.join(SCALES)}; got {scale!r}{did_you_mean(scale, SCALES)}"
    for family, table in content.items():
        place = _place(file, family)
        if not isinstance(table, Mapping):
            yield f"{place}: a field stands below its family, as in [probe]; got {family} = {table!r}; add the heading"
        elif family not in registry.names():
            yield f"{place}: a table is {_families()}; got [{family}]{did_you_mean(family, registry.names())}"
        else:
            config_class = registry.family(family).config_class
            for field, said in table.items():
                change = _change(family, config_class, field, said, _place(file, family, field))
                yield change if isinstance(change, str) else replace(change, of_scale=of_scale)


def _of_text(text: str) -> Change | str:
    """FAMILY.FIELD=VALUE."""
    place, (name, equals, value) = f"--set {text}", text.partition("=")
    family, dot, field = (part.strip() for part in name.partition("."))
    if not (equals and dot and field):
        return f"{place}: write it like --set distilled.huber_delta=1.0, got no FAMILY.FIELD=VALUE"
    if family not in registry.names():
        return f"{place}: it names {_families()}; got {family!r}{did_you_mean(family, registry.names())}"
    config_class = registry.family(family).config_class
    found = _change(family, config_class, field, _typed(types_of(config_class).get(field), value.strip()), place)
    return found if isinstance(found, str) else replace(found, is_typed=True)


def _families() -> str:
    return f"one of the families {', '.join(registry.names())}"


def _typed(kind: type | None, text: str) -> Any:
    """A value as typed on a command line, where texts need no quotes."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # no TOML, or a number of more digits than Python reads
        value = text
        if kind is float:
            with suppress(ValueError):
                value = float(text)  # .4 and 1. are none of TOML's
    if kind is str and not isinstance(value, str):
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return value


def _change(family: str, config_class: type, field: str, said: Any, place: str) -> Change | str:
    """One field, checked but for the other fields; a text is the problem."""
    names = [one.name for one in fields(config_class)]
    if field not in names:
        hint = did_you_mean(field, names, most=3) or f"; it has {', '.join(names)}"
        return f"{place}: a key is a field of {family}; got {field!r}{hint}"
    name = f"{family}.{field}"
    try:
        if not isinstance(said, Mapping):
            return Change(family=family, field=field, place=place, value=_value(config_class, field, said))
        return Change(
            family=family,
            field=field,
            place=place,
            domain=_domain(config_class, field, said),
            condition=_condition(config_class, said[WHEN]) if WHEN in said else None,
            says_condition=WHEN in said,
        )
    except _Wrong as wrong:
        return f"{place}: {name}: {wrong}"


class _Wrong(UserError):
    """What is wrong with one field."""


def _domain(config_class: type, field: str, said: Mapping[str, Any]) -> Plain:
    for key in said:
        if key not in (*SEARCHED, STEP, WHEN):
            keys = (*SEARCHED, STEP, WHEN)
            raise _Wrong(f"a range has the keys {', '.join(keys)}; got {key!r}{did_you_mean(key, keys)}")
    kinds = [key for key in said if key in SEARCHED]
    if len(kinds) != 1:
        got = ", ".join(kinds) or "none"
        raise _Wrong(f"a range has one of the keys {', '.join(SEARCHED)}; got {got}; a plain value fixes the field")
    kind, given = kinds[0], said[kinds[0]]
    if STEP in said and kind != "integer":
        raise _Wrong(f"a step belongs to an integer range; got one beside {kind}; leave it out")
    if not isinstance(given, list):
        raise _Wrong(f"{kind} is a list, as in {kind} = [1, 2]; got {given!r}")
    values = tuple(_value(config_class, field, value) for value in given)
    try:
        if kind == "choice":
            return Choice(values)
        return _interval(kind, types_of(config_class).get(field), values, said.get(STEP, 1))
    except _Wrong:
        raise
    except ValueError as error:
        raise _Wrong(str(error)) from None


def _interval(kind: str, declared: type | None, values: tuple[Any, ...], step: Any) -> Plain:
    if len(values) != 2:
        raise _Wrong(f"{kind} has a lower and an upper end; got {len(values)} values; write it like {kind} = [1, 2]")
    if declared in (str, bool):
        raise _Wrong(f"it is a {declared.__name__}, which a range cannot be; write it like choice = {list(values)!r}")
    if kind == "integer":
        if declared is float:
            raise _Wrong("it is a real number; write uniform, log-uniform or choice in place of integer")
        if isinstance(step, bool) or not isinstance(step, int):
            raise _Wrong(f"a step is a whole number; got {step!r}")
        return Integer(*values, step)
    if declared is int:
        raise _Wrong(f"it is a whole number; write integer or choice in place of {kind}")
    return (Uniform if kind == "uniform" else LogUniform)(*map(float, values))


def _condition(config_class: type, said: Any) -> tuple[str, tuple[Any, ...]]:
    """Field and values of `when`; ("", ()) where it takes a condition away."""
    if said == {}:
        return "", ()
    if not isinstance(said, Mapping) or len(said) != 1:
        raise _Wrong(f'when names one field, as in when = {{layout = ["halves"]}}; got {said!r}')
    ((field, given),) = said.items()
    names = [one.name for one in fields(config_class)]
    if field not in names:
        raise _Wrong(f"when names a field of the family; got {field!r}{did_you_mean(field, names)}")
    values = given if isinstance(given, list) else [given]
    if not values:
        raise _Wrong("when names one value or more; got none; a plain value fixes the field")
    return field, tuple(_value(config_class, field, value) for value in values)


def _value(config_class: type, field: str, value: Any) -> Any:
    """The value in the field's type: a whole number is fine for a real one. Raises _Wrong."""
    declared = types_of(config_class).get(field)
    if type(value) is int and abs(value) > _LARGEST:
        raise _Wrong(f"{field} is finite; got a whole number above {_LARGEST:g}; write a smaller one")
    if declared is float and type(value) is int:
        value = float(value)
    if declared in (int, float, str, bool) and type(value) is not declared:
        raise _Wrong(f"{field} is of type {declared.__name__}; got {value!r} ({type(value).__name__})")
    if isinstance(value, float) and not math.isfinite(value):
        raise _Wrong(f"{field} is finite; got {value!r}")
    return value


def _place(file: TomlFile, *path: str) -> str:
    line = file.line_of(*path)
    return file.name if line is None else f"{file.name}:{line}"
