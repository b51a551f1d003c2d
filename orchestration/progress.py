"""Progress that people see: a bar with elapsed and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from orchestration.terminal import PlainConsole

LINE_SECONDS = 10.0  # between two lines where there is no terminal

Update = Callable[[int, int | None, str], None]  # (done, total, note)


@contextmanager
def progress_bar(label: str, console: Console | None = None) -> Iterator[Update]:
    """Yield `update(done, total, note)`; total None means that the end is not known yet."""
    console = console or PlainConsole(stderr=True)
    if console.is_interactive and console.file.isatty():  # can redraw a line: no pipe (FORCE_COLOR or not), not dumb
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, expand=True) as bars:
            task = bars.add_task(label, total=None)

            def draw(done: int, total: int | None, note: str = "") -> None:
                bars.update(task, completed=done, total=total, description=f"{label} {note}".rstrip())

            yield draw
        return
    yield _Lines(label, console)


class _Lines:
    """A line every few seconds, and one at the end."""

    def __init__(self, label: str, console: Console) -> None:
        self._label, self._console = label, console
        self._started = self._last = time.monotonic()
        self._ended = False

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        now = time.monotonic()
        ends = total is not None and done >= total and not self._ended
        if not ends and now - self._last < LINE_SECONDS:
            return
        self._last, self._ended = now, self._ended or ends
        elapsed = now - self._started
        left = f", {_clock(elapsed * (total - done) / done)} left" if total and 0 < done < total else ""
        of = f"/{total}" if total is not None else ""
        self._console.print(f"{self._label} {note} {done}{of}, {_clock(elapsed)} elapsed{left}".replace("  ", " "))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
