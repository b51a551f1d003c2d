"""The whole way through the command line, with real Ray; and what is left after SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import biomass, environment
from readme import commands

from biomass_models.pasture.make import make_pasture
from orchestration.study.ledger import Ledger
from orchestration.study.records import Asked
from orchestration.study.storage import Storage

pytestmark = pytest.mark.ray

SEARCH = ["--backbone", "test_vit", "--weights", "random", "--scale", "smoke", "--slots", "2"]


TINY = {  # what the README's commands are given here besides, and what they say of a real study
    "search": ["--preset", "smoke", "--slots", "2"],
}


def typed(words: list[str], trial: str = "", image: str = "") -> list[str]:
    """A command of the README, without `biomass`, at the size of a test."""
    tiny = {"60": "6", "TRIAL": trial, "IMAGE": image}
    return [tiny.get(word, word) for word in words[1:]] + TINY.get(words[1], [])


@pytest.mark.timeout(420)
def test_the_readmes_way_from_search_to_report_with_folds_side_by_side(tmp_path: Path, tiny_pasture: Path) -> None:
    (tmp_path / "DIR").symlink_to(tiny_pasture)
    said: dict[str, str] = {}
    for words in commands("Your own data"):
        if words[1] == "ensemble":  # with other weights than the search had
            auto = ["ensemble", "STUDY", "--data", "DIR", "--out", "other.csv", "--weights", "auto"]
            other = biomass(*auto, cwd=tmp_path, check=False)
            assert other.returncode == 1 and "leave --weights out" in other.stderr.replace("\n", " ")
            assert not (tmp_path / "other.csv").exists()
        if words[1] != "dashboard":  # runs until Ctrl-C: tests/browser
            said[words[1]] = biomass(*typed(words), cwd=tmp_path).stdout

    ledger = Ledger(Storage(tmp_path / "STUDY"))
    assert ledger.study().made_with == Asked(preset="smoke", overrides={"trials": 6, "slots": 2})
    trials = ledger.trials()
    assert [trial.family for trial in trials] == ["baseline", "probe", "distilled"] * 2
    assert {result.status for result in ledger.results().values()} == {"complete"}
    assert len(ledger.results()) == 6
    overlapping = 0
    for trial in trials:
        spans = [metrics for fold in range(3) if (metrics := ledger.fold_metrics(trial.trial_id, fold))]
        assert len(spans) == 3
        overlapping += any(
            one.pid != other.pid and one.started_at < other.finished_at and other.started_at < one.finished_at
            for one in spans
            for other in spans
        )
    assert overlapping >= 1  # folds of one trial ran at the same time in different processes

    board, card = said["leaderboard"], said["ensemble"]
    assert "6 complete" in said["status"]
    assert all(trial.trial_id in board for trial in trials)
    assert all(word in board for word in ("colour ridge", "cannot", "random"))  # notes wrap
    assert "nested" in card and "in sample" in card and max(map(len, (board + card).splitlines())) <= 80
    assert "valid" in said["submission"] and "report.html" in said["report"]
    assert (tmp_path / "report.html").stat().st_size < 10e6 and (tmp_path / "bundle" / "predict.py").exists()
    assert trials[0].trial_id[:4] in said["trace"] or "probe" in said["trace"]

    image_id = str(ledger.quadrats()["image_id"].iloc[0])
    (looked,) = [words for words in commands() if words[1] == "explain"]
    told = biomass(*typed(looked, trials[2].trial_id, image_id), "--out", "look.png", cwd=tmp_path)
    assert "Where it looked" in told.stdout and (tmp_path / "look.png").stat().st_size > 0

    truth = str(tiny_pasture.parent / "data-truth.csv")
    assert float(biomass("score", "submission.csv", "--truth", truth, cwd=tmp_path).stdout) <= 1

    starts = {trial.trial_id: [len(ledger.fold_starts(trial.trial_id, fold)) for fold in range(3)] for trial in trials}
    families = ["--family", "baseline", "--family", "probe", "--family", "distilled"]
    again = ["search", "STUDY", "--data", "DIR", *families, "--folds", "3", *SEARCH]  # what the preset sets
    biomass(*again, "--trials", "6", cwd=tmp_path)
    assert starts == {
        trial.trial_id: [len(ledger.fold_starts(trial.trial_id, fold)) for fold in range(3)] for trial in trials
    }
    changed = biomass(*again, "--trials", "6", "--seed", "7", cwd=tmp_path, check=False)
    assert changed.returncode == 1 and "seed: 0 -> 7" in changed.stderr and "Traceback" not in changed.stderr


@pytest.mark.long  # the campaign of kills is long as well
@pytest.mark.timeout(280)
def test_a_killed_driver_loses_and_repeats_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_pasture(data, images=48, test_images=2, seed=1, width=320, height=160, workers=1)
    folds = 6
    arguments = ["search", "study", "--data", str(data), "--family", "baseline", "--trials", "2", "--folds", str(folds)]
    command = [sys.executable, "-m", "orchestration", *arguments, *SEARCH]
    driver = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ledger = Ledger(Storage(tmp_path / "study"))

    def state() -> dict[tuple[str, int], tuple[int, bool]]:
        """Of each fold: how often it began, and whether it is finished."""
        return {
            (trial.trial_id, fold): (
                len(ledger.fold_starts(trial.trial_id, fold)),
                ledger.fold_metrics(trial.trial_id, fold) is not None,
            )
            for trial in ledger.trials()
            for fold in range(folds)
        }

    def running(pid: int) -> bool:
        """Whether the worker has begun a fold and not finished it."""
        return any(
            not finished and any(start.pid == pid for start in ledger.fold_starts(trial_id, fold))
            for (trial_id, fold), (_, finished) in state().items()
        )

    deadline = time.monotonic() + 200
    held: int | None = None
    try:
        while held is None:  # hold one worker in the middle of a fold, so that its siblings finish without it
            assert driver.poll() is None and time.monotonic() < deadline
            for trial_id, fold in state():
                for start in ledger.fold_starts(trial_id, fold):
                    if held is None and ledger.fold_metrics(trial_id, fold) is None:
                        os.kill(start.pid, signal.SIGSTOP)
                        held = start.pid if running(start.pid) else None
                        if held is None:
                            os.kill(start.pid, signal.SIGCONT)
            time.sleep(0.005)
        while not any(finished for _, finished in state().values()):
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    finally:
        driver.kill()
        if held is not None:
            os.kill(held, signal.SIGKILL)
    workers = {start.pid for trial_id, fold in state() for start in ledger.fold_starts(trial_id, fold)}
    while any(Path(f"/proc/{pid}").exists() for pid in workers):  # Ray takes its workers down within seconds
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = state()
    assert any(finished for _, finished in before.values()) and not all(finished for _, finished in before.values())

    biomass(*arguments, *SEARCH, "--weights-gb", "0.000001", cwd=tmp_path)
    after = state()
    assert len(ledger.results()) == 2 and len(ledger.trials()) == 2
    for fold, (begun, finished) in after.items():
        begun_before, finished_before = before.get(fold, (0, False))
        assert finished
        assert begun == (begun_before if finished_before else begun_before + 1)
    worst, best = sorted(ledger.results(), key=lambda name: ledger.results()[name].score or 0.0)
    assert not ledger.model_sizes([worst])[worst]
    assert all(ledger.dropped_model(worst, fold) for fold in range(folds))
    assert set(ledger.model_sizes()[best]) == set(range(folds))
    assert "passed" in biomass("audit", "study", cwd=tmp_path).stdout


@pytest.mark.long  # in `make test` a SIGTERM ends a search on Ray (test_endings)
@pytest.mark.timeout(280)
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path: Path, tiny_pasture: Path) -> None:
    arguments = ["search", "study", "--data", str(tiny_pasture), "--family", "probe", "--trials", "200", "--folds", "3"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "orchestration", *arguments, *SEARCH],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    ledger = Ledger(Storage(tmp_path / "study"))
    deadline = time.monotonic() + 200
    while not ledger.results():
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
    text, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, text
    assert "run the same command again to resume" in text and "Traceback" not in text
    assert 0 < len(ledger.results()) < 200
    assert all(result.status == "complete" for result in ledger.results().values())
