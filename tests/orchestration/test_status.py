"""`biomass status` and the leaderboard read nothing but the ledger."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from commands import output
from rich.console import Console
from tiny_study import make_study
from told_study import told_study
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.inspect.leaderboard import leaderboard, render_families, render_leaderboard
from orchestration.inspect.status import render_status, status_of
from orchestration.search.trial import run_trial
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.workers.slots.inline_pool import InlinePool


def test_status_of_a_running_and_of_a_killed_search(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    nobody = status_of(ledger)
    assert not nobody.running and nobody.best is None and nobody.trials["open"] == len(records)
    facts = {"queued": 4, "slots": 2, "busy": 0.97, "max_trials": 6, "seconds_left": 120.0}
    facts |= {"cannot_start": 1, "start_failure": "OSError: x"}
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "token": "t", "facts": facts}
    owner |= {"since": time.time() - 5, "beat": time.time()}
    ledger.storage.write("owner.json", json.dumps(owner).encode())
    run_trial(ledger, InlinePool(context), records[0].trial_id)
    ledger.write_failure(records[1].trial_id, "fold 0: no such file")
    ledger.note_fold_start(records[2].trial_id, 1)

    status = status_of(ledger)
    assert status.running and status.trials == {"complete": 1, "pruned": 0, "failed": 1, "refused": 0, "open": 1}
    assert (status.folds_done, status.folds_running, status.folds_queued) == (3, 1, 4)
    assert status.best is not None and status.best[0] == records[0].trial_id
    assert status.seconds_left == 120.0  # the driver's own estimate
    text = render_status(status)
    for words in (
        "2 of 6 ended",
        "about 2 min",
        "busy 97 %",
        "1 more has no worker, it does not start: OSError: x",
        "failed 1 time: fold 0: no such file",
        f"process {os.getpid()}",
    ):
        assert words in text

    ledger.storage.write("owner.json", json.dumps({**owner, "pid": 2**22 + 5}).encode())
    killed = status_of(ledger)
    assert (
        not killed.running
        and killed.folds_running == 0
        and killed.seconds_left is None
        and "was killed; run the same command again to resume" in killed.driver
    )


def test_the_leaderboard_tells_costs_per_trial_and_family(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    run_trial(ledger, InlinePool(context), records[0].trial_id)
    decision = "pruned after fold 2: p = 0.003 against 7c1e, blend gain 0.04 %"
    middle = ledger.write_failure(records[1].trial_id, "x")
    ledger.write_result(
        records[1].trial_id,
        replace(middle, status="pruned", reason=decision, gpu_seconds=7200.0, estimate=0.1),
    )
    rows = leaderboard(StudyData(ledger))
    by_name = {row.name: row for row in rows}
    metrics = [ledger.fold_metrics(records[0].trial_id, fold) for fold in range(3)]
    first = by_name[records[0].trial_id]
    assert first.seconds == sum(fold.seconds for fold in metrics if fold)
    assert first.peak_gb == max(fold.peak_memory_mb for fold in metrics if fold) / 1024 > 0
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(render_leaderboard(rows))
    console.print(render_families(rows))
    text = console.export_text()
    assert "7200" in text and "GPU s" in text and max(map(len, text.splitlines())) <= 80
    words = " ".join(text.replace("│", " ").split())
    assert "pruned after" in words and "0.04 %" in words  # the note wraps


def test_a_status_looks_at_the_folds_of_ended_trials_once(
    tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it costs is files: with thousands of trials a second look would double it."""
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    run_trial(ledger, InlinePool(context), records[0].trial_id)
    seen: list[tuple[str, int]] = []
    look = Ledger.lost_fold_files

    def noted(self: Ledger, trial_id: str, fold: int) -> list[str]:
        seen.append((trial_id, fold))
        return look(self, trial_id, fold)

    monkeypatch.setattr(Ledger, "lost_fold_files", noted)
    status_of(ledger)
    assert sorted(seen) == [(records[0].trial_id, fold) for fold in range(3)]


def test_all_commands_have_the_same_words_for_how_a_trial_stands(tmp_path: Path) -> None:
    statuses = ("complete", "pruned", "failed", "refused", "open")
    ledger = told_study(tmp_path / "study", statuses=statuses)
    study, (*_, still_open) = ledger.storage.uri, ledger.trials()
    rows = json.loads(output("leaderboard", study, "--json"))["rows"]
    assert {row["name"]: row["status"] for row in rows if row["family"]} == {
        trial.trial_id: status for trial, status in zip(ledger.trials(), statuses, strict=True)
    }
    assert json.loads(output("status", study, "--json"))["trials"] == dict.fromkeys(statuses, 1)
    assert json.loads(CliRunner().invoke(app, ["audit", study, "--json"]).stdout)["open"] == [still_open.trial_id]
    shown = output("leaderboard", study)
    assert "open" in shown and "unfinished" not in shown
