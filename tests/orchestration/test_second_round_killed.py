"""A second round on Ray whose driver is killed while photographs are labelled, and again while trials run."""

from __future__ import annotations

import shutil
from pathlib import Path
from signal import SIGKILL

import pytest
from commands import biomass
from running_search import Running
from second_rounds import BLEND, search, write_blend

from orchestration.inspect.audit import audit
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_what_a_killed_driver_has_labelled_and_fitted_is_kept(tmp_path: Path, tiny_pasture: Path) -> None:
    options = {"families": ("probe", "stack")}
    search(tmp_path / "study", tiny_pasture, 2, **options)
    ledger = Ledger(Storage(tmp_path / "study"))
    write_blend(ledger, [record.trial_id for record in ledger.trials()])
    shutil.copytree(tmp_path / "study", tmp_path / "inline" / "study")
    search(tmp_path / "inline" / "study", tiny_pasture, 6, second_round=BLEND, **options)
    expected = Ledger(Storage(tmp_path / "inline" / "study"))
    (name,) = expected.second_round_ids()
    asked = ["--data", str(tiny_pasture), "--trials", "6", "--second-round", BLEND, "--slots", "2"]
    command, members = ["search", "study", *asked], tmp_path / "study" / "second-rounds" / name / "members"

    def kill_when(happened: str) -> None:
        with Running(command, tmp_path) as driver:
            if happened == "some are labelled":
                driver.until(lambda: members.is_dir() and any(members.iterdir()), every=0.001)
            else:
                driver.until(lambda: len(ledger.results()) > 2, every=0.005)
            driver.send(SIGKILL)

    kill_when("some are labelled")
    assert len(ledger.results()) == 2
    kill_when("a trial has ended")
    done = biomass(*command, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert ledger.labels(name).equals(expected.labels(name)) and not list(members.iterdir())
    ours = {record.trial_id for record in ledger.trials()}
    assert len(ours) == 6 and {record.trial_id for record in expected.trials()[:4]} <= ours
    for record in expected.trials()[2:4]:  # the settings of the members: what comes after depends on who ends first
        assert record.second_round is not None and ledger.oof(record.trial_id).equals(expected.oof(record.trial_id))
    assert audit(ledger).clean
