"""The live line fits its terminal and keeps count and time; the time that is left is one estimate."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from commands import ROOT
from hypothesis import given
from hypothesis import strategies as st

from orchestration.progress import SHORTEST_BAR, clock, fitted
from orchestration.time_left import count_down, seconds_left

NOTES = ["best 0.712", "2 failed", "encoding 64/384", "folds 12/2/40", "blend 0.731", "3 pruned", "busy 97 %", "live 3"]
END = "12/300 1:02:03 < 21:45:10"

# -- time left ---------------------------------------------------------------------------------------------------------


def test_time_left_by_hand() -> None:
    assert seconds_left([], 10, since=0.0, slots=2, now=50.0) is None
    assert seconds_left([100.0], 3, since=0.0, slots=2, now=100.0) == 300.0
    # two slots: 160 s until two had ended together (features), then one in 10 s
    ended = [160.0, 160.0, 170.0, 180.0, 190.0, 200.0]
    assert seconds_left(ended[:3], 10, since=0.0, slots=2, now=170.0) == pytest.approx(10 * 170 / 3)
    assert seconds_left(ended, 10, since=0.0, slots=2, now=200.0) == pytest.approx(100.0)
    assert seconds_left(ended, 10, since=0.0, slots=2, now=204.0) == pytest.approx(96.0)
    assert seconds_left(ended, 0, since=0.0, slots=2, now=204.0) == 0.0


def test_a_resumed_search_counts_its_own_trials_only() -> None:
    yesterday = [float(second) for second in range(300)]
    assert seconds_left(yesterday, 10, since=86_400.0, slots=2, now=86_500.0) is None
    assert seconds_left([*yesterday, 86_500.0], 10, since=86_400.0, slots=2, now=86_500.0) == 1000.0


moments = st.lists(st.floats(0, 1e5), min_size=1, max_size=30)


@given(moments, st.integers(1, 1000), st.integers(1, 8), st.floats(0, 1e6), st.floats(0, 1e6))
def test_silence_makes_no_estimate_grow(ended: list[float], missing: int, slots: int, one: float, more: float) -> None:
    now = max(ended) + one
    before = seconds_left(ended, missing, since=0.0, slots=slots, now=now)
    after = seconds_left(ended, missing, since=0.0, slots=slots, now=now + more)
    assert before is not None and after is not None and 0.0 <= after <= before


@given(st.floats(0, 1e4), st.integers(1, 1000), st.floats(0, 1e4))
def test_a_count_down_falls_by_one_at_most(each: float, missing: int, silent: float) -> None:
    assert each * (missing - 1) <= count_down(each, missing, silent) * (1 + 1e-9) + 1e-9
    assert count_down(each, missing, silent) <= each * missing


# -- the line ----------------------------------------------------------------------------------------------------------


def test_what_lines_of_80_and_60_columns_show() -> None:
    assert fitted("Search", NOTES, END, 80) == ("Search best 0.712 2 failed encoding 64/384", 11)
    assert fitted("Search", NOTES, END, 60) == ("Search best 0.712 2 failed", 7)
    assert fitted("Search", NOTES, END, 20) == ("", 0)
    assert fitted("Checking data", [], "3/30 0:01 < 0:09", 80) == ("Checking data", 49)


@given(st.lists(st.text("abc 0", min_size=1, max_size=20), max_size=9), st.integers(1, 200))
def test_a_line_is_never_wider_and_drops_the_least_important_first(notes: list[str], width: int) -> None:
    text, bar = fitted("Search", notes, END, width)
    assert bar == 0 or bar >= SHORTEST_BAR
    if not text:
        assert width < len("Search ") + len(END)
        return
    assert len(text) + (1 + bar if bar else 0) + 1 + len(END) <= width
    kept = next(count for count in range(len(notes), -1, -1) if text == " ".join(["Search", *notes[:count]]))
    if kept < len(notes):
        assert len(f"{text} {notes[kept]} {END}") > width


def test_clocks() -> None:
    assert [clock(seconds) for seconds in (0, 65, 3599.6, 7384)] == ["0:00", "1:05", "1:00:00", "2:03:04"]


SHOWN = """
import sys
from orchestration.progress import progress_bar
with progress_bar("Search") as update:
    for done in range(4):
        update(done, 300, sys.argv[1:], 78310.0)
"""


def screen(written: str, columns: int) -> list[str]:
    """Lines of a terminal after what was written to it: carriage return, new line, erased line, cursor up."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]", written):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif re.fullmatch(r"\x1b\[\d*A", piece):
            row = max(0, row - int(piece[2:-1] or 1))
        elif not piece.startswith("\x1b"):
            if column == columns:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "last_note"), [(80, "encoding 64/384"), (60, "2 failed")])
def test_a_terminal_shows_one_line_with_count_and_time(tmp_path: Path, columns: int, last_note: str) -> None:
    shown, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    outside = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    environ = {name: value for name, value in os.environ.items() if name not in outside}
    process = subprocess.Popen(
        [sys.executable, "-c", SHOWN, *NOTES],
        env={**environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    written = b""
    try:
        while part := os.read(shown, 65536):
            written += part
    except OSError:  # the other end is closed
        pass
    os.close(shown)
    assert process.wait() == 0
    [line] = screen(written.decode(), columns)
    assert len(line) <= columns and line.startswith("Search best 0.712") and last_note in line
    assert re.search(r" 3/300 0:0\d < 21:45:10$", line), line
