"""Processes that a process has started, and their end. Light to import."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LOOK_SECONDS = 0.02  # between two looks at whether processes have ended


class Process(NamedTuple):
    """One process; ids are used again, so that its birth tells it from a later one."""

    pid: int
    born: str


started: set[Process] = set()  # by this process, as far as it was noted
marks: set[str] = set()  # NAME=value of variables that only processes have which this one has started


class _Row(NamedTuple):
    process: Process
    parent: int
    ended: bool  # a zombie, which only its parent can take away


def descendants(pid: int) -> set[Process]:
    """Processes that a process started, and those that they started, as long as their parents live."""
    children: dict[int, list[Process]] = {}
    for row in _rows():
        children.setdefault(row.parent, []).append(row.process)
    found, look = set[Process](), [pid]
    while look:
        below = children.get(look.pop(), [])
        found |= set(below)
        look += [process.pid for process in below]
    return found


def marked() -> set[Process]:
    """Processes that began with one of the marks in their environment, also those whose parents have ended.

    A process that its parent started just before it ended has never been seen as a descendant.
    """
    wanted = {mark.encode() for mark in marks}
    return {row.process for row in _rows() if wanted and row.process.pid != os.getpid() and wanted & _entries(row)}


def running(processes: Iterable[Process]) -> set[Process]:
    """Those that have not ended."""
    alive = {row.process for row in _rows() if not row.ended}
    return alive & set(processes)


def kill(processes: Iterable[Process], patience: float = 0.0) -> None:
    """SIGKILL, and up to so many seconds until all have ended."""
    victims = running(processes)
    for process in victims:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGKILL)
    _wait(lambda: not running(victims), patience)


def note_own() -> None:
    """Remember all that this process has started: what loses its parent is not found any more, unless it is marked."""
    started.update(descendants(os.getpid()), marked())


def kill_own(patience: float) -> None:
    """End all that this process has started, within so many seconds."""
    end = time.monotonic() + patience
    while True:
        note_own()
        kill(started)
        if not running(started) or time.monotonic() > end:
            return
        time.sleep(LOOK_SECONDS)


def command_of(pid: int) -> str:
    """Its command line; empty for one that is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "" if _has_proc() else _ps("-p", str(pid), "-o", "args=").strip()


def _wait(true: Callable[[], bool], patience: float) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end and not true():
        time.sleep(LOOK_SECONDS)


def _rows() -> Iterator[_Row]:
    if not _has_proc():
        for line in _ps("-A", "-o", "pid=,ppid=,stat=,lstart=").splitlines():
            pid, parent, state, born = line.split(maxsplit=3)
            yield _Row(Process(int(pid), born), int(parent), state.startswith("Z"))
        return
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):  # no process, or one that has just ended
            number, after_name = int(folder.name), (folder / "stat").read_text().rsplit(")", 1)[1].split()
            yield _Row(Process(number, after_name[19]), int(after_name[1]), after_name[0] in "ZX")


def _entries(row: _Row) -> set[bytes]:
    """NAME=value of each variable with which a process began; none of those of other users."""
    with suppress(OSError):
        return set(Path(f"/proc/{row.process.pid}/environ").read_bytes().split(b"\0"))
    return set()


def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


def _ps(*options: str) -> str:
    return subprocess.run(["ps", *options], capture_output=True, text=True, check=False).stdout
