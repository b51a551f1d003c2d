"""What a check finds, as records that go between processes and into the report. Torch-free."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
NEEDS_GPU = "needs a GPU"


class Skip(Exception):
    """Why a check cannot be made on this machine."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A measured number with its repeats."""

    name: str
    unit: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"a number has at least one value, {self.name} has none")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def to_json(self) -> dict[str, Any]:
        spread = {"median": self.median, "low": min(self.values), "high": max(self.values)}
        return {"name": self.name, "unit": self.unit, **spread, "values": list(self.values)}

    def __str__(self) -> str:
        """`epoch 1.2 s (1.1 to 1.4, 3 repeats)`."""
        unit = f" {self.unit}" if self.unit else ""
        spread = f" ({min(self.values):.3g} to {max(self.values):.3g}, {len(self.values)} repeats)"
        return f"{self.name} {self.median:.3g}{unit}{spread if len(self.values) > 1 else ''}"


@dataclass
class Findings:
    """What a check collects while it runs: numbers stay, whatever fails after them."""

    numbers: list[Number] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)

    def number(self, name: str, unit: str, *values: float) -> Number:
        found = Number(name=name, unit=unit, values=tuple(map(float, values)))
        self.numbers.append(found)
        return found

    def note(self, text: str) -> None:
        self.notes.append(text)

    def require(self, met: bool, rule: str, got: object) -> None:
        """The check fails where the rule is not met."""
        if not met:
            self.unmet.append(f"{rule}, got {got}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a check ended."""

    name: str
    title: str
    status: str
    reason: str | None = None  # of a check that failed or was skipped
    numbers: tuple[Number, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    limit: float = 0.0  # seconds that it could have taken

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "numbers": [one.to_json() for one in self.numbers], "notes": list(self.notes)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Outcome:
        numbers = tuple(
            Number(name=one["name"], unit=one["unit"], values=tuple(one["values"])) for one in content["numbers"]
        )
        return cls(**{**content, "numbers": numbers, "notes": tuple(content["notes"])})


@dataclass(frozen=True, kw_only=True)
class Report:
    """All outcomes, and the machine that they are of."""

    machine: Mapping[str, Any]  # card, driver, torch and more
    tiny: bool
    made_at: str  # ISO 8601
    seconds: float
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.outcomes if one.status == FAILED)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "machine": dict(self.machine),
            "tiny": self.tiny,
            "made_at": self.made_at,
            "seconds": self.seconds,
            "failed": list(self.failed),
            "checks": [one.to_json() for one in self.outcomes],
        }


def markdown(report: Report) -> str:
    """The report as a page: machine, a table with a row a check, what failed or was left out, notes."""
    facts = ", ".join(f"{name} {value}" for name, value in report.machine.items() if value)
    size = "tiny, its times say nothing" if report.tiny else "random weights, a drawn pasture"
    lines = [
        f"# GPU checks: {report.machine.get('card', 'no card')}",
        "",
        f"{facts}. {report.made_at}, {report.seconds:.0f} s in all; {size}.",
        "",
        "| check | status | measured: median (range) | seconds |",
        "|---|---|---|---|",
    ]
    for one in report.outcomes:
        numbers = "; ".join(map(str, one.numbers)) or "-"
        lines.append(f"| {one.title} | {one.status} | {_cell(numbers)} | {one.seconds:.0f} |")
    lines += _section("Failed", ((one, one.reason) for one in report.outcomes if one.status == FAILED))
    lines += _section("Skipped", ((one, one.reason) for one in report.outcomes if one.status == SKIPPED))
    lines += _section("Notes", ((one, note) for one in report.outcomes for note in one.notes))
    return "\n".join(lines) + "\n"


def _section(title: str, entries: Iterable[tuple[Outcome, str | None]]) -> list[str]:
    told = [f"- {one.title}: {text}" for one, text in entries]
    return ["", f"## {title}", "", *told] if told else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
