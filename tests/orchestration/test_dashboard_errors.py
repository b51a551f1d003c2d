"""What keeps the dashboards from starting is one clear error; and where Ray's own dashboard is looked for."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import hand_made_study as made
import pytest

from orchestration.dashboard import ray_dashboard
from orchestration.dashboard.serve import DashboardError, run_dashboard
from orchestration.listening import is_loopback
from orchestration.study.ledger import LedgerError


def start(study: str | Path, **options: Any) -> None:
    run_dashboard(str(study), **{"host": "127.0.0.1", "port": None, "show": pytest.fail, "say": pytest.fail} | options)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    made.empty_study(tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is taken, above one that is free; below those that the system hands out by itself."""
    for port in range(20_001, 30_000, 2):
        with socket.socket() as below, socket.socket() as server, suppress(OSError):
            below.bind(("127.0.0.1", port - 1))
            server.bind(("127.0.0.1", port))
            below.close()
            server.listen()
            yield port
            return


def test_what_cannot_work_is_one_clear_error(study: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LedgerError, match=r"there is no study in .*check the path"):
        start(study / "elsewhere")
    with pytest.raises(DashboardError, match=rf"127.0.0.1:{taken} cannot be used .*give another --port"):
        start(study, port=taken)
    with pytest.raises(DashboardError, match=rf"TensorBoard needs port {taken}, one above the --port"):
        start(study, port=taken - 1)
    with pytest.raises(DashboardError, match=r"192\.0\.2\.1:8080 cannot be used"):
        start(study, host="192.0.2.1")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    with pytest.raises(DashboardError, match=r"pip install 'pasture-biomass\[dashboard\]'"):
        start(study)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "node1"])
def test_hosts_that_others_reach(host: str) -> None:
    assert not is_loopback(host)


def test_rays_dashboard_is_found_by_its_answer(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ray(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/authentication_mode" else 404)
            self.end_headers()
            self.wfile.write(b'{"authentication_mode": "disabled"}')

        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setattr(ray_dashboard, "ADDRESS_FILE", tmp_path / "ray_current_cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with HTTPServer(("127.0.0.1", 0), Ray) as server:
        port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert ray_dashboard.find_ray_dashboard(port) == f"http://127.0.0.1:{port}"
        (tmp_path / "ray_current_cluster").write_text("127.0.0.2:6379\n")  # an address that this server does not have
        assert ray_dashboard.find_ray_dashboard(port) == f"http://127.0.0.1:{port}"
        monkeypatch.setenv("RAY_ADDRESS", f"ray://localhost:{port}")
        assert ray_dashboard.find_ray_dashboard(port) == f"http://localhost:{port}"
        server.shutdown()
    assert ray_dashboard.find_ray_dashboard(taken, seconds=0.2) is None, "somebody listens there, and it is not Ray"
