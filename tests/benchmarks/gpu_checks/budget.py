"""How long each check may take, so that all of them together keep to one limit. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Budget:
    """Shares out the time that is left: a check that ends early leaves its rest to those after it.

    Where each check keeps to its limit the sum is at most `total`, and none gets less than its share of it.
    """

    def __init__(self, total: float, shares: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        """total: seconds from now; shares: of the checks, by name, in any unit."""
        if not total > 0 or any(not share > 0 for share in shares.values()):
            raise ValueError(f"a budget and its shares must be above 0, got {total} and {dict(shares)}")
        self._clock, self._end = clock, clock() + total
        self._waiting = dict(shares)

    @property
    def left(self) -> float:
        return max(0.0, self._end - self._clock())

    def begin(self, name: str) -> float:
        """Seconds for a check that begins now; each begins once."""
        waiting = sum(self._waiting.values())
        return self.left * self._waiting.pop(name) / waiting
