"""A head and two workers by `ray start` on loopback, a job through the Jobs API with a token, a node that is killed.

The study lies on an S3 server. Each node has a temporary folder of its own, as nodes have: with one for all, their
agents would unpack the job's working directory over each other.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_store import s3_server, without_proxy

from biomass_models.pasture.make import make_pasture
from orchestration.inspect.audit import audit
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from campaign import descendants

pytestmark = [pytest.mark.ray, pytest.mark.long]

pytest.importorskip("moto", reason="the study of this test lies on moto's S3 server (dev extra)")

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
FOLDS, TRIALS = 3, 4


def free_ports(count: int) -> list[int]:
    """Outside the range of Ray's workers, 10002 to 19999, whose ports a cluster must not take."""
    found: list[int] = []
    for port in range(9000, 10000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"{count} free ports are needed between 9000 and 9999, got {found}")


class Nodes:
    """Processes of `ray start --block`, one a node."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._folders: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> int:
        folder = tempfile.mkdtemp(prefix="rc", dir="/tmp")  # sockets have short names
        self._folders.append(folder)
        command = [RAY, "start", "--block", "--temp-dir", folder, *arguments]
        with (Path(folder) / "out").open("wb") as out:
            self._processes.append(subprocess.Popen(command, env=self._environment, stdout=out, stderr=out))
        return len(self._processes) - 1

    def processes(self, node: int) -> set[int]:
        return {self._processes[node].pid} | descendants(self._processes[node].pid)

    def kill(self, node: int) -> None:
        for pid in self.processes(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._processes[node].wait()

    def close(self) -> None:
        for node in reversed(range(len(self._processes))):
            self.kill(node)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[tuple[Nodes, dict[str, str], str]]:
    """Nodes, the environment of everybody, and the dashboard's address."""
    with s3_server(tmp_path / "s3.log") as s3:
        port, dashboard, client = free_ports(3)
        environment = {
            **without_proxy(s3),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(24),
            "RAY_agent_register_timeout_ms": "180000",  # a small machine starts three nodes at once
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        nodes = Nodes(environment)
        try:
            nodes.start(
                *("--head", "--node-ip-address", "127.0.0.1", "--port", f"{port}", "--num-cpus", "0"),
                *("--dashboard-port", f"{dashboard}", "--ray-client-server-port", f"{client}"),
            )
            until(lambda: answers(dashboard))
            for number in (2, 3):
                nodes.start(
                    *("--address", f"127.0.0.1:{port}", "--node-ip-address", f"127.0.0.{number}", "--num-cpus", "1")
                )
            yield nodes, environment, f"http://127.0.0.1:{dashboard}"
        finally:
            nodes.close()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def until(true: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def job(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RAY, "job", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.timeout(600)
def test_a_job_survives_the_death_of_a_worker_node(
    cloud: tuple[Nodes, dict[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, environment, address = cloud
    data = tmp_path / "data"
    make_pasture(data, images=48, test_images=2, seed=1, width=320, height=160, workers=1)
    stranger = job({**environment, "RAY_AUTH_TOKEN": "0" * 48}, "submit", "--address", address, "--", "true")
    assert stranger.returncode != 0 and "token" in stranger.stderr.lower()

    search = [sys.executable, "-m", "orchestration", "search", "s3://bucket/study", "--data", str(data)]
    search += [
        "--family",
        "baseline",
        "--trials",
        str(TRIALS),
        "--folds",
        str(FOLDS),
        "--cache",
        str(tmp_path / "cache"),
    ]
    search += ["--backbone", "test_vit", "--weights", "random", "--scale", "smoke"]
    submit = ["submit", "--address", address, "--submission-id", "search", "--no-wait", "--working-dir", ".", "--"]
    submitted = job(environment, *submit, *search)
    deadline = time.monotonic() + 60
    while "No available agent" in submitted.stderr and time.monotonic() < deadline:  # Ray: "please try again later"
        time.sleep(1)
        submitted = job(environment, *submit, *search)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, environment[name])
    ledger = Ledger(Storage("s3://bucket/study"))
    held: list[int] = []

    def hold_a_fold_of_the_second_worker() -> bool:
        """Stop a worker in the middle of a fold, so that its node dies with work in its hands."""
        for trial in ledger.storage.children("trials"):
            for fold in range(FOLDS):
                for start in ledger.fold_starts(trial, fold):
                    pid = int(start.pid)
                    if pid not in nodes.processes(2) or ledger.fold_metrics(trial, fold) is not None:
                        continue
                    os.kill(pid, signal.SIGSTOP)
                    if ledger.fold_metrics(trial, fold) is None:
                        held.append(pid)
                        return True
                    os.kill(pid, signal.SIGCONT)
        return False

    until(hold_a_fold_of_the_second_worker)
    nodes.kill(2)
    log = job(environment, "logs", "--address", address, "--follow", "search")
    state = job(environment, "status", "--address", address, "search")
    assert "succeeded" in (state.stdout + state.stderr).lower(), log.stdout[-3000:] + log.stderr[-1000:]
    found = audit(ledger)
    assert found.clean, str(found)
    assert found.trials["complete"] == TRIALS and found.folds == TRIALS * FOLDS and found.restarts >= 1
