"""A command that serves pages, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(
    command_name: str, study: Path | str, folder: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The process and the addresses that it printed; `folder` is its TMPDIR and holds its log."""
    folder.mkdir()
    command = [sys.executable, "-m", "orchestration", command_name, str(study), "--json", *options]
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
    assert process.stdout is not None
    try:
        said = "".join(iter(process.stdout.readline, "}\n"))  # it goes on running: the document ends with its brace
        assert said, (folder / "log").read_text()
        yield process, json.loads(said + "}")
    finally:
        process.kill()
        process.wait()
