"""Processes of a search under test: finding them, killing one, seeing all of them end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from orchestration import processes
from orchestration.processes import command_of

PATIENCE = 600.0  # seconds for anything that must happen, on a machine that others use as well


class CampaignError(AssertionError):
    """Something was lost, repeated or left behind."""


def descendants(pid: int) -> set[int]:
    """Processes that a process started, and those that they started."""
    return {process.pid for process in processes.descendants(pid)}


def raylets(family: set[int]) -> list[int]:
    return [pid for pid in family if "raylet/raylet" in command_of(pid).split(" ")[0]]


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_of(family: set[int]) -> None:
    """Ray takes its processes down within seconds; what is still there then would disturb the next run."""
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in family:
        if alive(pid):
            kill(pid)


def alive(pid: int) -> bool:
    """Whether a process of Ray or ours still has this id (ids are used again)."""
    command = command_of(pid)
    return "ray" in command or "orchestration" in command


def wait_for(true: Callable[[], bool], otherwise: str, every: float = 0.02) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise CampaignError(f"{otherwise} within {PATIENCE:.0f} s")
        time.sleep(every)
