"""A search in a real notebook's kernel: progress that can be read, and the stop button as Ctrl-C.

Nothing is stubbed; with real Ray it takes a minute and more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import Kernel, kernel

from orchestration.inspect.audit import audit
from orchestration.processes import command_of, descendants
from orchestration.study.ledger import Ledger
from orchestration.study.lock import read_owner
from orchestration.study.storage import Storage

FOLDS, TRIALS = 3, 12


def cell(data: Path, where: str) -> str:
    """One cell, which is run again to resume."""
    ranges = 'families=["probe", "baseline"], backbones="test_vit", weights="random", scale="smoke"'
    return (
        "from orchestration.api import search\n"
        f'study = search("study", {str(data)!r}, {ranges}, folds={FOLDS}, trials={TRIALS}, {where})\nstudy'
    )


def finished(folder: Path) -> dict[tuple[str, int], float]:
    """When each finished fold was begun."""
    ledger = Ledger(Storage(folder / "study"))
    found = {}
    for record in ledger.trials():
        for fold in range(FOLDS):
            if (metrics := ledger.fold_metrics(record.trial_id, fold)) is not None:
                found[record.trial_id, fold] = metrics.started_at
    return found


def stopped_and_resumed(notebook: Kernel, code: str, folder: Path) -> None:
    reply = notebook.run(code, meanwhile=lambda: len(finished(folder)) > 1 and notebook.interrupt())
    assert (reply["status"], reply["ename"]) == ("error", "SearchStopped"), notebook.text
    assert reply["traceback"] == ["Stopped. What was finished is kept; run the same again to resume."]
    before, ledger = finished(folder), Ledger(Storage(folder / "study"))
    assert 1 < len(before) < FOLDS * TRIALS and read_owner(ledger.storage) is None
    assert [command_of(one.pid) for one in descendants(notebook.pid)] == []

    assert notebook.run(code)["status"] == "ok", notebook.text
    after = finished(folder)
    assert len(after) == FOLDS * TRIALS and before.items() <= after.items()  # none was computed again
    assert audit(ledger).problems == []
    readable(notebook)
    assert f"trials  {TRIALS} ended" in notebook.outputs[-1]["data"]["text/html"]


def readable(notebook: Kernel) -> None:
    """No escape sequence, no carriage return, no advice of others; progress is one output, replaced."""
    text = notebook.text
    assert not [mark for mark in ("\x1b", "\r", "Warning", "pip install", "object at") if mark in text], text
    searches = [one for one in notebook.outputs if "Search " in one.get("data", {}).get("text/plain", "")]
    assert len(searches) == 1 and f"{TRIALS}/{TRIALS}, " in searches[0]["data"]["text/plain"]
    assert "<progress" in searches[0]["data"]["text/html"]
    assert all(one.get("name") != "stderr" for one in notebook.outputs), text
    assert all(one["data"]["text/plain"] and one["data"]["text/html"] for one in notebook.outputs if "data" in one)


@pytest.mark.long
def test_the_stop_button_stops_a_search_in_the_kernel(tmp_path: Path, tiny_pasture: Path) -> None:
    with kernel(tmp_path) as notebook:
        reply = notebook.run('from orchestration.api import search\nsearch("study", "gone", trials=3)')
        (shown,) = reply["traceback"]  # its text, not the way to it
        assert shown.startswith("UserError: a data directory is a folder") and "gone is no such folder" in shown
        stopped_and_resumed(notebook, cell(tiny_pasture, "inline=True"), tmp_path)


@pytest.mark.long
@pytest.mark.ray
def test_the_stop_button_stops_a_search_on_ray(tmp_path: Path, tiny_pasture: Path) -> None:
    with kernel(tmp_path) as notebook:
        stopped_and_resumed(notebook, cell(tiny_pasture, "slots=2"), tmp_path)
