"""`biomass serve --replicas 2` on real Ray: answers, limits and end are those of a single process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from commands import environment
from served import serving
from starlette.testclient import TestClient
from test_lost_ray import ray_head
from test_serving import HERE, WORD, parts, photographs, world  # noqa: F401  a blend of a probe and a family with maps

from orchestration.processes import command_of, descendants, running
from orchestration.serving.app import Served, make_app
from orchestration.serving.model_thread import ModelThread

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(560)]
PATIENCE = 240.0  # seconds, on a machine that others use as well
MOST = 8  # photographs of a request
BEARER = {"Authorization": f"Bearer {WORD}"}


class Asking:
    """A client of a server in another process."""

    def __init__(self, process: subprocess.Popen[str], addresses: dict[str, str]) -> None:
        self.process, self.page = process, addresses["page"]
        self._client = httpx2.Client(timeout=PATIENCE, trust_env=False, headers=BEARER)

    def post(self, files: Any, **more: Any) -> httpx2.Response:
        return self._client.post(self.address("predict"), files=files, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self._client.get(self.address(path), **more)

    def address(self, path: str) -> str:
        return self.page.partition("?")[0] + path

    def replicas(self) -> list[int]:
        found = descendants(self.process.pid)
        return sorted(one.pid for one in found if "ServeReplica:biomass" in command_of(one.pid))


@pytest.fixture(scope="module")
def asking(
    world: tuple[Any, Path],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Asking]:
    folder = tmp_path_factory.mktemp("replicas")
    options = ("--replicas", "2", "--queue", "1", "--max-photographs", str(MOST))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOMASS_TOKEN", WORD)
        with serving("serve", world[1] / "study", folder / "tmp", *options) as (process, addresses):
            patch.undo()  # other servers of this module have none
            yield Asking(process, addresses)


@pytest.fixture(scope="module")
def expected(world: tuple[Any, Path], tiny_pasture: Path) -> list[dict[str, Any]]:  # noqa: F811
    """What a single process answers for each photograph."""
    model = ModelThread(1, 1)
    with TestClient(make_app(Served(blend=world[0], model=model)), base_url=HERE) as client:
        return [client.post("/predict", files=parts(path)).json() for path in photographs(tiny_pasture)]


def answered(asking: Asking, path: Path) -> tuple[dict[str, Any], int]:
    """A photograph's answer, and how often one was told to come back before."""
    for refused in range(10_000):
        answer = asking.post(parts(path))
        if answer.status_code == 200:
            return answer.json(), refused
        assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 60, answer.text
        assert "waiting already" in answer.json()["error"]
        time.sleep(0.05)
    raise AssertionError("never admitted")


def test_replicas_answer_as_one_process_and_refuse_beyond_their_queues(
    asking: Asking, expected: list[dict[str, Any]], tiny_pasture: Path
) -> None:
    """Eight clients for two places."""
    assert len(asking.replicas()) == 2
    paths, found, refused = photographs(tiny_pasture), dict[int, Any](), list[int]()

    def client(number: int) -> None:
        row = number % len(paths)
        found[number], times = answered(asking, paths[row])
        refused.append(times)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert [found[number] for number in range(8)] == [expected[number % len(paths)] for number in range(8)]
    assert any(refused)


def test_pages_tokens_and_limits_are_those_of_one_process(asking: Asking, tiny_pasture: Path) -> None:
    one = photographs(tiny_pasture)[0]
    without = httpx2.post(asking.address("predict"), files=parts(one), trust_env=False, timeout=PATIENCE)
    assert without.status_code == 401 and "a token is needed" in without.json()["error"]
    page = asking.get("")
    assert page.status_code == 200 and "How much grows here?" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    opened = httpx2.get(asking.page, trust_env=False, timeout=PATIENCE)
    assert opened.status_code == 303 and "httponly" in opened.headers["set-cookie"].lower()
    many = asking.post(parts(*[one] * (MOST + 1)))
    assert many.status_code == 413 and f"at most {MOST} photographs" in many.json()["error"]
    assert asking.post(parts(one), data={"unit": "pounds"}).status_code == 400
    assert asking.get("healthz").json()["status"] == "ok" and asking.get("gone").status_code == 404


def test_a_replica_that_is_killed_is_missed_by_nobody_after_it(
    asking: Asking, expected: list[dict[str, Any]], tiny_pasture: Path
) -> None:
    """The other one answers, then a new one as well."""
    before = asking.replicas()
    os.kill(before[0], signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    answers = []
    while len(after := asking.replicas()) < 2 or before[0] in after:
        assert time.monotonic() < end
        answers.append(asking.post(parts(photographs(tiny_pasture)[0])))
    good = [answer.json() for answer in answers if answer.status_code == 200]
    assert good and all(answer == expected[0] for answer in good)
    assert answered(asking, photographs(tiny_pasture)[0])[0] == expected[0]


def test_what_is_worked_on_ends_before_the_server_does(asking: Asking, tiny_pasture: Path) -> None:
    family, answers = descendants(asking.process.pid), list[httpx2.Response]()
    ask = threading.Thread(target=lambda: answers.append(asking.post(parts(*photographs(tiny_pasture)[:2]))))
    ask.start()
    while not answers and asking.get("healthz").json()["requests"] == 0:
        pass
    asking.process.send_signal(signal.SIGTERM)
    assert asking.process.wait(60) == 0
    ask.join()
    assert answers[0].status_code == 200 and not running(family)


def test_cores_that_are_not_there_are_refused(world: tuple[Any, Path], tmp_path: Path) -> None:  # noqa: F811
    command = ["serve", str(world[1] / "study"), "--replicas", "1000"]
    ended = subprocess.run(
        [sys.executable, "-m", "orchestration", *command], capture_output=True, text=True, env=environment(tmp_path)
    )
    assert ended.returncode == 1 and "1000 replicas of 1 core need 1000, Ray has" in ended.stderr
    assert json.dumps(ended.stdout) == '""'


def test_on_a_cluster_one_serves_and_nothing_of_it_stays(
    world: tuple[Any, Path],  # noqa: F811
    tiny_pasture: Path,
    tmp_path: Path,
) -> None:
    """Attached to a cluster of one node, whose Ray Serve is taken while it serves, and free afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    words = ("--replicas", "1", "--address", f"127.0.0.1:{port}")
    again = [sys.executable, "-m", "orchestration", "serve", str(world[1] / "study"), *words]
    one = parts(photographs(tiny_pasture)[0])
    with pytest.MonkeyPatch.context() as patch, ray_head(tmp_path, port, own) as head:
        for name, value in own.items():
            patch.setenv(name, value)
        with serving("serve", world[1] / "study", tmp_path / "tmp", *words) as (process, addresses):
            assert addresses["page"].startswith("http://127.0.0.1:") and addresses["token"] is None
            answer = httpx2.post(addresses["predict"], files=one, trust_env=False, timeout=PATIENCE)
            assert answer.json()["photographs"][0]["masses"]["Dry_Total"]["mass"] > 0
            second = subprocess.run(again, capture_output=True, text=True, env=environment(tmp_path))
            assert second.returncode == 1 and "this one has it already" in second.stderr
            well = httpx2.get(addresses["page"] + "healthz", trust_env=False, timeout=PATIENCE)
            assert well.json()["status"] == "ok"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        left = {one for one in head.family() if "Serve" in command_of(one.pid)}
        head.until(lambda: not running(left))
