"""The commands that read a finished study: what they print, and with which exit code."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blended_study import finished_study
from tiny_study import make_study
from typer.main import get_command
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.search.trial import run_trial
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.storage import Storage
from orchestration.workers.slots.inline_pool import InlinePool

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    ledger, context, records = make_study(folder, tiny_pasture, folder / "cache")
    for record in records[:2]:
        run_trial(ledger, InlinePool(context), record.trial_id)
    for record in records[2:]:
        ledger.write_failure(record.trial_id, "fold 1: left out")
    return folder


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def document(*arguments: str) -> dict[str, Any]:
    """What a command says with --json: standard output is that document and nothing else."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code in (0, 1) and (result.exception is None or isinstance(result.exception, SystemExit))
    found: dict[str, Any] = json.loads(result.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    return found


def test_status_and_audit_of_a_whole_study(study: Path, tiny_pasture: Path) -> None:
    code, text = run("status", str(study))
    assert (
        code == 0
        and "2 complete" in text
        and "no blend: a blend needs at least one sound member" in text
        and "failed 1 time: " in text
    )
    code, text = run("audit", str(study))
    assert code == 0 and "audit passed" in text
    again = ["--refit", "1", "--data", str(tiny_pasture), "--cache", str(study / "cache")]
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
    assert code == 1 and f"problem: trial {trial}" in text and "audit found 1 problem" in text


def test_json_and_tables_come_from_the_same_objects(study: Path, tiny_pasture: Path, tmp_path: Path) -> None:
    board = document("leaderboard", str(study))
    trials = [row for row in board["rows"] if row["family"]]
    assert {row["status"] for row in trials} == {"complete", "failed"} and len(trials) == 3
    text = run("leaderboard", str(study))[1]
    assert all(f"{row['score']:.4f}" in text for row in trials if row["score"] is not None)
    assert sum(row["trials"] for row in board["families"]) == 3
    best = document("leaderboard", str(study), "--top", "1")["rows"]
    assert [row for row in best if row["family"]] == trials[:1]

    now = document("status", str(study))
    assert now["trials"] == {"complete": 2, "pruned": 0, "failed": 1, "refused": 0, "open": 0}
    assert now["best"] == {"trial": trials[0]["name"], "score": trials[0]["score"]}
    assert now["reasons"] == [{"reason": "fold 1: left out", "trials": 1}]
    assert document("audit", str(study))["trials"] == {"complete": 2, "failed": 1}

    image = str(Ledger(Storage(study)).quadrats()["image_id"].iloc[0])
    look = ["--image", image, "--data", str(tiny_pasture), "--out", str(tmp_path / "look.png")]
    masses = document("explain", str(study), trials[0]["name"], *look)["masses_g"]
    assert len(masses) == 5 and all(set(mass) == {"predicted", "measured"} for mass in masses.values())


def test_the_card_and_a_replay_as_json(study: Path, tiny_pasture: Path, tmp_path: Path) -> None:
    finished_study(tmp_path / "skilled", tiny_pasture, study / "cache")
    out = tmp_path / "blend"
    blended = document("ensemble", str(tmp_path / "skilled"), "--out", str(out))
    stored = json.loads((out / "ensemble.json").read_text())
    assert stored.pop("origin")["code"]["source"]
    assert blended["cards"] == [stored] and blended["submissions"] == []
    replayed = document("replay", str(tmp_path / "skilled"))
    assert replayed["rule"] == "default" and replayed["trials"] == 3 and replayed["pruned"] == []


def test_json_of_files(tiny_pasture: Path, tmp_path: Path) -> None:
    truth = tiny_pasture.parent / "data-truth.csv"
    scored = document("score", str(truth), "--truth", str(truth))
    assert scored == {"file": str(truth), "truth": str(truth), "images": 6, "score": 1.0}
    submission = tmp_path / "submission.csv"
    submission.write_text("sample_id,target\nx__GDM_g,nan\n")
    checked = document("submission", "check", str(submission), "--data", str(tiny_pasture))
    assert not checked["valid"]
    assert {"level", "file", "row", "rule", "got", "remedy"} == set(checked["problems"][0])


def test_an_unknown_trial_or_image_names_the_nearest(study: Path, tiny_pasture: Path) -> None:
    ledger = Ledger(Storage(study))
    trial, image = ledger.trials()[0].trial_id, str(ledger.quadrats()["image_id"].iloc[0])
    for asked, near in (((trial[1:], image), trial), ((trial, image[:-1]), "ID")):
        with pytest.raises(LedgerError, match=f"did you mean {near}"):
            arguments = ["explain", str(study), asked[0], "--image", asked[1], "--data", str(tiny_pasture)]
            CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_commands_take_a_trial_by_how_its_id_begins(study: Path, tiny_pasture: Path, tmp_path: Path) -> None:
    group: Any = get_command(app)
    taking = {name for name, one in group.commands.items() if any(each.metavar == "TRIAL" for each in one.params)}
    ledger = Ledger(Storage(study))
    image, data = str(ledger.quadrats()["image_id"].iloc[0]), ["--data", str(tiny_pasture)]
    more = {"show": [], "refit": data, "explain": [*data, "--image", image, "--out", str(tmp_path / "look.png")]}
    assert taking == set(more), "a command that takes a trial takes its beginning"
    trial = next(name for name, result in ledger.results().items() if result.status == "complete")
    others = {record.trial_id for record in ledger.trials()} - {trial}
    short = next(trial[:n] for n in range(1, 11) if not any(one.startswith(trial[:n]) for one in others))
    for name in taking:
        assert trial in json.dumps(document(name, str(study), short, *more[name])), name
        for wrong, said in (("", "there is no trial"), ("xyz", "there is no trial xyz")):
            with pytest.raises(LedgerError, match=said):
                CliRunner().invoke(app, [name, str(study), wrong, *more[name]], catch_exceptions=False)
    twin = ledger.trial(trial)
    ledger.write_trial(replace(twin, trial_id=f"{short}-twin"))
    try:
        for name in taking:
            with pytest.raises(LedgerError, match=f"got {short}, as 2 do: .*{trial}.*; give more of it"):
                CliRunner().invoke(app, [name, str(study), short, *more[name]], catch_exceptions=False)
    finally:
        shutil.rmtree(study / "trials" / f"{short}-twin")


def test_a_replay_needs_a_rule(study: Path) -> None:
    with pytest.raises(LedgerError, match="default, strict"):
        CliRunner().invoke(app, ["replay", str(study), "--prune", "off"], catch_exceptions=False)


def test_a_refit_without_photographs_is_a_wrong_use(study: Path) -> None:
    assert run("audit", str(study), "--refit", "1")[0] == 2
