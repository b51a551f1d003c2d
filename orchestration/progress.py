"""Progress that people see: one line with elapsed and remaining time on a terminal or in a notebook, plain lines
elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from biomass_models.visible import visible
from orchestration.terminal import PlainConsole
from orchestration.time_left import count_down
from orchestration.verbosity import is_quiet

Say = Callable[[str], None]  # prints a remark for people; every parameter `say` is one
LINE_SECONDS = 10.0  # between two lines where there is no terminal
CELL_SECONDS = 1.0  # between two states of the line below a notebook's cell
SHORTEST_BAR = 6  # characters; below it shows nothing


class Update(Protocol):
    """Takes the state of the work."""

    def __call__(self, done: int, total: int | None, notes: Sequence[str] = (), left: float | None = None) -> None:
        """total: None where the end is not known; notes: what else is known, the most important first; left: seconds,
        where they are known better than from the pace of `done`."""


@contextmanager
def progress_bar(label: str, console: Console | None = None) -> Iterator[Update]:
    """Yield what takes the state of the work."""
    console = console or PlainConsole(stderr=True)
    if is_quiet():
        yield _Work(label).take
    elif console.is_jupyter:
        cell = _Cell(label)
        try:
            yield cell.take
        finally:
            cell.show()
    elif console.is_interactive and console.file.isatty():  # can redraw a line: no pipe (FORCE_COLOR or not), not dumb
        line = _Line(label)
        with Live(line, console=console):
            yield line.take
    else:
        yield _Lines(label, console).take


class _Work:
    """What a bar knows of its work."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.begin = self.advanced = time.monotonic()
        self.done = 0
        self.total: int | None = None
        self.notes: Sequence[str] = ()
        self._first: int | None = None  # done already when the bar began
        self._left: float | None = None

    def take(self, done: int, total: int | None, notes: Sequence[str] = (), left: float | None = None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if done != self.done:
            self.advanced = now
        self.done, self.total, self.notes, self._left = done, total, notes, left

    @property
    def count(self) -> str:
        return f"{self.done}" + (f"/{self.total}" if self.total is not None else "")

    @property
    def text(self) -> str:
        """As a line of its own."""
        elapsed, remaining = self.times()
        times = f"{elapsed} elapsed" + (f", {remaining} left" if remaining else "")
        return " ".join([self.label, *self.notes, f"{self.count}, {times}"])

    def times(self) -> tuple[str, str | None]:
        """Elapsed, and what is left where that can be said."""
        now, ends = time.monotonic(), self.total is not None and self.done >= self.total
        left, new = self._left, self.done - (self._first or 0)
        if left is None and self.total is not None and new > 0:
            left = count_down((self.advanced - self.begin) / new, self.total - self.done, now - self.advanced)
        return clock(now - self.begin), clock(left) if left is not None and not ends else None


def clock(seconds: float) -> str:
    """As 1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def fitted(label: str, notes: Sequence[str], end: str, width: int) -> tuple[str, int]:
    """What a line of so many characters shows before its end: the text, and the length of the bar.

    The least important goes first: the bar, notes from the last, the label. The end, count and times, stays.
    """
    for many in range(len(notes), -1, -1):
        text = " ".join([label, *notes[:many]])
        free = width - len(text) - len(end) - 1
        if free >= 0:
            return text, free - 1 if free > SHORTEST_BAR else 0
    return "", 0


class _Line(_Work):
    """One line of a terminal, drawn again and again; never wider than the terminal is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        elapsed, left = self.times()
        end = f"{self.count} {elapsed}" + (f" < {left}" if left else "")
        text, bar = fitted(self.label, self.notes, end, options.max_width)
        line = Text(text, no_wrap=True, overflow="crop", end="")
        if bar and self.total:
            full = round(bar * min(1.0, self.done / self.total))
            line.append(" ").append("━" * full, "bar.complete").append("━" * (bar - full), "bar.back")
        yield line.append(f" {end}" if text else end)


class _Lines(_Work):
    """A line every few seconds, and one at the end."""

    def __init__(self, label: str, console: Console) -> None:
        super().__init__(label)
        self._console = console
        self._written = self.begin
        self._ended = False

    def take(self, done: int, total: int | None, notes: Sequence[str] = (), left: float | None = None) -> None:
        super().take(done, total, notes, left)
        now = time.monotonic()
        ends = total is not None and done >= total and not self._ended
        if not ends and now - self._written < LINE_SECONDS:
            return
        self._written, self._ended = now, self._ended or ends
        self._console.print(self.text)


class _Cell(_Work):
    """One line below a notebook's cell, replaced again and again; nothing before there is work."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._handle: Any = None
        self._shown = -CELL_SECONDS

    def take(self, done: int, total: int | None, notes: Sequence[str] = (), left: float | None = None) -> None:
        super().take(done, total, notes, left)
        if time.monotonic() - self._shown >= CELL_SECONDS:
            self.show()

    def show(self) -> None:
        """The state of now. A text, which is all that pages of stored notebooks keep, and a bar before it."""
        if self._first is None:
            return
        from IPython.display import display

        self._shown, text = time.monotonic(), visible(self.text)
        bar = f'<progress value="{self.done}" max="{self.total}"></progress> ' if self.total else ""
        content = {"text/plain": text, "text/html": f"<div>{bar}{escape(text)}</div>"}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
