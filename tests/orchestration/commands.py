"""One command of the real command line in a process of its own, as a user has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "BIOMASS_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}


def biomass(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestration", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(cwd))
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result
