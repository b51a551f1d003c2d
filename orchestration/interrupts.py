"""Ctrl-C, SIGTERM (Slurm, Kubernetes, docker, `ray job stop`) and SIGHUP (a closed terminal) end a command alike.

The first is acknowledged at once, whatever the main thread is doing, and raised there as KeyboardInterrupt, so that the
command ends in order. A second changes nothing, a third cuts that end short, and so does END_SECONDS. `Interrupts` is
for the command line alone, which owns its process; importing changes nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from orchestration.processes import kill_own, note_own

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
END_SECONDS = 12.0  # for an end in order; then processes are killed and this one ends
CUTS_SHORT = 3  # so many signals
KILL_SECONDS = 1.0  # for killed processes to be gone
WRITE_SECONDS = 1.0  # for the acknowledgement to be on the terminal
REMINDER = signal.SIGURG  # to the main thread, of what it has received; ignored wherever it is not handled
REMIND_SECONDS = 0.5
AGAIN = "run the same command again"
RESUMES = f"{AGAIN} to resume"


class Interrupted(KeyboardInterrupt):
    """A signal has come. A class of its own: a plain KeyboardInterrupt that passes through exec of a text (as in a
    dataclass that is made at import) has Python end itself by SIGINT, whatever the exit code shall be."""


class Raising:
    """Raises Interrupted in the main thread, from a handler of signals, again and again until it is under way: an
    exception that a handler raises is lost where C code clears whatever comes, as `hasattr` may."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident or 0
        self._over = threading.Event()
        self._before: Any = signal.SIG_DFL

    def begin(self) -> NoReturn:
        """To be called by the handler."""
        self._before = signal.signal(REMINDER, self._again)
        threading.Thread(target=self._remind, name="reminder", daemon=True).start()
        raise Interrupted

    def end(self) -> None:
        """It has arrived, or need not any more."""
        self._over.set()
        if signal.getsignal(REMINDER) == self._again:
            signal.signal(REMINDER, self._before)

    def _remind(self) -> None:
        while not self._over.wait(REMIND_SECONDS):
            signal.pthread_kill(self._main, REMINDER)  # also where it waits

    def _again(self, number: int, frame: FrameType | None) -> None:
        if not self._over.is_set() and not _under_way():
            raise Interrupted


def _under_way() -> bool:
    """Whether an interrupt is being handled now: what ends in order must not be torn."""
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class Interrupts:
    """What a command has received since it began."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.way_back, self.end_seconds = AGAIN, END_SECONDS
        self._raised = False
        self._raising = Raising()
        self._acknowledged = threading.Event()
        self._received, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)

    @property
    def exit_code(self) -> int:
        """128 and the number of the first signal, as shells count."""
        return 128 + (self.first or signal.SIGINT)

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals, but for those that the parent has ignored: nohup stays nohup.

        Once one has come they are handled until Python ends itself, and ignored from there: its own end gives signals
        their defaults back, and one more would then change the exit code.
        """
        global _owner
        _owner = self
        atexit.register(self._ignore)  # before Ray registers its own end, so after it
        own = [number for number in NAMES if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        wakeup = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._acknowledge, name="interrupts", daemon=True).start()
        before = {number: signal.signal(number, self._handle) for number in own}  # last: from here on one may be raised
        try:
            yield
        finally:
            self._raising.end()
            _owner = None
            if self.first is None:
                atexit.unregister(self._ignore)
                for number, handler in before.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(wakeup)
                os.close(self._wakeup)  # ends the thread

    def _ignore(self) -> None:
        for number in NAMES:
            signal.signal(number, signal.SIG_IGN)

    def heed(self, number: signal.Signals) -> None:
        """Handle a signal also where the parent has ignored it."""
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, self._handle)

    def raise_no_more(self) -> None:
        """The command ends by itself now; a third signal cuts that short as before."""
        self._raised = True
        self._raising.end()

    def wait_for_acknowledgement(self) -> None:
        """Until it is written, so that what is written next comes after it."""
        self._acknowledged.wait(WRITE_SECONDS)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """In the main thread, as soon as it runs Python: the first signal is raised, once."""
        self.first = self.first or signal.Signals(number)
        if not self._raised:
            self._raised = True
            self._raising.begin()

    def _acknowledge(self) -> None:
        """Wait for signals, also for those that come while Ray has put a handler of its own in the place of ours."""
        count = 0
        while received := os.read(self._received, 1):
            if received[0] not in NAMES:
                continue
            name, count = NAMES[signal.Signals(received[0])], count + 1
            if count == 1:
                self.first = self.first or signal.Signals(received[0])
                self._write(f"{name}: stopping, within {self.end_seconds:.0f} s; {self.way_back}")
                self._acknowledged.set()
                threading.Thread(target=self._limit, name="limit", daemon=True).start()
                note_own()
            elif count < CUTS_SHORT:
                self._write(f"{name}: it is stopping already; once more cuts that short")
            else:
                self._write(f"{name}: cut short; {self.way_back}")
                self._cut_short()

    def _write(self, line: str) -> None:
        """Past Python's streams, whose locks the main thread may hold; over the line of a progress bar."""
        clear, end = ("\r\x1b[2K", "\r\n") if os.isatty(2) else ("", "\n")
        try:
            os.write(2, f"{clear}{line}{end}".encode())
        except OSError:  # the terminal is gone: nothing that is written after this may fail for it
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                for stream in (1, 2):
                    os.dup2(nowhere, stream)

    def _limit(self) -> None:
        time.sleep(self.end_seconds)
        self._cut_short()

    def _cut_short(self) -> NoReturn:
        kill_own(KILL_SECONDS)
        os._exit(self.exit_code)

    def _forget(self) -> None:
        """In a forked child, whose signals are its own: they must not look like ours."""
        signal.set_wakeup_fd(-1)
        for number in NAMES:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL)


_owner: Interrupts | None = None  # of this process, while a command runs


def say_way_back(way_back: str, *, seconds: float = END_SECONDS) -> None:
    """What follows a signal, in the words of the command that runs; seconds: for its end in order.

    Without such words, and where no command owns the process, it is AGAIN.
    """
    if _owner is not None:
        _owner.way_back, _owner.end_seconds = way_back, seconds


def until_signal(serve: Callable[[], None]) -> None:
    """Serve until a signal, which is the ordinary end of what serves pages: the command's own end follows, undisturbed.

    SIGINT is heeded also where it is ignored: a shell without job control starts background processes so.
    """
    owner = _owner
    try:
        if owner is not None:
            owner.heed(signal.SIGINT)
        serve()
    except KeyboardInterrupt:
        pass
    finally:
        if owner is not None:
            owner.raise_no_more()
