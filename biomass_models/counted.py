"""A number with the noun that it counts."""

from __future__ import annotations


def counted(number: float, one: str, more: str | None = None) -> str:
    """`1 trial`, `2 trials`, `0.5 CPUs`; more: what is not `one` with an s, such as `trials have` for `trial has`."""
    amount = f"{number:g}" if isinstance(number, float) else f"{number}"
    return f"{amount} {plural(number, one, more)}"


def plural(number: float, one: str, more: str | None = None) -> str:
    """The noun alone."""
    return one if number == 1 else more or f"{one}s"
