"""Ray dies under a command: told within seconds with the way back, before Ray aborts the process a minute later."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL

import pytest
from running_search import PATIENCE, Running, search_command, status_of

from biomass_models.errors import UserError
from orchestration.processes import running
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage
from orchestration.workers.address import ClusterError
from orchestration.workers.pulse import GONE_SECONDS, PING_SECONDS, Pulse

REPORTED = 10.0  # seconds: the requirement
RAY = str(Path(sys.executable).with_name("ray"))


def wait_for(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# -- the pulse ---------------------------------------------------------------------------------------------------------


class Node:
    """Of an embedded Ray, whose processes are alive until `dead` names them."""

    def __init__(self) -> None:
        self.dead: list[str] = []

    def dead_processes(self) -> list[tuple[str, object]]:
        return [(name, None) for name in self.dead]


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def pulse(node: Node) -> Iterator[Pulse]:
    beats = Pulse("127.0.0.1:1", node)
    yield beats
    beats.close()


@pytest.mark.slow
def test_what_work_returns_and_raises_reaches_the_caller(pulse: Pulse) -> None:
    assert pulse.guard(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        pulse.guard(lambda: 1 / 0)
    with pytest.raises(UserError, match="study"):
        pulse.guard(threading.Event().wait, lost=lambda: UserError("study"))


def test_work_that_hangs_in_a_dead_ray_is_left_behind(pulse: Pulse, node: Node) -> None:
    told = threading.Event()
    node.dead = ["log_monitor"]  # nothing hangs on it
    assert pulse.guard(lambda: 7) == 7 and pulse.check() is None
    node.dead = ["log_monitor", "gcs_server"]
    with pytest.raises(ClusterError, match="gcs_server is gone; run the same command again to resume"):
        pulse.guard(told.wait, leave=told.set)
    assert told.is_set()


def test_an_error_of_ray_is_told_as_what_it_comes_from(pulse: Pulse, node: Node) -> None:
    from ray.exceptions import ActorDiedError

    def work() -> None:
        node.dead = ["raylet"]
        raise ActorDiedError

    with pytest.raises(ClusterError, match="its raylet is gone") as raised:
        pulse.guard(work)
    assert isinstance(raised.value.__cause__, ActorDiedError)


def test_an_interrupt_of_the_caller_ends_the_wait(pulse: Pulse) -> None:
    told = threading.Event()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pulse.guard(told.wait, lost=interrupt, leave=told.set)
    assert told.is_set()


@pytest.mark.slow
def test_a_head_that_answers_again_in_time_is_not_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        beats = Pulse(f"127.0.0.1:{port}", None)
        assert beats.check() is None
    with socket.create_server(("127.0.0.1", port)):  # a control store that is kept elsewhere may start again
        assert beats.check() is None
    since = time.monotonic()
    wait_for(beats.check)
    assert time.monotonic() - since < GONE_SECONDS + 2 * PING_SECONDS
    assert "on the head and on every worker" in str(beats.lost) and str(port) in str(beats.lost)


# -- real searches -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lost")


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("program", ["gcs_server", "raylet"])
def test_a_search_ends_with_its_own_words_when_ray_is_killed(folder: Path, tiny_pasture: Path, program: str) -> None:
    ledger = Ledger(Storage(folder / "study"))
    before = set(ledger.results())
    with Running(search_command(tiny_pasture), folder) as search:
        search.until(lambda: len(ledger.results()) > len(before))
        [victim] = search.processes_of(program)
        os.kill(victim, SIGKILL)
        killed = time.monotonic()
        assert search.end(60.0) == 1, search.text
        assert search.said(f"its {program} is gone") - killed < REPORTED, search.text
        assert (
            "run the same command again to resume" in search.text
            and "Traceback" not in search.text
            and "***" not in search.text
        )
        assert not running(search.family())
    assert before < set(ledger.results()) and status_of("study", folder)["running"] is False


@pytest.mark.ray
@pytest.mark.long
def test_the_head_of_a_cluster_is_killed_under_a_search(folder: Path, tiny_pasture: Path) -> None:
    """And the way back, as it is told: `ray start` again, then the same command."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ledger = Ledger(Storage(folder / "on-a-cluster"))
    variables = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    with ray_head(folder, port, variables) as head:
        with Running(search_command(tiny_pasture, "on-a-cluster"), folder, **variables) as search:
            search.until(ledger.results)
            [victim] = head.processes_of("gcs_server")
            os.kill(victim, SIGKILL)
            killed = time.monotonic()
            assert search.end(60.0) == 1, search.text
        assert search.said("the head of the Ray cluster has died") - killed < REPORTED, search.text
        assert "`ray start` again on the head and on every worker" in search.text
        assert "Traceback" not in search.text and "***" not in search.text
    again = search_command(tiny_pasture, "on-a-cluster", len(ledger.results()) + 1)
    with ray_head(folder, port, variables), Running(again, folder, **variables) as search:
        assert search.end(PATIENCE) == 0, search.text


