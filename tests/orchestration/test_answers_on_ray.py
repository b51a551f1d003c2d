"""`biomass predict --scale-out` on real Ray: the bytes of one process, whoever is killed meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from blended_study import finished_study
from commands import environment
from test_all_rows import as_searched
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.processes import command_of, descendants

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(500)]
COPIES = 60  # of each of six photographs
PARTS = 8
PATIENCE = 240.0  # seconds for a part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    """A study with a blend, photographs made distinct by a trailing comment, one torn, and the table of one process."""
    folder = tmp_path_factory.mktemp("on-ray")
    as_searched(finished_study(folder / "study", tiny_pasture, folder / "cache", ("probe",)), tiny_pasture)
    (folder / "new").mkdir()
    for path in sorted((tiny_pasture / "test").iterdir()):
        for copy in range(COPIES):
            (folder / "new" / f"{path.stem}-{copy:02d}.jpg").write_bytes(path.read_bytes() + b"%d" % copy)
    sorted((folder / "new").iterdir())[7].write_text("torn")
    for words in (
        ["ensemble", str(folder / "study"), "--data", str(tiny_pasture), "--out", str(folder / "s.csv"), "--inline"],
        ["predict", str(folder / "study"), str(folder / "new"), "--out", str(folder / "alone.csv")],
    ):
        result = CliRunner().invoke(app, [*words, "--cache", str(folder / "cache")], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return folder


def started(folder: Path, out: Path) -> subprocess.Popen[str]:
    words = ["predict", "study", str(folder / "new"), "--out", str(out), "--cache", str(out.parent / "cache")]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestration", *words, "--scale-out"],
        cwd=folder,
        env=environment(folder),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def parts_of(out: Path) -> dict[str, int]:
    """Parts that are there, with the times at which they were written."""
    found = out.with_name(f"{out.name}.parts").glob("*-*.parquet")
    try:
        return {path.name: path.stat().st_mtime_ns for path in found}
    except FileNotFoundError:  # the table is written, and they are taken away
        return {}


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    return [one.pid for one in descendants(process.pid) if "MapWorker" in command_of(one.pid)]


def wait_until(process: subprocess.Popen[str], there: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if there():
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate()[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_and_the_driver_are_killed_at_random_parts(folder: Path, tmp_path: Path, seed: int) -> None:
    """A worker is replaced; a driver that is started again goes on with the parts that it has; the bytes are those of
    one process. Part 0: once there is a worker."""
    rng, out = random.Random(seed), tmp_path / "masses.csv"
    at, last = rng.randrange(PARTS - 2), rng.randrange(PARTS - 2)
    process = started(folder, out)
    wait_until(process, lambda: len(parts_of(out)) >= at and workers_of(process))
    os.kill(rng.choice(workers_of(process)), signal.SIGKILL)
    wait_until(process, lambda: len(parts_of(out)) >= max(at, last))
    process.kill()
    process.communicate()
    kept = parts_of(out)
    again = started(folder, out)
    seen = kept
    while again.poll() is None and (now := parts_of(out)).keys() >= kept.keys():
        seen = now
        time.sleep(0.01)
    said, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert {name: seen[name] for name in kept} == kept and max(at, last) <= len(kept) < PARTS
    assert f"Going on: {len(kept)} of {PARTS} parts" in said or not kept
    assert out.read_bytes() == (folder / "alone.csv").read_bytes()
    assert not out.with_name(f"{out.name}.parts").exists() and not out.with_name(f".{out.name}.lock").exists()
