"""`biomass predict --scale-out` on real Ray: the bytes of one process, whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blended_study import finished_study
from commands import environment
from test_all_rows import as_searched
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.processes import command_of, descendants

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(500)]
COPIES = 30  # of each of six photographs: four parts
PATIENCE = 240.0  # seconds for a first part


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
    command = [
        "predict",
        "study",
        str(folder / "new"),
        "--out",
        str(out),
        "--scale-out",
        "--cache",
        str(out.parent / "cache"),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestration", *command, "--scale-out"],
        cwd=folder,
        env=environment(folder),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def first_part(process: subprocess.Popen[str], out: Path) -> Path:
    """Waits for a part to be there."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if found := sorted(out.with_name(f"{out.name}.parts").glob("*-*.parquet")):
            return found[0]
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[0])


def require_same(process: subprocess.Popen[str], folder: Path, out: Path) -> None:
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert out.read_bytes() == (folder / "alone.csv").read_bytes()
    assert not out.with_name(f"{out.name}.parts").exists()


def test_workers_that_are_killed_are_replaced(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "masses.csv"
    process = started(folder, out)
    first_part(process, out)
    actors = [one for one in descendants(process.pid) if "MapWorker" in command_of(one.pid)]
    for actor in actors:
        os.kill(actor.pid, signal.SIGKILL)
    assert actors
    require_same(process, folder, out)


def test_a_driver_that_is_killed_goes_on_with_its_parts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "masses.csv"
    process = started(folder, out)
    part = first_part(process, out)
    process.kill()
    process.communicate()
    written = part.stat().st_mtime_ns
    again = started(folder, out)
    kept = []
    while again.poll() is None and out.with_name(f"{out.name}.parts").exists():
        if part.exists():
            kept.append(part.stat().st_mtime_ns)
        time.sleep(0.05)
    require_same(again, folder, out)
    assert set(kept) == {written}
