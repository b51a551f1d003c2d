"""The command line as a whole: help, run order, completion, JSON, and what a terminal of any kind gets."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from commands import ROOT, biomass, environment
from rich.text import Text
from typer.main import get_command

from orchestration.cli import PIPELINE, app
from orchestration.commands import complete
from orchestration.commands.options import plain

pytestmark = pytest.mark.slow


def commands_of(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, by its words on the command line."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands_of(get_command(app)))


def test_help_shows_the_pipeline_in_run_order(tmp_path: Path) -> None:
    text = biomass("--help", cwd=tmp_path).stdout
    named = re.findall(r"^│ ([a-z][a-z-]*) {2,}\S", text, flags=re.MULTILINE)
    order = ["demo", "presets", "weights", "data", "doctor", "space", "search", "status", "dashboard"]
    order += ["leaderboard", "show", "report", "audit", "repair", "refit", "replay", "explain"]
    order += ["ensemble", "exam", "submission", "export", "trace"]
    assert named == [*order, "score", "predict", "serve", "next", "learning-curve"]
    places = [text.index(f"─ {panel} ─") for panel in PIPELINE]
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= 80
    assert all(code in text for code in ("0 done", "1 bad input", "2 wrong usage", "70 a bug", "130 stopped"))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_examples_and_they_are_of_commands_and_options_that_exist(words: tuple[str, ...]) -> None:
    text = COMMANDS[words].help
    assert max(map(len, text.splitlines())) <= 80
    examples = re.findall(r"^\$ biomass ((?:.|\\\n)+)$", text, flags=re.MULTILINE)
    assert any(tuple(example.split()[: len(words)]) == words for example in examples)
    for example in examples:
        typed = example.split(" | ")[0].replace("\\\n", " ").split()
        command = next(command for path, command in COMMANDS.items() if tuple(typed[: len(path)]) == path)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in typed if word.startswith("--")} <= known


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_word_of_a_help_text_is_read_as_markup(words: tuple[str, ...]) -> None:
    """Help pages are rendered as markup: a unit in brackets would vanish from them."""
    for one in COMMANDS[words].params:
        assert Text.from_markup(one.help or "").plain == (one.help or ""), one.name


def test_commands_that_print_a_table_or_list_have_json() -> None:
    wanted = "data check, doctor, status, leaderboard, audit, replay, explain, ensemble, submission check, score"
    wanted += ", refit, trace, dashboard, demo, space, show"
    for words in [*wanted.split(", "), "presets"]:
        assert any("--json" in parameter.opts for parameter in COMMANDS[tuple(words.split())].params), words
        assert f"| `{words}` |" in (ROOT / "docs" / "commands.md").read_text(), words


def test_help_pages_fit_80_columns_and_show_the_example(tmp_path: Path) -> None:
    for words in (("search",), ("ensemble",)):
        text = biomass(*words, "--help", cwd=tmp_path).stdout
        assert max(map(len, text.splitlines())) <= 80
        assert f"$ biomass {' '.join(words)} " in text and "Exam" in text


# -- completion -------------------------------------------------------------------------------------------------------


def completed(line: str, folder: Path) -> list[str]:
    """What the Tab key offers at the end of a line."""
    asked = {"_BIOMASS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    code = "from orchestration.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**environment(folder), **asked}
    ).stdout.split()


@pytest.mark.parametrize(
    "line, offered",
    [
        ("biomass sea", ["search"]),
        ("biomass search s --fam", ["--family"]),
        ("biomass search s --family d", ["density", "distilled"]),
        ("biomass search s --preset kag", ["kaggle_single_gpu", "kaggle_t4x2"]),
    ],
)
def test_completion_in_a_shell(line: str, offered: list[str], tmp_path: Path) -> None:
    assert completed(line, tmp_path) == offered


def test_names_are_completed_without_torch() -> None:
    code = (
        "import sys; from orchestration.commands import complete as c\n"
        "for names in (c.families, c.backbones, c.scales, c.schemes, c.prune_rules, c.blend_rules, c.follow_ups,\n"
        "              c.presets, c.weights): assert names('') and not names('?'), names\n"
        "print(sorted({'torch', 'ray', 'timm', 'optuna'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
    assert "file" not in complete.schemes("")  # is --fold-file's


# -- output -----------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    name: str
    value: float


@dataclass(frozen=True)
class Thing:
    pairs: tuple[Pair, ...]
    path: Path
    grid: Any


def test_what_json_gets_is_plain() -> None:
    thing = Thing((Pair("a", float("nan")),), Path("x"), np.array([[1.0, np.inf]], dtype=np.float32))
    assert plain(thing) == {"pairs": [{"name": "a", "value": None}], "path": "x", "grid": [[1.0, None]]}
    counts = {"n": np.int64(3), "yes": np.bool_(True), "none": None}
    assert plain(counts) == {"n": 3, "yes": True, "none": None} and type(plain(counts)["n"]) is int
    json.dumps(plain(thing), allow_nan=False)


def test_a_json_run_has_one_document_on_standard_output(tmp_path: Path, tiny_pasture: Path) -> None:
    result = biomass("data", "check", str(tiny_pasture), "--json", cwd=tmp_path)
    assert json.loads(result.stdout) == {"directory": str(tiny_pasture), "errors": 0, "warnings": 0, "problems": []}
    assert "Checking images 30/30" in result.stderr and "\x1b" not in result.stderr  # lines where there is no terminal


def on_a_terminal(*arguments: str, folder: Path, **variables: str) -> str:
    """What a command writes to a terminal of 80 columns."""
    shown, terminal = pty.openpty()
    command = [sys.executable, "-m", "orchestration", *arguments]
    environ = {name: value for name, value in environment(folder).items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        command, cwd=folder, env={**environ, "TERM": "xterm-256color", **variables}, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    text = b""
    while True:
        try:
            part = os.read(shown, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
    os.close(shown)
    process.wait()
    return text.decode()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*3[0-7](?:;\d+)*m")


def test_colours_and_bars_are_for_terminals_that_can(tmp_path: Path, tiny_pasture: Path) -> None:
    check = ("data", "check", str(tiny_pasture))
    assert "\x1b[2K" in on_a_terminal(*check, folder=tmp_path)  # a bar that redraws its line
    assert "\x1b" not in on_a_terminal(*check, folder=tmp_path, TERM="dumb")
    assert COLOUR.search(on_a_terminal("status", "gone", folder=tmp_path))
    assert not COLOUR.search(on_a_terminal("status", "gone", folder=tmp_path, NO_COLOR="1"))
