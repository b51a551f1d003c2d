"""How commands end by signals: what they say, how soon, with which exit code, and that nothing of them stays."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, Signals

import pytest
from commands import biomass, environment
from running_search import Running, search_command, status_of

from biomass_models.counted import counted
from orchestration.interrupts import AGAIN, REMIND_SECONDS, RESUMES
from orchestration.processes import running
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage

ACKNOWLEDGED, ENDED = 1.0, 15.0  # seconds: the requirement
NAMES = {SIGINT: "Ctrl-C", SIGTERM: "SIGTERM", SIGHUP: "SIGHUP"}


def check_end(command: Running, number: Signals, sent: float) -> None:
    """It was acknowledged at once, ended soon with the signal's own exit code, and left nobody behind."""
    code = command.end(ENDED)
    took = time.monotonic() - sent
    assert code == 128 + number, command.text
    assert command.said(f"{NAMES[number]}: stopping") - sent < ACKNOWLEDGED and took < ENDED, command.text
    assert not running(command.family())
    assert AGAIN in command.text and "Traceback" not in command.text and "***" not in command.text


def in_order(ending: Running) -> None:
    ending.until(lambda: ending.handles(SIGTERM), every=0.001)


MOMENTS = {  # when a signal may come
    "imports": in_order,
    "Ray starts": lambda search: search.until(lambda: search.processes_of("gcs_server"), every=0.005),
    "Ray has a raylet": lambda search: search.until(lambda: search.processes_of("raylet"), every=0.005),
    "workers start": lambda search: search.until(lambda: "slots;" in search.text),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Here all searches below go on with one study."""
    return tmp_path_factory.mktemp("endings")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "group"),
    [
        (SIGTERM, False),  # Kubernetes, docker, `ray job stop`
        pytest.param(SIGTERM, True, marks=pytest.mark.long),  # timeout, Slurm: Ray's processes get it as well
        pytest.param(SIGHUP, False, marks=pytest.mark.long),
        pytest.param(SIGHUP, True, marks=pytest.mark.long),  # a terminal that is closed
        pytest.param(SIGINT, True, marks=pytest.mark.long),  # a terminal's Ctrl-C
    ],
)
def test_a_search_ends_in_order_and_goes_on(folder: Path, tiny_pasture: Path, number: Signals, group: bool) -> None:
    ledger = Ledger(Storage(folder / "study"))
    before = set(ledger.results())
    with Running(search_command(tiny_pasture), folder) as search:
        search.until(lambda: len(ledger.results()) > len(before))
        check_end(search, number, search.send(number, group=group))
        assert search.text.splitlines()[-1] == f"Stopped. What was finished is kept; {RESUMES}."
        assert f"{counted(len(before), 'trial has', 'trials have')} ended already" in search.text
    after = ledger.results()
    assert before < set(after) and all(result.status == "complete" for result in after.values())
    status = status_of("study", folder)
    assert status["running"] is False and status["driver"] == "no search is running"
    assert status["trials"] == {
        "complete": len(after),
        "pruned": 0,
        "failed": 0,
        "refused": 0,
        "open": len(ledger.trials()) - len(after),
    }


@pytest.mark.ray
@pytest.mark.long
def test_hours_that_are_over_are_an_end_of_their_own(folder: Path, tiny_pasture: Path) -> None:
    ledger = Ledger(Storage(folder / "study"))
    if not ledger.results():  # this test alone
        with Running(search_command(tiny_pasture), folder) as search:
            search.until(ledger.results)
            check_end(search, SIGTERM, search.send(SIGTERM))
    ended = len(ledger.results())
    waiting = len(ledger.trials()) - ended
    result = biomass(*search_command(tiny_pasture), "--hours", "0", cwd=folder)
    waits = f", {counted(waiting, 'open one waits', 'open ones wait')}" if waiting else ""
    over = counted(ended, "trial has ended", "trials have ended")
    assert f"The hours are over: {over}{waits}; run the same command again" in result.stdout
    assert "Stopped" not in result.stdout + result.stderr and "Next: biomass leaderboard" in result.stdout
    assert len(ledger.results()) == ended and len(ledger.trials()) == ended + waiting


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_may_come_at_any_moment(folder: Path, tiny_pasture: Path, moment: str) -> None:
    with Running(search_command(tiny_pasture), folder) as search:
        MOMENTS[moment](search)
        check_end(search, SIGTERM, search.send(SIGTERM))


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("times", [2, 3])
def test_more_signals_leave_nobody_behind_either(folder: Path, tiny_pasture: Path, times: int) -> None:
    ledger = Ledger(Storage(folder / "study"))
    with Running(search_command(tiny_pasture), folder) as search:
        search.until(lambda: ledger.results() and search.processes_of("ray::SlotWorker.run"))
        sent = search.send(SIGTERM)
        search.until(lambda: "SIGTERM: stopping" in search.text, every=0.001)
        search.send(SIGINT)
        search.until(lambda: "Ctrl-C: it is stopping already" in search.text, every=0.001)
        if times == 3:
            search.send(SIGTERM)
        check_end(search, SIGTERM, sent)
        assert ("cut short" in search.text) == (times == 3)


@pytest.mark.slow
@pytest.mark.parametrize("number", NAMES)
def test_any_command_ends_by_any_of_the_signals(tmp_path: Path, number: Signals) -> None:
    with Running(["data", "make", "pasture", "--images", "5000"], tmp_path) as command:
        command.until(lambda: list(tmp_path.rglob("*.jpg")))
        check_end(command, number, command.send(number))
        assert command.text.splitlines()[-1] == "Stopped; run the same command again."  # nothing of it is kept


@pytest.mark.slow
def test_nohup_stays_nohup(tmp_path: Path) -> None:
    with Running(["data", "make", "pasture", "--images", "5000"], tmp_path, ignored=SIGHUP) as command:
        command.until(lambda: list(tmp_path.rglob("*.jpg")))
        command.send(SIGHUP)
        drawn = len(list(tmp_path.rglob("*.jpg")))
        command.until(lambda: len(list(tmp_path.rglob("*.jpg"))) > drawn + 3)
        assert "SIGHUP" not in command.text
        check_end(command, SIGTERM, command.send(SIGTERM))


SWALLOWS = f"""
import contextlib, signal, sys, time
from orchestration.commands.errors import run_guarded
from orchestration.interrupts import until_signal

def search():
    with contextlib.suppress(KeyboardInterrupt):  # as `hasattr` does in C
        signal.raise_signal(signal.SIGINT)
    time.sleep(60)
    print("lost")

def serve():
    until_signal(search)
    signal.raise_signal(signal.SIGTERM)  # a second one
    time.sleep({3 * REMIND_SECONDS})
    print("ended in order")

run_guarded({{"search": search, "serve": serve}}[sys.argv[1]])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("command", "code", "said"), [("search", 130, ""), ("serve", 0, "ended in order\n")])
def test_a_signal_that_is_swallowed_comes_again(tmp_path: Path, command: str, code: int, said: str) -> None:
    """Once: neither a second one nor its own reminders tear the end of a server."""
    words = [sys.executable, "-c", SWALLOWS, command]
    ended = subprocess.run(words, env=environment(tmp_path), capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stdout) == (code, said), ended.stderr
    assert ended.stderr.startswith("Ctrl-C: stopping, within 12 s; run the same command again\n")
    assert ("already" in ended.stderr) == (command == "serve") and "Traceback" not in ended.stderr
