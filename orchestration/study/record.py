"""How what is stored in a study becomes a type, and a type what is stored.

Reading is tolerant, because a study outlives the version that wrote it: a field that the file lacks has the default of
its type, a field that the type lacks is kept and written back, and a record of an older schema is read. A record of a
newer schema is refused, since this version cannot know what its fields mean.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from biomass_models.errors import UserError
from orchestration.old_names import STORED

SCHEMA = 1  # of the records that this version writes; version 0.1.0 wrote none, which reads as 0
NOT_STORED = "rest"


class RecordError(UserError):
    """A stored record is not what its type says; the text names the field."""


class NewerRecordError(RecordError):
    """A record of a newer version: to read past it, or over it, would lose what that version knew."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Stored plain data: JSON in and out, with the fields of later versions kept."""

    rest: Mapping[str, Any] = field(default_factory=dict, repr=False)  # fields that this version does not know

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Raises RecordError for a field of another type, and for one without a default that is missing."""
        if not isinstance(content, Mapping):
            raise RecordError(f"a {cls.__name__} is a JSON object, got {type(content).__name__}")
        kind: Any = cls  # as a key of the caches below
        known, field_of = _converters(kind), _field_of(kind)
        given = {field_of[name]: known[field_of[name]](value) for name, value in content.items() if name in field_of}
        if missing := _required(kind) - given.keys():
            raise RecordError(f"a {cls.__name__} has the field {min(missing)}, got none")
        given[NOT_STORED] = {name: value for name, value in content.items() if name not in field_of}
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """Every field under its stored name; what `from_json` did not know comes last."""
        kind: Any = type(self)  # as a key of a cache
        stored = {name: _plain(getattr(self, field)) for name, field in _field_of(kind).items()}
        return {**stored, **self.rest}


@dataclass(frozen=True, kw_only=True)
class Record(Part):
    """A part that has a file of its own, and so a schema number."""

    schema: int = SCHEMA

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """As Part; raises RecordError with what to do for a record of a newer schema as well."""
        number = content.get("schema", 0) if isinstance(content, Mapping) else 0
        if not isinstance(number, int) or number > SCHEMA:
            raise NewerRecordError(
                f"this version reads records up to schema {SCHEMA}, got {number!r}, of a newer version; upgrade this "
                "one (pip install --upgrade pasture-biomass)"
            )
        return super().from_json({"schema": 0, **content} if isinstance(content, Mapping) else content)

    def to_json(self) -> dict[str, Any]:
        """As Part; a record of 0.1.0 stays without a number, since its number says how its id was derived."""
        stored = super().to_json()
        if self.schema == 0:
            del stored["schema"]
        return stored


@cache
def _field_of(cls: type[Part]) -> dict[str, str]:
    """The field of each stored name, in the order of the fields."""
    names = [one.name for one in fields(cls) if one.name != NOT_STORED]
    return {STORED.get(cls.__name__, {}).get(name, name): name for name in names}


@cache
def _converters(cls: type[Part]) -> dict[str, Callable[[Any], Any]]:
    hints = get_type_hints(cls)
    return {one.name: _named(cls, one.name, hints[one.name]) for one in fields(cls) if one.name != NOT_STORED}


@cache
def _required(cls: type[Part]) -> frozenset[str]:
    return frozenset(one.name for one in fields(cls) if one.default is MISSING and one.default_factory is MISSING)


def _named(cls: type[Part], name: str, hint: Any) -> Callable[[Any], Any]:
    convert = _converter(hint)

    def read(value: Any) -> Any:
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            raise RecordError(f"field {name} of a {cls.__name__}: {error}") from None

    return read


def _converter(hint: Any) -> Callable[[Any], Any]:
    """From a JSON value to a value of the type; raises TypeError or ValueError where it is another one."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if origin in (typing.Union, types.UnionType):
        (inner,) = (_converter(one) for one in arguments if one is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is Literal:
        return lambda value: _one_of(arguments, value)
    if origin is tuple and arguments[-1] is Ellipsis:
        each = _converter(arguments[0])
        return lambda value: tuple(map(each, _a(list, value)))
    if origin is tuple:
        parts = [_converter(one) for one in arguments]
        return lambda value: tuple(read(one) for read, one in zip(parts, _a(list, value), strict=True))
    if origin is not None and issubclass(origin, Mapping):
        of_value = _converter(arguments[1])
        return lambda value: {str(key): of_value(one) for key, one in _a(dict, value).items()}
    if issubclass(hint, Part):
        return hint.from_json
    if issubclass(hint, tuple):  # a named tuple is stored as a list
        reads = [_converter(one) for one in get_type_hints(hint).values()]
        return lambda value: hint(*(read(one) for read, one in zip(reads, _a(list, value), strict=True)))
    if hint is float:
        return _number
    return lambda value: _a(hint, value)


def _one_of(names: tuple[Any, ...], value: Any) -> Any:
    if value not in names:
        raise ValueError(f"must be one of {', '.join(map(str, names))}, got {value!r}"[:200])
    return value


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"must be of type {kind.__name__}, got {value!r}"[:200])
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"must be a number, got {value!r}"[:200])
    return float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