@contextlib.contextmanager
def ray_head(folder: Path, port: int, variables: dict[str, str]) -> Iterator[Running]:
    """A cluster of one node by `ray start`."""
    with tempfile.TemporaryDirectory(prefix="lr", dir="/tmp", ignore_cleanup_errors=True) as temporary:  # short names
        options = ["start", "--block", "--head", "--port", str(port), "--num-cpus", "2", "--temp-dir", temporary]
        slow = {"RAY_agent_register_timeout_ms": "120000"}  # on a small machine
        command = [*options, "--include-dashboard", "false"]
        with Running(command, folder, program=(RAY,), **{**variables, **slow}) as head:
            head.until(lambda: "Ray runtime started" in head.text)
            yield head


CALLER = """
import os, signal, sys, threading, time
from pathlib import Path
from biomass_models.backbones.weights import WeightsSource, canonical_name, fingerprint
from orchestration.workers.address import ClusterError
from orchestration.processes import command_of, descendants
from orchestration.search.presets.options import Preset
from orchestration.workers.resources import Resources
from orchestration.search.start import run_search

data, net, weights = Path(sys.argv[1]), canonical_name("test_vit"), WeightsSource(kind="random")
asked = Preset().with_fields(families=("probe",), backbones=(net,), weights="random", scale="smoke", folds=3, slots=2)

def search(trials):
    return run_search("called", data, asked.settings((net,), weights="random", gpu=False), weights=weights,
        fingerprints={net: fingerprint(net, weights)}, resources=Resources(cache=Path("cache"), slots=2),
        max_trials=trials, hours=None, say=print)

def kill_the_store():
    while not list(Path("called").glob("trials/*/result.json")):
        time.sleep(0.05)
    [victim] = [one.pid for one in descendants(os.getpid()) if command_of(one.pid).split(" ")[0].endswith("gcs_server")]
    os.kill(victim, signal.SIGKILL)

numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
handlers = [signal.getsignal(number) for number in numbers]
threading.Thread(target=kill_the_store, daemon=True).start()
try:
    search(400)
except ClusterError as error:
    print("caught:", error)
ended = len(list(Path("called").glob("trials/*/result.json")))
print("ending:", search(ended + 4).ended - ended)  # more than were under way
assert [signal.getsignal(number) for number in numbers] == handlers
time.sleep(float(sys.argv[2]))
print("still here")
"""


@pytest.mark.ray
@pytest.mark.long
def test_a_program_that_calls_run_search_lives_on_and_searches_again(tmp_path: Path, tiny_pasture: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    minute = "65"  # Ray aborts the process of a driver that cannot reach its store for 60 s
    with Running([str(tiny_pasture), minute], tmp_path, program=("caller.py",)) as caller:
        assert caller.end(300.0) == 0, caller.text
        assert "caught: Ray has died under this command: its gcs_server is gone" in caller.text
        assert "ending: 4" in caller.text and caller.text.endswith("still here")
