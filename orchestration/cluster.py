"""Ray: attach to a cluster where one is named, else embed one in this process."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from biomass_models.errors import UserError

ANSWER_SECONDS = 10.0  # a cluster that does not take a connection by then is not there
ON_HEAD = {"node:__internal_head__": 0.001}  # costs nothing; the node that a cluster cannot lose


def is_cluster(address: str | None) -> bool:
    """Whether Ray is attached to a running cluster, which may grow, rather than embedded."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


class ClusterError(UserError):
    """Ray does not start or answer: what was got, and `remedy`."""

    def __init__(self, got: str, remedy: str, rule: str = "Ray must start, answer and stay, got ") -> None:
        super().__init__(f"{rule}{got}; {remedy}")
        self.got, self.remedy = got, remedy


@contextmanager
def ray_cluster(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """Hold a Ray connection.

    num_cpus: what an embedded Ray believes this machine has; None counts them.

    Raises ClusterError where Ray does not start or answer.

    address: of a running cluster; without it, and without RAY_ADDRESS, Ray is embedded ("local", because plain
    `ray.init()` would join any cluster whose address lies in the temporary folder).
    """
    # Tune would move each trial into a folder of its own, and relative study paths with it.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # Tune's newer output prints tables and a wrong TensorBoard folder whatever the verbosity.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Events are written by events.py; Tune's loggers would add a CSV, a JSON and a pickle for each trial.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    if is_cluster(address):
        require_answer(address)
        _start(address=address, **quiet)
    else:
        # No dashboard: its agent must answer within seconds or the raylet dies, too much to ask of a small machine.
        _start(address="local", include_dashboard=False, num_cpus=num_cpus, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def refusal(error: BaseException) -> ClusterError:
    """Why Ray does not start or answer any more, in words, with what to do."""
    said = str(error).strip()
    low = said.lower()
    if "401" in low or "unauth" in low or "token" in low:
        remedy = (
            "set RAY_AUTH_MODE=token and give the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token (the head "
            "node has it there)"
        )
    elif "version" in low and "mismatch" in low:
        remedy = "install the same Ray and Python here as on the cluster (same image, or constraints.txt)"
    else:
        remedy = (
            "check the address (host:port of `ray start --head`, or nothing for an embedded Ray), that `ray status` "
            "answers there, and that no firewall lies between; on a small machine RAY_agent_register_timeout_ms=60000"
        )
    return ClusterError(said.splitlines()[0] if said else type(error).__name__, remedy)


def _start(**settings: Any) -> None:
    try:
        ray.init(**settings)
    except Exception as error:  # Ray raises many kinds: for a connection, a time-out, a version, a token, a process
        raise refusal(error) from error


def require_answer(address: str | None) -> None:
    """Raise ClusterError where a cluster is named and nobody listens there: Ray itself would try for minutes."""
    address = address or os.environ.get("RAY_ADDRESS") or ""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():  # auto, local, or an address of another kind: Ray knows
        return
    try:
        socket.create_connection((host.removeprefix("ray://").strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"{address} does not ({error})",
            "give host:port of `ray start --head`, or leave --address and RAY_ADDRESS out to embed Ray",
            rule="a Ray cluster answers at its address, ",
        ) from None
