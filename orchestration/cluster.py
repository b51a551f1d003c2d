"""Ray: attach to a cluster where one is named, else embed one in this process."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

ANSWER_SECONDS = 10.0  # a cluster that does not take a connection by then is not there
ON_HEAD = {"node:__internal_head__": 0.001}  # costs nothing; the node that a cluster cannot lose


def is_cluster(address: str | None) -> bool:
    """Whether Ray is attached to a running cluster, which may grow, rather than embedded."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


@contextmanager
def ray_cluster(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """Hold a Ray connection.

    num_cpus: what an embedded Ray believes this machine has; None counts them.

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
        ray.init(address=address, **quiet)
    else:
        # No dashboard: its agent must answer within seconds or the raylet dies, too much to ask of a small machine.
        ray.init(address="local", include_dashboard=False, num_cpus=num_cpus, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def require_answer(address: str | None) -> None:
    """Raise ConnectionError where a cluster is named and nobody listens there: Ray itself would try for minutes."""
    address = address or os.environ.get("RAY_ADDRESS") or ""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():  # auto, local, or an address of another kind: Ray knows
        return
    try:
        socket.create_connection((host.removeprefix("ray://").strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"a Ray cluster answers at its address, {address} does not ({error}); give host:port of `ray start "
            "--head`, or leave --address and RAY_ADDRESS out to embed Ray"
        ) from None
