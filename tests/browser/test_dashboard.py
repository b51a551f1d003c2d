"""`biomass dashboard` as a person uses it: a process of its own, a real browser, Ctrl-C."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import hand_made_study as made
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from served import serving

from orchestration.study.derived.events import write_events
from orchestration.study.ledger import Ledger

ROOT = Path(__file__).parents[2]
PATIENCE = 40  # seconds, on a busy machine


dashboard = partial(serving, "dashboard")


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks at processes through /proc"),
]


@pytest.fixture
def study(tmp_path: Path) -> Ledger:
    ledger = made.empty_study(tmp_path / "study")
    done, failed = made.propose(ledger, 0), made.propose(ledger, 1)
    for fold in range(made.FOLDS):
        made.finish_fold(ledger, done, fold, 0.4 + 0.1 * fold)
    made.complete(ledger, done, 0.512345)
    write_events(ledger, done, {fold: ledger.fold_metrics(done, fold) or {} for fold in range(made.FOLDS)})
    made.fail(ledger, failed, "fold 0: the reason that a reader looks for")
    return ledger


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {PATIENCE} s"
        time.sleep(0.2)


def family_of(process: subprocess.Popen[str]) -> list[int]:
    """The process and its children, from /proc."""
    found = [process.pid]
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"PPid:\t{process.pid}\n" in (folder / "status").read_text():
                found.append(int(folder.name))
    return found


def listening(process: subprocess.Popen[str]) -> set[str]:
    """Addresses on which the process and its children listen, from /proc."""
    sockets = set()
    for member in family_of(process):
        for entry in Path(f"/proc/{member}/fd").iterdir():
            with suppress(OSError):
                sockets.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    found = {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}
    return {socket.inet_ntoa(bytes.fromhex(address)[::-1]) if len(address) == 8 else address for address in found}


def alive(process_id: int) -> bool:
    """Whether a process runs; one that has ended and is not reaped by its parent does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return False


def fetch(address: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=10) as answer:
        return bytes(answer.read())


@pytest.mark.slow
def test_both_pages_show_the_study_and_follow_it(
    study: Ledger, tmp_path: Path, browser: webdriver.Chrome, console_errors: Callable[[], list[str]]
) -> None:
    def text() -> str:
        return browser.find_element(By.TAG_NAME, "body").text

    with dashboard(study.storage.uri, tmp_path / "temporary") as (process, addresses):
        assert listening(process) == {"127.0.0.1"}
        browser.get(addresses["optuna"])
        wait_for(lambda: "probe" in text() and "baseline" in text(), "the families")
        browser.get(addresses["optuna"] + "dashboard/studies/0")
        wait_for(lambda: "weighted R2" in text() and "Hyperparameter Importance" in text(), "the plots")
        wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "svg.main-svg .scatterlayer .trace"), "the history")
        browser.get(addresses["optuna"] + "dashboard/studies/0/trials")
        wait_for(lambda: "0.512345" in text(), "the score of the trial")
        wait_for(lambda: "Trial 1" in text() and "Fail" in text(), "the failed trial")
        assert "Trial 2" not in text()
        late = made.propose(study, 2)
        made.finish_fold(study, late, 1, 0.3)
        wait_for(lambda: "Trial 2" in text(), "a trial that was proposed while the page was open")
        browser.get(addresses["tensorboard"])
        wait_for(lambda: "fold\n/score" in text() and "0000000000" in text(), "the trial's run and its curves")
        errors = console_errors()
        assert not errors, errors
        assert late in fetch(addresses["optuna"] + "csv/0").decode()
        nothing_can_be_changed(addresses["optuna"])
        _, reader = family_of(process)
        os.kill(reader, signal.SIGKILL)
        log = tmp_path / "temporary" / "log"
        wait_for(lambda: "TensorBoard does not answer" in log.read_text(), "word of the dead reader")


def nothing_can_be_changed(address: str) -> None:
    place = urlsplit(address)
    for method, path in (("DELETE", "/api/studies/0"), ("POST", "/api/studies"), ("PUT", "/api/studies/0/note")):
        connection = http.client.HTTPConnection(str(place.hostname), place.port)
        connection.request(method, path, body="{}")
        assert connection.getresponse().status == 405
    assert len(json.loads(fetch(address + "api/studies"))["study_summaries"]) == len(made.FAMILIES)


@pytest.mark.slow
def test_nothing_is_left_however_it_ends(study: Ledger, tmp_path: Path) -> None:
    """Three at once, one for each signal, each on ports of its own; one of them for other machines too."""
    uri, signals = study.storage.uri, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    with ExitStack() as stack:
        started = [
            stack.enter_context(dashboard(uri, tmp_path / "0", "--host", "0.0.0.0")),
            stack.enter_context(dashboard(uri, tmp_path / "1")),
            stack.enter_context(dashboard(uri, tmp_path / "2")),
        ]
        assert "anyone who reaches these ports can read" in (tmp_path / "0" / "log").read_text()
        assert f"http://{socket.gethostname()}:" in started[0][1]["optuna"]
        assert listening(started[0][0]) == {"0.0.0.0", "127.0.0.1"}, "the reader stays on loopback"
        families = [family_of(process) for process, _ in started]
        assert all(len(family) == 2 for family in families), "TensorBoard's reader is the one child"
        for (process, _), number in zip(started, signals, strict=True):
            process.send_signal(number)
        for (process, _), number in zip(started, signals, strict=True):
            assert process.wait(20) == (-number if number == signal.SIGKILL else 0)
        for folder, (_, addresses), family, number in zip("012", started, families, signals, strict=True):
            wait_for(lambda family=family: not any(map(alive, family)), "the end of all its processes")
            port = urlsplit(addresses["optuna"]).port
            with pytest.raises(OSError):
                fetch(f"http://127.0.0.1:{port}/")
            if number != signal.SIGKILL:
                assert [path.name for path in (tmp_path / folder).iterdir()] == ["log"]
