"""What holds while a function works for long: Ctrl-C and the stop button of a notebook end it in order, once.

As in the command (orchestration/interrupts.py), but nothing ends this process, and no child of it but Ray's is killed.
"""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from orchestration.interrupts import CUTS_SHORT, Interrupted, Raising
from orchestration.progress import Say

T = TypeVar("T")
STOPPED = "Stopped. What was finished is kept; run the same again to resume."


class SearchStopped(KeyboardInterrupt):
    """The work was interrupted. What was finished is kept; the same call resumes it."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of the way through the search."""
        return [str(self)]


def at_work(say: Say, work: Callable[[], T]) -> T:
    """What `work` returns. The first SIGINT is raised in it, a second one changes nothing, a third is raised again;
    raises SearchStopped.

    Outside of the main thread, where Python delivers no signal, and where SIGINT is ignored, all stays as it is.
    A function and no context manager: between an `__enter__` and what it guards a signal would be nobody's.
    """
    handler, before = _Handler(say), signal.getsignal(signal.SIGINT)
    own = threading.current_thread() is threading.main_thread() and before not in (signal.SIG_IGN, None)
    try:
        try:
            if own:
                signal.signal(signal.SIGINT, handler)
            with _without_widgets():
                result = work()
        finally:  # twice: a first signal may be raised in one of them
            _give_back(handler, before, own)
    except KeyboardInterrupt:
        raise SearchStopped(STOPPED) from None
    finally:
        _give_back(handler, before, own)
    if handler.late:
        raise SearchStopped(STOPPED)
    return result


def _give_back(handler: _Handler, before: object, own: bool) -> None:
    handler.end()
    if own:
        signal.signal(signal.SIGINT, before)  # type: ignore[arg-type]  # what getsignal returned


@contextmanager
def _without_widgets() -> Iterator[None]:
    """Neither tqdm nor Ray recommends widgets for notebooks: nothing here draws theirs."""
    logger = logging.getLogger("ray.widgets")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield
    finally:
        logger.setLevel(before)


class _Handler:
    """Of SIGINT."""

    def __init__(self, say: Say) -> None:
        self.late = False  # one came when the work had ended
        self._say, self._ended = say, False
        self._received, self._raising = 0, Raising()

    def end(self) -> None:
        """Raise nothing any more."""
        self._ended = True
        self._raising.end()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._ended:
            self.late = True
            return
        self._received += 1
        if self._received == 1:
            self._say("Ctrl-C: stopping; what was finished is kept")
            self._raising.begin()
        elif self._received < CUTS_SHORT:
            self._say("Ctrl-C: it is stopping already; once more cuts that short")
        else:
            raise Interrupted
