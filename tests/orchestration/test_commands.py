"""The commands that read a finished study: what they print, and with which exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_study import make_study
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.ledger import Ledger, LedgerError
from orchestration.pool import InlinePool
from orchestration.storage import Storage
from orchestration.trial import fail_trial, run_trial


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    ledger, context, records = make_study(folder, tiny_pasture, folder / "cache")
    for record in records[:2]:
        run_trial(ledger, InlinePool(context), record.trial_id)
    for record in records[2:]:
        fail_trial(ledger, record.trial_id, "fold 1: left out")
    return folder


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_status_and_audit_of_a_whole_study(study: Path, tiny_pasture: Path) -> None:
    code, text = run("status", str(study))
    assert code == 0 and "2 complete" in text and "blend so far" in text and "failed 1 times" in text
    code, text = run("audit", str(study))
    assert code == 0 and "audit passed" in text
    again = ["--refit", "1", "--data", str(tiny_pasture), "--weights", "random", "--cache", str(study / "cache")]
    code, text = run("audit", str(study), *again)
    assert code == 0 and "audit passed" in text


def test_an_audit_that_finds_something_exits_with_1(study: Path) -> None:
    storage = Storage(study)
    trial = Ledger(storage).trials()[0].trial_id
    name = f"trials/{trial}/oof.parquet"
    whole = storage.read(name)
    storage.write(name, whole[:-1] + b"?")
    try:
        code, text = run("audit", str(study))
    finally:
        storage.write(name, whole)
    assert code == 1 and f"problem: trial {trial}" in text and "audit found 1 problems" in text


def test_a_replay_needs_a_rule(study: Path) -> None:
    with pytest.raises(LedgerError, match="default, strict"):
        CliRunner().invoke(app, ["replay", str(study), "--prune", "off"], catch_exceptions=False)


def test_a_refit_without_photographs_is_a_wrong_use(study: Path) -> None:
    assert run("audit", str(study), "--refit", "1")[0] == 2
