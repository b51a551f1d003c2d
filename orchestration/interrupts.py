"""Ctrl-C, SIGTERM (Slurm, Kubernetes, docker, `ray job stop`) and SIGHUP (a closed terminal) end a command alike.

The first is acknowledged at once, whatever the main thread is doing, and raised there as KeyboardInterrupt, so that the
command ends in order. A second changes nothing, a third cuts that end short, and so does END_SECONDS. Only for the
command line, which owns its process; importing changes nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from orchestration.processes import kill_own, note_own

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
END_SECONDS = 12.0  # for an end in order; then processes are killed and this one ends
CUTS_SHORT = 3  # so many signals
KILL_SECONDS = 1.0  # for killed processes to be gone
WRITE_SECONDS = 1.0  # for the acknowledgement to be on the terminal


class Interrupted(KeyboardInterrupt):
    """A signal has come. A class of its own: a plain KeyboardInterrupt that passes through exec of a text (as in a
    dataclass that is made at import) has Python end itself by SIGINT, whatever the exit code shall be."""


class Interrupts:
    """What a command has received since it began."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._raised = False
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
        atexit.register(self._ignore)  # before Ray registers its own end, so after it
        own = [number for number in NAMES if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        wakeup = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._acknowledge, name="interrupts", daemon=True).start()
        before = {number: signal.signal(number, self._handle) for number in own}  # last: from here on one may be raised
        try:
            yield
        finally:
            if self.first is None:
                atexit.unregister(self._ignore)
                for number, handler in before.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(wakeup)
                os.close(self._wakeup)  # ends the thread

    def _ignore(self) -> None:
        for number in NAMES:
            signal.signal(number, signal.SIG_IGN)

    def wait_for_acknowledgement(self) -> None:
        """Until it is written, so that what is written next comes after it."""
        self._acknowledged.wait(WRITE_SECONDS)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """In the main thread, as soon as it runs Python: the first signal is raised, once."""
        self.first = self.first or signal.Signals(number)
        if not self._raised:
            self._raised = True
            raise Interrupted

    def _acknowledge(self) -> None:
        """Wait for signals, also for those that come while Ray has put a handler of its own in the place of ours."""
        count = 0
        while received := os.read(self._received, 1):
            if received[0] not in NAMES:
                continue
            name, count = NAMES[signal.Signals(received[0])], count + 1
            if count == 1:
                self.first = self.first or signal.Signals(received[0])
                self._write(f"{name}: stopping, within {END_SECONDS:.0f} s; run the same command again to resume")
                self._acknowledged.set()
                threading.Thread(target=self._limit, name="limit", daemon=True).start()
                note_own()
            elif count < CUTS_SHORT:
                self._write(f"{name}: it is stopping already; once more cuts that short")
            else:
                self._write(f"{name}: cut short; run the same command again to resume")
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
        time.sleep(END_SECONDS)
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
