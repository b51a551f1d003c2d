"""What a study or a data directory holds is shown, and steers neither terminal nor page."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from told_study import told_study
from typer.testing import CliRunner

from biomass_models.visible import visible
from orchestration.cli import app
from orchestration.commands.errors import run_guarded
from orchestration.endings import explained
from orchestration.report.html import embed_json, tag
from orchestration.terminal import PlainConsole

ESCAPE, CSI, OVERRIDE = "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\u202egnp.exe\u2066"
HOSTILE = f"fold 0: {ESCAPE}{CSI}{OVERRIDE}\r\x08[/red] :boom: <script>alert(1)</script>"
STEERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def steers(text: str) -> list[str]:
    """Characters of a text that a terminal or a browser would obey."""
    return [
        char
        for char in text
        if (unicodedata.category(char) == "Cc" and char not in "\n\t") or unicodedata.bidirectional(char) in STEERING
    ]


@pytest.mark.slow
@given(st.text())
def test_only_steering_characters_change_and_none_is_left(text: str) -> None:
    shown = visible(text)
    assert not steers(shown) and visible(shown) == shown
    if not steers(text) and text.isascii():
        assert shown == text


def test_every_character_that_steers_is_escaped() -> None:
    every = "".join(map(chr, range(0x11_0000)))
    assert steers(every) and not steers(visible(every))
    assert visible("Grünes Gras, 草, 👩‍🌾\t1\n") == "Grünes Gras, 草, 👩‍🌾\t1\n"
    assert visible("\x1b[2J \u202e") == "\\x1b[2J \\u202e"


def test_a_console_keeps_its_own_colours_and_escapes_texts(capsys: pytest.CaptureFixture[str]) -> None:
    console = PlainConsole(force_terminal=True, color_system="standard", width=80)
    console.print(Text(HOSTILE, style="red"))
    console.print(HOSTILE, style="red")
    shown = capsys.readouterr().out
    assert shown.startswith("\x1b[31m") and "\x1b[2J" not in shown and "\x07" not in shown and "\x9b" not in shown
    assert "[/red] :boom:" in shown.replace("\n", " ")


COMMANDS = ("status", "leaderboard", "audit", "replay")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_reason_is_shown_escaped_by_every_command(command: str, tmp_path: Path) -> None:
    statuses = ("complete", "complete", "failed", *(["pruned"] if command != "replay" else []))
    told_study(tmp_path / "study", statuses=statuses, reason=HOSTILE)
    plain = CliRunner().invoke(app, [command, str(tmp_path / "study")])
    assert plain.exit_code in (0, 1), plain.exception
    assert not steers(plain.output)
    if command in ("status", "leaderboard"):
        assert "\\x1b" in plain.output
        document = CliRunner().invoke(app, [command, str(tmp_path / "study"), "--json"]).stdout
        assert json.dumps(HOSTILE) in document  # JSON stays JSON: programs get what is there


def test_hostile_names_in_messages_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = told_study(tmp_path / "study")
    (tmp_path / "train.csv").touch()
    failed = CliRunner().invoke(app, ["refit", ledger.storage.uri, f"3f{ESCAPE}", "--data", str(tmp_path)])
    assert failed.exception is not None and ESCAPE in explained(failed.exception)[0]
    assert not steers(failed.output)  # its remark; the message itself goes through run_guarded
    monkeypatch.setattr("sys.argv", ["biomass", "refit", ledger.storage.uri, f"3f{ESCAPE}", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        run_guarded(app)
    shown = capsys.readouterr().err
    assert left.value.code == 1 and not steers(shown) and "3f\\x1b[2J" in shown


@pytest.mark.slow
def test_a_hostile_text_in_a_report_is_escaped(tmp_path: Path) -> None:
    told_study(tmp_path / "study", statuses=("complete",) * 4 + ("failed",), reason=HOSTILE, species=f"Rye{ESCAPE}")
    page = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", str(tmp_path / "study"), "--out", str(page)])
    assert done.exit_code == 0, done.exception
    text = page.read_text(encoding="utf-8")
    ours = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not steers(ours) and "<script>alert" not in ours and "\\x1b[2J" in ours


def test_markup_and_drawings_of_a_page_are_escaped() -> None:
    assert tag("p", HOSTILE, title=HOSTILE).count("\\x1b[2J") == 2 and not steers(tag("p", HOSTILE))
    drawn = json.loads(embed_json({"data": {"values": [{HOSTILE: HOSTILE}]}}))
    ((key, value),) = drawn["data"]["values"][0].items()
    assert not steers(key) and not steers(value) and "\\x1b[2J" in value
