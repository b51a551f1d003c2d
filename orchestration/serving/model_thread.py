"""One thread that predicts, and how many requests may wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.requests import Request

from biomass_models.backbones.devices import threads
from biomass_models.interrupt import ShouldStop
from orchestration.serving.asked import RequestError, client_gone

T = TypeVar("T")
LOOK_SECONDS = 1.0  # between looks at whether the client still waits
SMOOTHING = 0.2  # weight of the newest request in the mean of seconds
LONGEST_RETRY = 60  # s


class ModelThread:
    """Requests one after the other. A daemon: an end that is cut short does not wait for it."""

    def __init__(self, most: int, cores: int) -> None:
        self._most, self._cores = most, cores
        self._admitted, self._closing, self._seconds = 0, False, 1.0
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[ShouldStop], Any], threading.Event] | None]
        self._waiting = queue.SimpleQueue()
        self._pending: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)
        self._thread.start()

    @property
    def admitted(self) -> int:
        return self._admitted

    @property
    def closing(self) -> bool:
        return self._closing

    @contextlib.contextmanager
    def admission(self) -> Iterator[None]:
        """A place in the queue, from the first byte that is read. Raises RequestError: 429 if there is none, 503."""
        with self._lock:
            if self._closing:
                raise _stopping()
            if self._admitted >= self._most:
                retry = min(LONGEST_RETRY, max(1, math.ceil(self._seconds * self._admitted / 2)))
                text = f"{self._admitted} requests are waiting already; send it again in {retry} s"
                raise RequestError(429, text, retry_after=retry)
            self._admitted += 1
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= 1

    async def run(self, work: Callable[[ShouldStop], T], request: Request) -> T:
        """What `work` returns, once it is its turn. Work of a client that has gone is given up.

        Raises RequestError (499: nobody waits for it; 503: the server stops), and what `work` raises.
        """
        future: Future[T] = Future()
        stop = threading.Event()
        with self._lock:
            if self._closing:
                raise _stopping()
            self._pending.add(future)
        self._waiting.put((future, work, stop))
        try:
            wrapped = asyncio.ensure_future(_ended(future))
            while not (await asyncio.wait({wrapped}, timeout=LOOK_SECONDS))[0]:
                if await request.is_disconnected():
                    raise client_gone()
            if future.cancelled():
                raise _stopping()
            return future.result()
        finally:
            future.cancel()
            stop.set()
            self._pending.discard(future)

    def close(self) -> None:
        """No new request; those that wait are told so, the one that is worked on may end. From any thread."""
        with self._lock:
            self._closing = True
            pending = list(self._pending)
        for future in pending:
            future.cancel()
        self._waiting.put(None)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _loop(self) -> None:
        with threads(self._cores):
            while (one := self._waiting.get()) is not None:
                future, work, stop = one
                if not future.set_running_or_notify_cancel():
                    continue
                started = time.monotonic()
                try:
                    future.set_result(work(stop.is_set))
                except BaseException as error:
                    future.set_exception(error)
                del future, work, stop, one  # photographs of a request do not wait for the next one
                self._seconds += SMOOTHING * (time.monotonic() - started - self._seconds)


async def _ended(future: Future[Any]) -> None:
    """Once the future has a result, an exception, or is cancelled."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(ended.set)

    future.add_done_callback(wake)
    await ended.wait()


def _stopping() -> RequestError:
    return RequestError(503, "the server is stopping; send it again once it runs", retry_after=LONGEST_RETRY)
