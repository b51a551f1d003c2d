"""What holds while a function works for long: Ctrl-C and the stop button of a notebook end it in order, once.

As in the command (orchestration/interrupts.py), but nothing ends this process, and no child of it but Ray's is killed.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestration.interrupts import CUTS_SHORT, Interrupted
from orchestration.progress import Say

REMIND_SECONDS = 0.5


class SearchStopped(KeyboardInterrupt):
    """The work was interrupted. What was finished is kept; the same call resumes it."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of the way through the search."""
        return [str(self)]


@contextmanager
def at_work(say: Say) -> Iterator[None]:
    """The first SIGINT is raised, a second one changes nothing, a third is raised again; raises SearchStopped.

    Outside of the main thread, where Python delivers no signal, and where SIGINT is ignored, all stays as it is.
    """
    handler = _Handler(say)
    own = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) not in (
        signal.SIG_IGN,
        None,
    )
    before = signal.signal(signal.SIGINT, handler) if own else None
    try:
        with _without_widgets():
            yield
    except KeyboardInterrupt:
        raise SearchStopped("Stopped. What was finished is kept; run the same again to resume.") from None
    finally:
        handler.ended.set()
        if own:
            signal.signal(signal.SIGINT, before)


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
    """Of SIGINT. An exception that a handler raises is lost where C code clears whatever comes, as `hasattr` may: it is
    raised again until it is under way."""

    def __init__(self, say: Say) -> None:
        self.ended = threading.Event()
        self._say, self._main = say, threading.main_thread().ident or 0
        self._received = 0
        self._reminding = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._reminding:
            self._reminding = False
            if not _under_way():
                raise Interrupted
            return
        self._received += 1
        if self._received == 1:
            threading.Thread(target=self._remind, name="interrupt", daemon=True).start()
            self._say("Ctrl-C: stopping; what was finished is kept")
        elif self._received < CUTS_SHORT:
            self._say("Ctrl-C: it is stopping already; once more cuts that short")
            return
        raise Interrupted

    def _remind(self) -> None:
        while not self.ended.wait(REMIND_SECONDS):
            self._reminding = True
            signal.pthread_kill(self._main, signal.SIGINT)  # also where it waits


def _under_way() -> bool:
    """Whether an interrupt is being handled now: what ends in order must not be torn."""
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
