"""Commands as a user has them, in a process of their own or in this one, and what their pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

from typer.testing import CliRunner

from orchestration.cli import app

ROOT = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "BIOMASS_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}


def biomass(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestration", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(cwd))
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def output(*arguments: str) -> str:
    """What a command that succeeds prints on standard output."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def words_of(page: str) -> str:
    """A page of HTML or of text as one line of words."""
    bare = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def refused(*words: str) -> str:
    """The message with which a command ends."""
    result = CliRunner().invoke(app, list(words))
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)
