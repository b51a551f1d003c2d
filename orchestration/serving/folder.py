"""The temporary folder of a request: it is used by the request, and by threads that may end after it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar

from biomass_models.interrupt import StopRequested

P = ParamSpec("P")
T = TypeVar("T")
PREFIX = "biomass-serve-"


class RequestFolder:
    """Deleted by the last of its users: a client that leaves ends the request, not a thread that is at work.

    Where the process ends before, Python's own end deletes it.
    """

    def __init__(self) -> None:
        self._temporary = TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        self._users, self._gone = 0, False
        self._lock = threading.Lock()
        self.path = Path(self._temporary.name)

    @contextmanager
    def used(self) -> Iterator[RequestFolder]:
        """Inside, the folder stays. Raises StopRequested once it is deleted."""
        with self._lock:
            if self._gone:
                raise StopRequested("the request has ended before its turn")
            self._users += 1
        try:
            yield self
        finally:
            with self._lock:
                self._users -= 1
                self._gone = last = self._users == 0
            if last:
                self._temporary.cleanup()

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns, called in another thread as a user of the folder."""

        def call() -> T:
            with self.used():
                return function(*args, **kwargs)

        return await asyncio.to_thread(call)
