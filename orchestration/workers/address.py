"""Where a Ray cluster is said to be: --address or RAY_ADDRESS, checked before Ray loads. Light to import."""

from __future__ import annotations

import json
import os
import re
import socket
import urllib.request
from http.client import HTTPException

from biomass_models.errors import UserError

ANSWER_SECONDS = 10.0  # a cluster that does not take a connection by then is not there
CLIENT_PORT = 10001  # of Ray Client, unless `ray start --ray-client-server-port` names another
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # HTTP/2's frame without any; its fourth byte is the kind of frame
NAMED = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/@,\[\]]+):(?P<port>\d{1,5})")
INSTEAD = "give HOST:PORT of `ray start --head`, or leave --address and RAY_ADDRESS out to embed Ray"


class ClusterError(UserError):
    """Ray does not start or answer: what was found, against which rule, and the remedy."""

    def __init__(self, got: str, remedy: str, rule: str = "Ray must start, answer and stay, got ") -> None:
        super().__init__(f"{rule}{got}; {remedy}")
        self.found, self.remedy = f"{rule}{got}", remedy


class AddressError(ClusterError):
    """No Ray cluster can be joined at that address."""

    def __init__(self, found: str, remedy: str = INSTEAD) -> None:
        super().__init__(found, remedy, rule="")


def cluster_address(address: str | None) -> str | None:
    """The address of the cluster that is meant, or None for an embedded Ray."""
    named = (address or os.environ.get("RAY_ADDRESS") or "").strip()
    return None if named in ("", "local") else named


def is_cluster(address: str | None) -> bool:
    """Whether Ray is attached to a running cluster, which may grow, rather than embedded."""
    return cluster_address(address) is not None


def require_answer(address: str | None) -> None:
    """Raise AddressError where what is named is no cluster's address, or nobody listens there.

    Ray itself would try for minutes, or take another server's answer for a network fault.
    """
    named = cluster_address(address)
    if named is None or named == "auto":  # auto: Ray looks for a cluster of this machine
        return
    host, port = _host_and_port(named)
    try:
        answers = _speaks_grpc(host, port)
    except (OSError, UnicodeError) as error:
        raise AddressError(f"a Ray cluster answers at its address, {named} does not ({error})") from None
    if answers:
        return
    if is_ray_dashboard(f"http://{_bracketed(host)}:{port}", seconds=2.0):
        raise _job_server(named, host)
    raise AddressError(f"a Ray cluster answers at its address, at {named} another program does")


def _speaks_grpc(host: str, port: int) -> bool:
    """Whether a server begins a connection of HTTP/2 as gRPC's do: with its settings. Ray would try for minutes."""
    with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return True  # nothing is said before both have shown their certificates
        received = b""
        try:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
            while len(received) < len(SETTINGS) and (more := connection.recv(100)):
                received += more
        except OSError:  # it hung up, or never answered
            return False
    return len(received) >= len(SETTINGS) and received[3] == SETTINGS[3]


def _host_and_port(named: str) -> tuple[str, int]:
    scheme, _, rest = named.rpartition("://")
    host = rest.split("/")[0].rpartition(":")[0].strip("[]") or "HOST"
    if scheme in ("http", "https"):
        raise _job_server(named, host)
    if scheme == "ray":
        raise _ray_client(named, host)
    match = NAMED.fullmatch(named)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise AddressError(f"the address of a Ray cluster is HOST:PORT, got {named!r}")
    if int(match["port"]) == CLIENT_PORT:  # it speaks gRPC too, and Ray would ask it for its cluster for a minute
        raise _ray_client(named, host)
    return match["host"].strip("[]"), int(match["port"])


def _ray_client(named: str, host: str) -> AddressError:
    return AddressError(
        f"{named} is the address of Ray Client, which runs no search",
        f"{INSTEAD}, or ray job submit --address http://{_bracketed(host)}:8265 -- ...",
    )


def _job_server(named: str, host: str) -> AddressError:
    address = named if "://" in named else f"http://{named}"
    return AddressError(
        f"{named} is the address of the job server",
        f"submit the command to it (ray job submit --address {address} -- ...), or join the cluster at {host}:6379",
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def is_ray_dashboard(address: str, seconds: float) -> bool:
    """Whether Ray's dashboard, which is the job server too, is there; it answers this question without a token."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{address}/api/authentication_mode", timeout=seconds) as response:
            answer = json.loads(response.read(10_000))
    except (OSError, ValueError, HTTPException):  # nobody, or a program that speaks otherwise
        return False
    return isinstance(answer, dict) and "authentication_mode" in answer
