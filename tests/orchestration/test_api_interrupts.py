"""The Python face: nothing is done at import, and an interrupt of a kernel stops a search as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from commands import environment

from orchestration.api import SearchStopped
from orchestration.interrupts import REMIND_SECONDS, REMINDER
from orchestration.python.work import at_work

pytestmark = pytest.mark.slow

IMPORT = """
import logging, os, signal, sys, threading, warnings
import numpy, pandas, scipy.special  # which have filters for warnings of their own
def state():
    options = {name: pandas.get_option(name) for name in ("display.max_rows", "display.width", "display.max_columns")}
    logs = [(one.level, len(one.handlers)) for one in (logging.getLogger(), logging.getLogger("orchestration"))]
    return [dict(os.environ), os.getcwd(), threading.active_count(), options, logs, list(warnings.filters),
            [signal.getsignal(number) for number in signal.valid_signals()], sys.excepthook, sys.stdout, sys.stderr]
before = state()
import orchestration.api
print(state() == before, sorted({"torch", "timm", "ray", "optuna", "sklearn", "IPython", "typer"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_importing_it_changes_nothing_and_loads_nothing_heavy(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert (ended.stdout.strip(), ended.stderr) == ("True []", "") and list(tmp_path.iterdir()) == []


def nothing(_: str) -> None:
    """Says it to nobody."""


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_interrupt_is_raised_and_handlers_come_back() -> None:
    before, said = [signal.getsignal(number) for number in (signal.SIGINT, REMINDER)], list[str]()

    def work() -> None:
        press()
        threading.Event().wait(60)

    with pytest.raises(SearchStopped, match="run the same again to resume"):
        at_work(said.append, work)
    assert [signal.getsignal(number) for number in (signal.SIGINT, REMINDER)] == before
    assert said == ["Ctrl-C: stopping; what was finished is kept"]
    assert at_work(nothing, lambda: 3) == 3


def test_an_interrupt_that_is_swallowed_comes_again() -> None:
    def work() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            press()
        threading.Event().wait(60)
        pytest.fail("the interrupt was lost")

    with pytest.raises(SearchStopped):
        at_work(nothing, work)


def test_an_end_in_order_is_not_torn_by_a_second_one() -> None:
    ended = []

    def work() -> None:
        try:
            press()
        finally:
            press()
            threading.Event().wait(3 * REMIND_SECONDS)
            try:
                raise ValueError
            except ValueError:
                threading.Event().wait(2 * REMIND_SECONDS)
            ended.append(True)

    with pytest.raises(SearchStopped):
        at_work(nothing, work)
    assert ended


def test_a_third_interrupt_cuts_the_end_short() -> None:
    def work() -> None:
        try:
            press()
        finally:
            press()
            press()
            pytest.fail("it went on")

    with pytest.raises(SearchStopped):
        at_work(nothing, work)


def test_every_moment_has_an_owner() -> None:
    """An interrupt before each line of the mechanism is raised, and the handler of before comes back."""
    before, moment, pressed = signal.getsignal(signal.SIGINT), 0, True
    while pressed:
        pressed, left = False, moment

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal pressed, left
            if event == "line" and Path(frame.f_code.co_filename).name == "work.py":
                if left == 0 and not pressed:
                    pressed = True
                    press()
                left -= 1
            return trace

        ended = None
        sys.settrace(trace)
        try:
            ended = at_work(nothing, lambda: "ended")
        except KeyboardInterrupt:
            ended = "stopped"
        finally:
            sys.settrace(None)
        assert signal.getsignal(signal.SIGINT) is before
        assert ended == ("stopped" if pressed else "ended"), f"line {moment} of the mechanism"
        moment += 1
    assert moment > 20


def test_beside_the_main_thread_signals_stay_as_they_are() -> None:
    before, found = signal.getsignal(signal.SIGINT), list[Any]()

    def look() -> None:
        at_work(nothing, lambda: found.append(signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
