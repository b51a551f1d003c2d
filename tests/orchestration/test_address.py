"""What --address and RAY_ADDRESS may name: one sentence for each mistake, before Ray loads."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from commands import environment

from orchestration.workers import address
from orchestration.workers.address import AddressError, cluster_address, is_cluster, require_answer

JOB_SERVER = r"is the address of the job server; submit the command to it \(ray job submit --address "


@pytest.fixture
def job_server() -> Iterator[int]:
    class JobServer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"authentication_mode": "token"}')

        def log_message(self, *text: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), JobServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("none", [None, "", "local", " "])
def test_an_embedded_ray_has_no_address(none: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(none) is None and not is_cluster(none)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not is_cluster(None) and is_cluster("head:6379")
    require_answer(none)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (
            "http://127.0.0.1:8265",
            JOB_SERVER + r"http://127.0.0.1:8265 -- ...\), or join the cluster at 127.0.0.1:6379",
        ),
        ("https://ray.example.org", JOB_SERVER + "https://ray.example.org"),
        ("http://[::1]:8265/", JOB_SERVER),
        ("ray://head:10001", "is the address of Ray Client, which runs no search"),
        ("ray://[fe80::1]:10001", "is the address of Ray Client"),
        ("head:10001", "is the address of Ray Client.*, or ray job submit .* http://head:8265 -- "),
        ("[fe80::1]:10001", r"is the address of Ray Client.* http://\[fe80::1\]:8265 -- "),
        ("head", "is HOST:PORT, got 'head'"),
        ("head:", "is HOST:PORT"),
        (":6379", "is HOST:PORT"),
        ("head:port", "is HOST:PORT"),
        ("head:0", "is HOST:PORT"),
        ("head:70000", "is HOST:PORT"),
        ("head:6379,other:6379", "is HOST:PORT"),
        ("tcp://head:6379", "is HOST:PORT"),
        ("me@head:6379", "is HOST:PORT"),
        ("fe80::1:6379", "is HOST:PORT"),
        ("my head:6379", "is HOST:PORT"),
    ],
)
def test_what_is_no_clusters_address_is_one_sentence(named: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for argument, variable in ((named, ""), (None, named)):
        monkeypatch.setenv("RAY_ADDRESS", variable)
        with pytest.raises(AddressError, match=said) as caught:
            require_answer(argument)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 240


@pytest.mark.parametrize("named", ["127.0.0.1:9", "[::1]:9", "no-such-host.invalid:6379", "a..b:6379"])
def test_nobody_there_is_one_sentence(named: str) -> None:
    with pytest.raises(AddressError, match=r"a Ray cluster answers at its address, .* does not \("):
        require_answer(named)


@pytest.mark.slow
@pytest.mark.parametrize("answer", [None, b"-ERR unknown command\r\n", b"SSH-2.0-OpenSSH_9.9\r\n", b"x", b""])
def test_another_program_that_listens_there_is_one_sentence(
    answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says nothing, one that speaks otherwise, one that hangs up."""
    monkeypatch.setattr(address, "ANSWER_SECONDS", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        kept: list[socket.socket] = []

        def serve() -> None:
            for _ in range(2):  # gRPC is tried, then the job server
                connection, _ = server.accept()
                kept.append(connection)
                if answer is not None:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(AddressError, match=r"at 127.0.0.1:\d+ another program does; give HOST:PORT"):
            require_answer(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
        for connection in kept:
            connection.close()


def test_the_job_server_is_known_without_its_http(job_server: int) -> None:
    require_answer("auto")
    with pytest.raises(AddressError, match=JOB_SERVER + rf"http://127.0.0.1:{job_server} "):
        require_answer(f"127.0.0.1:{job_server}")


@pytest.mark.parametrize("pieces", [[9], [1, 8], [3, 3, 3], [9, 30]])
def test_a_server_of_grpc_is_taken_for_a_cluster(pieces: list[int]) -> None:
    """HTTP/2's first frame, its settings, however the network cuts it (RFC 9113, 3.4 and 6.5)."""
    frame = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)) + bytes(30)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                assert connection.recv(100).startswith(b"PRI * HTTP/2.0")
                for begin, length in zip([0, *pieces], pieces, strict=False):
                    connection.sendall(frame[begin : begin + length])

        thread = threading.Thread(target=serve)
        thread.start()
        require_answer(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["search", "doctor"])
def test_commands_say_it_before_torch_and_ray_load(command: str, tmp_path: Path, tiny_pasture: Path) -> None:
    arguments = {
        "search": ["study", "--data", str(tiny_pasture), "--trials", "1"],
        "doctor": [],
    }[command]
    code = (
        "import sys; from orchestration.cli import app\n"
        "try:\n    app(sys.argv[1:], standalone_mode=False)\n"
        "except BaseException as error:\n    print(type(error).__name__, error)\n"
        "print(sorted({'torch', 'ray', 'timm'} & set(sys.modules)))"
    )
    line = [sys.executable, "-c", code, command, *arguments, "--address", "http://head:8265"]
    result = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path))
    assert "address of the job server" in result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
