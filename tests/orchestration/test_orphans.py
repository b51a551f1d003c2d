"""Processes of an embedded Ray that have lost their parent before anybody saw them: none outlives the command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL

import pytest
import ray
from running_search import Running

from orchestration import processes
from orchestration.processes import Process, command_of, descendants, kill, kill_own, marked, running
from orchestration.workers import cluster
from orchestration.workers.cluster import _Family

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="environments of processes are read from /proc")

MARK = f"BIOMASS_TEST_MARK={os.getpid()}-{time.time_ns()}"
WORKER = f"{Path(ray.__file__).parent}/_private/workers/default_worker.py"
ORPHAN = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *sys.argv[1:]],
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""

Orphan = Callable[..., Process]


@pytest.fixture
def orphan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Orphan]:
    """orphan(words of its command, mark) -> a process whose parent has ended."""
    made: set[Process] = set()

    def make(*words: str, mark: str = MARK) -> Process:
        name, _, value = mark.partition("=")
        command = [sys.executable, "-c", ORPHAN, *words]
        pid = int(subprocess.run(command, env={**os.environ, name: value}, capture_output=True, check=True).stdout)
        monkeypatch.setattr(processes, "marks", {mark})
        [found] = [process for process in marked() if process.pid == pid]
        monkeypatch.setattr(processes, "marks", set())
        made.add(found)
        assert found not in descendants(os.getpid())
        return found

    monkeypatch.setattr(processes, "started", set())
    yield make
    kill(made)


@pytest.mark.parametrize("command", [WORKER, "ray::IDLE"])
def test_an_orphan_of_ray_ends_with_the_connection(
    orphan: Orphan, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = _Family(MARK)
    late = orphan(command)  # after Ray has come up
    processes.marks.add(MARK)
    if command.startswith("ray::"):  # the title of a worker is all that its command line has
        monkeypatch.setattr(cluster, "command_of", lambda pid: command if pid == late.pid else "")
    family.end()
    assert not running([late]) and not processes.marks


def test_what_is_not_of_this_ray_lives_on(orphan: Orphan) -> None:
    family = _Family(MARK)
    of_the_caller, of_another = orphan("a", "program"), orphan(WORKER, mark=f"{MARK}0")
    processes.marks.add(MARK)
    family.end()
    assert running([of_the_caller, of_another]) == {of_the_caller, of_another}


def test_processes_of_a_cluster_live_on(orphan: Orphan) -> None:
    family = _Family(None)
    of_the_cluster = orphan(WORKER)
    family.end()
    assert running([of_the_cluster]) and not marked()


def test_a_command_that_is_cut_short_ends_orphans_as_well(orphan: Orphan, monkeypatch: pytest.MonkeyPatch) -> None:
    late = orphan(WORKER)
    processes.marks.add(MARK)
    monkeypatch.setattr(processes, "descendants", lambda pid: set())  # of the test's own there may be others
    kill_own(5.0)
    assert not running([late])


HOLDER = """
import threading, ray
from orchestration.workers.address import ClusterError
from orchestration.workers.cluster import ray_cluster

try:
    with ray_cluster(num_cpus=2) as pulse:
        actor = ray.remote(num_cpus=0)(threading.Event)
        first = actor.remote()
        ray.get(first.is_set.remote())
        more = [actor.remote() for _ in range(2)]  # whose workers begin to start
        print("up", flush=True)
        pulse.guard(threading.Event().wait)
except ClusterError as error:
    print("caught:", error)
"""


@pytest.mark.ray
@pytest.mark.long
def test_workers_that_begin_to_start_when_the_raylet_is_killed_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "holder.py").write_text(HOLDER)
    with Running([], tmp_path, program=("holder.py",), RAY_agent_register_timeout_ms="120000") as holder:
        holder.until(lambda: holder.family() and "up" in holder.text)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            holder.family()
        [raylet] = holder.processes_of("raylet")
        os.kill(raylet, SIGKILL)
        assert holder.end(60.0) == 0 and "caught: " in holder.text, holder.text
        left = {process: command_of(process.pid) for process in running(holder.family())}
        assert not left
