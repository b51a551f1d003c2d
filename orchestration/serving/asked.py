"""What a request asks for: limits of its size, unit and levels, as texts that anybody may have sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from biomass_models.errors import UserError
from orchestration.answers.opened import OpenBlend
from orchestration.answers.table import TableOptions
from orchestration.answers.units import Conversion, conversion
from orchestration.workers.shards import SHARD_IMAGES

FIELDS = ("unit", "area", "level", "joint")
LEVELS = (0.8, 0.9)  # where none is named
MOST_LEVELS = 5
MEGABYTE = 1 << 20


class RequestError(UserError):
    """A request that is refused, with the status that says so."""

    def __init__(self, status: int, text: str, *, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status, self.retry_after = status, retry_after


def client_gone() -> RequestError:
    """Nobody reads it: a response ends the request without a word in the log."""
    return RequestError(499, "the client has gone")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of what is accepted."""

    photographs: int = 24  # of a request; one shard at most, so that numbers are those of `biomass predict`
    photograph_mb: float = 25.0
    queue: int = 32  # requests that are read, wait or are worked on
    upload_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not 1 <= self.photographs <= SHARD_IMAGES:
            raise UserError(f"--max-photographs is 1 to {SHARD_IMAGES}, got {self.photographs}")
        if not 0 < self.photograph_mb < math.inf:
            raise UserError(f"--max-mb is a number above 0, got {self.photograph_mb:g}")
        if self.queue < 1:
            raise UserError(f"--queue is 1 or more requests, got {self.queue}")

    @property
    def photograph_bytes(self) -> int:
        return int(self.photograph_mb * MEGABYTE)

    @property
    def request_bytes(self) -> int:
        return self.photographs * self.photograph_bytes + MEGABYTE  # fields, and what separates parts


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Checked."""

    conversion: Conversion
    options: TableOptions
    area: float | None = None  # m2 of a quadrat, as typed


def read_asked(blend: OpenBlend, fields: Mapping[str, Sequence[str]]) -> Asked:
    """fields: texts by name; blank ones are as if they were not there. Raises RequestError (400)."""
    given = {name: [text.strip() for text in texts if text.strip()] for name, texts in fields.items()}
    try:
        for name in given:
            if name not in FIELDS:
                raise UserError(f"fields are {', '.join(FIELDS)} and photographs, got {name!r:.60}")
        for name in ("unit", "area", "joint"):
            if len(given.get(name, [])) > 1:
                raise UserError(f"{name} is given once, got {len(given[name])}")
        unit, joint = (next(iter(given.get(name, [])), None) for name in ("unit", "joint"))
        area = _number("area", text) if (text := next(iter(given.get("area", [])), None)) is not None else None
        if joint not in (None, "true", "false"):
            raise UserError(f"joint is true or false, got {joint!r:.60}")
        typed = [part for text in given.get("level", []) for part in text.split(",") if part.strip()]
        levels = tuple(dict.fromkeys(_number("level", part) for part in typed)) or LEVELS
        if len(levels) > MOST_LEVELS:
            raise UserError(f"at most {MOST_LEVELS} levels are asked for at once, got {len(levels)}")
        options = TableOptions(levels=levels, joint=joint == "true")
        return Asked(conversion=conversion(blend.mass_unit, unit, area, pd.DataFrame()), options=options, area=area)
    except UserError as error:
        raise RequestError(400, str(error).replace("--", "")) from None


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name} is a number, got {text!r:.60}") from None
