"""TOML files of users: read with the line of each key, which Python's own reader does not keep; values as TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomass_models.errors import UserError

_KEY = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_DOTTED = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class TomlError(UserError):
    """A file that is no TOML. line: 1-based, None where it is not known; got: what the reader found."""

    def __init__(self, name: str, line: int | None, rule: str, got: str, remedy: str) -> None:
        self.line, self.rule, self.got, self.remedy = line, rule, got, remedy
        where = name if line is None else f"{name}:{line}"
        super().__init__(f"{where}: {rule}; got {got}; {remedy}")


@dataclass(frozen=True, kw_only=True)
class TomlFile:
    """What a file holds, and where."""

    name: str
    content: Mapping[str, Any]
    text: str

    def exact_line(self, *path: str) -> int | None:
        """The line of a key, 1-based: table after table, then the key. None where no line begins with it."""
        return next((line for line, written in _written(self.text) if written == path), None)

    def line_of(self, *path: str) -> int | None:
        """The same; of a key inside of a value the line where the value begins, of one that is not written the line of
        its table. None where nothing of the path is written."""
        best, depth = None, 0
        for line, written in _written(self.text):
            shared = len(written) if tuple(path[: len(written)]) == written else 0
            if shared > depth:
                best, depth = line, shared
        return best


def read_toml(path: Path, remedy: str) -> TomlFile:
    """Raises TomlError, with the remedy for what is no TOML, and UserError for a file that cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets and editors write a byte order mark
    except UnicodeDecodeError as reason:
        raise TomlError(path.name, None, f"{path.name} is UTF-8", f"{reason}", "save it as UTF-8") from None
    except OSError as reason:
        raise UserError(f"{path} must be a file that can be read, got {reason.strerror}; check the path") from None
    try:
        content = tomllib.loads(text)
    except ValueError as reason:  # no TOML, or a number of more digits than Python reads
        place = re.search(r"line (\d+)", str(reason))
        line = int(place[1]) if place else None
        raise TomlError(path.name, line, f"{path.name} is TOML", f"{reason}", remedy) from None
    return TomlFile(name=path.name, content=content, text=text)


def toml_value(value: Any) -> str:
    """A value as TOML writes it: texts, numbers, booleans, lists, and mappings as inline tables."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(toml_value, value))}]"
    return repr(value)


def toml_key(key: str) -> str:
    """A key, in quotes where it needs them."""
    return key if _PLAIN_KEY.fullmatch(key) else quoted(key)


def quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def _written(text: str) -> list[tuple[int, tuple[str, ...]]]:
    """Line and path of each table heading and key that begins a line. A text over several lines is read as keys too:
    a path that is asked for is hardly written there."""
    found: list[tuple[int, tuple[str, ...]]] = []
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        heading = line.lstrip()
        if heading.startswith("["):
            inner = _DOTTED.match(heading.lstrip("["))
            if inner is not None and heading[len(heading) - len(heading.lstrip("[")) + inner.end() :].startswith("]"):
                table = _parts(inner[1])
                found.append((number, table))
        elif (key := _DOTTED.match(line)) is not None and line[key.end() :].startswith("="):
            found.append((number, (*table, *_parts(key[1]))))
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted))
