"""How long work reports progress and is told to stop; shared by all that computes. Torch-free.

Looking at `should_stop` between two epochs, batches or folds is also how work shows that it does not hang: whoever
passes it counts each look as a sign of life.
"""

from __future__ import annotations

from collections.abc import Callable

ShouldStop = Callable[[], bool]
OnProgress = Callable[[int, int], None]  # (done, total)


class StopRequested(Exception):
    """Raised between two batches or epochs, once `should_stop()` has turned true."""


def check_stop(should_stop: ShouldStop | None, where: str) -> None:
    """Raise StopRequested when a stop was asked for; `where` says how far the work had come."""
    if should_stop is not None and should_stop():
        raise StopRequested(f"stopped on request: {where}")
