"""The short form of the fault campaign (tests/faults/campaign.py, `make faults`)."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from campaign import audited, check_kept, disturbed_search, make_data, marks, start_search, wait_for

from orchestration.ledger import Ledger
from orchestration.storage import Storage

TRIALS = 25


@pytest.mark.timeout(600)
def test_a_killed_worker_and_a_killed_raylet_lose_and_repeat_nothing(tmp_path: Path) -> None:
    make_data(tmp_path)
    ledger = Ledger(Storage(tmp_path / "study"))
    disturbed_search(tmp_path, ledger, TRIALS, ["worker", "raylet"], random.Random(0), within=1.0)
    finished = marks(ledger)
    assert len(finished) < 4 * TRIALS  # the raylet died in the middle of the search
    peaceful = start_search(tmp_path, ledger, TRIALS)
    wait_for(lambda: peaceful.poll() is not None, "the search did not end")
    assert peaceful.returncode == 0, (tmp_path / "study.log").read_text()
    check_kept(ledger, finished)
    assert "audit passed" in audited(tmp_path, "study")
