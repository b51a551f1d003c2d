"""What a condition means, whatever the ranges are: with which values of another field a field does anything at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.domain import Plain, When


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """A field is used while another one has one of some values, or any but some; with others it does nothing."""

    field: str
    one_of: tuple[Any, ...] = ()
    other_than: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.one_of) == bool(self.other_than):
            raise ValueError(f"needs name values, or those that are not, got {self.one_of} and {self.other_than}")

    def holds(self, value: Any) -> bool:
        return value in self.one_of if self.one_of else value not in self.other_than

    def when(self, values: Sequence[Any], domain: Plain) -> When:
        """The domain under this condition, where the other field has these values."""
        return When(self.field, self.one_of or tuple(value for value in values if self.holds(value)), domain)

    def __str__(self) -> str:
        texts = [str(value) or '""' for value in self.one_of or self.other_than]
        return f"{self.field} {'=' if self.one_of else 'is not'} {' | '.join(texts)}"
