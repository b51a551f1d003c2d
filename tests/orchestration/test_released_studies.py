"""Studies that version 0.1.0 wrote, through every reader: accepted as they are, their folds kept and counted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import biomass
from released import DATA, RANDOM, STUDIES, copy_of, files_of, finish, go_on
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.inspect.audit import audit
from orchestration.inspect.status import status_of
from orchestration.study.environment import differences, environment
from orchestration.study.ids import trial_id_of
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage
from orchestration.workers.refit import Refit, refit_trial
from search_spaces.spaces import space_of

pytestmark = pytest.mark.slow

COUNTS = {"finished": (6, 0, 18), "killed": (1, 2, 4)}  # trials complete, open; finished folds
FINISHED = Ledger(Storage(STUDIES / "finished"))
TRIALS = [record.trial_id for record in FINISHED.trials()]


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"}, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(params=COUNTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_status_leaderboard_and_report_accept_it_and_write_nothing(name: str, tmp_path: Path) -> None:
    ledger = copy_of(name, tmp_path)
    study, before = ledger.storage.uri, files_of(Path(ledger.storage.uri))
    complete, still_open, folds = COUNTS[name]
    status = status_of(ledger)
    assert (status.trials["complete"], status.trials["open"], status.folds_done) == (complete, still_open, folds)
    assert f"{folds} done" in run("status", study)
    rows = json.loads(run("leaderboard", study, "--json"))["rows"]
    assert sum(row["status"] == "complete" for row in rows) == complete
    assert sum(row["status"] == "open" for row in rows) == still_open
    run("report", study, "--data", str(DATA), "--out", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert all(trial[:4] in page for trial, result in ledger.results().items() if result.status == "complete")
    assert files_of(Path(study)) == before


def test_an_audit_finds_nothing_but_what_is_open(name: str, tmp_path: Path) -> None:
    found = audit(copy_of(name, tmp_path))
    complete, still_open, folds = COUNTS[name]
    assert found.problems == [] and len(found.open) == still_open
    assert (found.trials["complete"], found.folds) == (complete, folds)


def test_every_trial_keeps_the_id_that_0_1_0_gave_it() -> None:
    for study in COUNTS:
        ledger = Ledger(Storage(STUDIES / study))
        fold_hash = ledger.study().fold_hash
        for record in ledger.trials():
            assert record.schema == 0 and trial_id_of(record, fold_hash) == record.trial_id


def test_the_submission_leads_back_through_the_study(tmp_path: Path) -> None:
    study = copy_of("finished", tmp_path).storage.uri
    shutil.copy(STUDIES / "submission.csv", tmp_path)
    found = json.loads(run("trace", str(tmp_path / "submission.csv"), "--json"))
    assert found["ensemble"] == "submission" and found["where"] == study
    assert [member["record"]["trial_id"] for member in found["members"]] == ["d701b58692"]
    assert found["studies"][study]["code"]["version"] == "0.1.0"


def test_its_trials_are_blended_anew(tmp_path: Path) -> None:
    study = copy_of("finished", tmp_path).storage.uri
    out = json.loads(run("ensemble", study, "--out", str(tmp_path / "blend"), "--json"))
    (card,) = out["cards"]
    stored = FINISHED.ensemble("submission").card
    assert card["members"] == stored["members"] and card["in_sample_score"] == pytest.approx(stored["in_sample_score"])
    assert card["method"] == "nested over units, jackknife" and card["nested_by"] == "date"


# Of OpenBLAS, which chooses them by the processor: those of the fixture, whose records do not have them. Others round
# otherwise. They run on any processor with AVX-512.
KERNELS = "SkylakeX"


@pytest.fixture(scope="module")
def with_kernels() -> Iterator[ProcessPoolExecutor]:
    """A process of its own: OpenBLAS chooses when it is loaded. It encodes as searches do, which other tests do not."""
    spawned = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with pytest.MonkeyPatch.context() as patch, spawned as pool:
        patch.delenv("BIOMASS_ENCODING")
        patch.setenv("OPENBLAS_CORETYPE", KERNELS)
        pool.submit(int).result()  # which starts it
        yield pool


def refit_here(trial: str, cache: Path) -> tuple[Refit, dict[str, Any]]:
    return refit_trial(FINISHED, trial, DATA, cache_dir=cache, weights=RANDOM), environment()


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the fixture was made with AVX-512")
@pytest.mark.parametrize("trial", TRIALS)
def test_a_refit_gives_the_rows_of_0_1_0_bit_for_bit(
    trial: str, tmp_path: Path, with_kernels: ProcessPoolExecutor
) -> None:
    metrics = FINISHED.fold_metrics(trial, 0)
    assert metrics is not None
    found, made_with = with_kernels.submit(refit_here, trial, tmp_path).result()
    assert made_with["blas"] == f"openblas {KERNELS}"
    assert [(fold.fold, fold.problem) for fold in found.folds] == [(0, None), (1, None), (2, None)]
    about = "; ".join(found.different_here)
    assert "photograph" not in about and "label" not in about and "weights" not in about
    then = {key: value for key, value in metrics.environment.items() if key not in ("code", "threads")}
    if here := differences(then, made_with):
        pytest.skip(f"the fixture was made elsewhere, and rounds otherwise here: {'; '.join(here)}")
    assert found.same, str(found)


def test_a_search_goes_on_and_keeps_every_fold(name: str, tmp_path: Path) -> None:
    ledger = copy_of(name, tmp_path)
    root, before = Path(ledger.storage.uri), files_of(Path(ledger.storage.uri) / "trials")
    complete, still_open, _ = COUNTS[name]
    known = {record.trial_id for record in ledger.trials()}
    said: list[str] = []
    proposer = go_on(ledger, trials=len(known) + 2, say=said.append)
    assert proposer.trials.ended == complete and proposer.trials.open == still_open and proposer.unobserved == []
    results = finish(proposer, tmp_path / "cache")
    assert {result.status for result in results.values()} == {"complete"}
    assert len(results) == still_open + 2 and len(ledger.trials()) == len(known) + 2
    after = files_of(root / "trials")
    assert {path: after[path] for path in before} == before
    found = audit(ledger)
    assert found.clean and found.trials["complete"] == len(known) + 2
    assert {record.schema for record in ledger.trials() if record.trial_id not in known} == {1}
    assert ledger.study().spaces and ledger.photographs() is not None
    assert go_on(ledger, trials=len(known) + 2).propose() is None


def test_first_trials_are_known_under_the_ids_of_0_1_0(tmp_path: Path) -> None:
    """The killed study came from the plain command: its first trials are those of today."""
    ledger = copy_of("killed", tmp_path)
    kept = {json.dumps(dict(record.params), sort_keys=True) for record in ledger.trials()}
    results = finish(go_on(ledger, trials=6), tmp_path / "cache")
    new = [ledger.trial(name) for name in results if ledger.trial(name).schema]
    assert len(new) == 3
    assert not kept & {json.dumps(dict(record.params), sort_keys=True) for record in new}
    first = [dict(one) for one in space_of("baseline", ledger.study().settings.backbones, "smoke").first_trials]
    again = [record for record in ledger.trials() if record.family == "baseline" and dict(record.params) == first[0]]
    assert len(again) == 1 and again[0].trial_id == "30cb46c9b1"


@pytest.mark.ray
@pytest.mark.long
def test_the_plain_command_goes_on_with_ray(name: str, tmp_path: Path) -> None:
    ledger = copy_of(name, tmp_path)
    before = files_of(Path(ledger.storage.uri) / "trials")
    trials = len(ledger.trials()) + 1
    typed = ["--preset", "smoke", "--trials", str(trials)]
    typed += ["--family", "probe=9", "--family", "baseline=1"] if name == "killed" else []
    result = biomass("search", ledger.storage.uri, "--data", str(DATA), *typed, cwd=tmp_path)
    assert "Finished" in result.stdout + result.stderr
    after = files_of(Path(ledger.storage.uri) / "trials")
    assert {path: after[path] for path in before} == before
    found = audit(ledger)
    assert found.clean and found.trials["complete"] == trials
