"""A `biomass search` in a process of its own that tests end, and what it says, with the time of every line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from commands import biomass, environment

from orchestration.processes import Process, command_of, descendants, kill, running

PATIENCE = 200.0  # seconds for what must happen, on a machine that others use as well


def search_command(data: Path, study: str = "study", trials: int = 400) -> list[str]:
    """A search that lasts longer than any test, unless with fewer trials."""
    ranges = ["--family", "probe", "--backbone", "test_vit", "--weights", "random", "--scale", "smoke"]
    return ["search", study, "--data", str(data), *ranges, "--trials", str(trials), "--folds", "3", "--slots", "2"]


class Running:
    """A command under way, in a session of its own as a terminal has it. A context: nothing of it stays."""

    def __init__(
        self,
        command: list[str],
        cwd: Path,
        *,
        program: Sequence[str] = ("-m", "orchestration"),
        ignored: signal.Signals | None = None,
        **variables: str,
    ) -> None:
        """command: of biomass, or of another Python program. ignored: what the parent ignores, as nohup does."""
        before = signal.signal(ignored, signal.SIG_IGN) if ignored else None
        try:
            self._process = subprocess.Popen(
                [sys.executable, *program, *command],
                cwd=cwd,
                env={**environment(cwd), "PYTHONUNBUFFERED": "1", **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        finally:
            if ignored:
                signal.signal(ignored, before)
        self.pid = self._process.pid
        self._family: set[Process] = set()
        self._lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        kill(self.family() | running({process for process in descendants(os.getpid()) if process.pid == self.pid}))
        self._process.wait()

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self._lines)

    def family(self) -> set[Process]:
        """Its processes, those that were seen earlier included."""
        self._family |= descendants(self.pid)
        return self._family

    def processes_of(self, program: str) -> list[int]:
        """Ids of those whose program (first word of the command) ends so."""
        return [one.pid for one in self.family() if command_of(one.pid).split(" ")[0].endswith(program)]

    def until(self, true: Callable[[], object], every: float = 0.05) -> None:
        """Wait; AssertionError with what it has said when it ends before, or when that takes too long."""
        end = time.monotonic() + PATIENCE
        while not true():
            assert self._process.poll() is None and time.monotonic() < end, self.text
            time.sleep(every)

    def handles(self, number: signal.Signals) -> bool:
        """Whether a handler of its own is installed."""
        line = next(line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if "SigCgt" in line)
        return bool(int(line.split()[1], 16) >> (number - 1) & 1)

    def send(self, number: signal.Signals, *, group: bool = False) -> float:
        """Send a signal to it, or to its group as a terminal does; returns when."""
        self.family()
        now = time.monotonic()
        (os.killpg if group else os.kill)(self.pid, number)
        return now

    def said(self, words: str) -> float:
        """When it first said so."""
        return next(moment for moment, line in self._lines if words in line)

    def end(self, seconds: float) -> int:
        """Wait for its end; returns the exit code."""
        code = self._process.wait(timeout=seconds)
        self._reader.join()
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append((time.monotonic(), line.rstrip("\n")))


def status_of(study: str, cwd: Path) -> dict[str, object]:
    return json.loads(biomass("status", study, "--json", cwd=cwd).stdout)
