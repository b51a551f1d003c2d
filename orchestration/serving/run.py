"""`biomass serve`: uvicorn on the application, until Ctrl-C, SIGTERM or SIGHUP."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from biomass_models.errors import UserError
from orchestration.answers.opened import OpenBlend
from orchestration.interrupts import until_signal
from orchestration.listening import is_loopback, is_taken, shown_host
from orchestration.progress import Say
from orchestration.serving.asked import Limits

FIRST_PORT, PORTS_TRIED = 8000, 50
TOKEN = "BIOMASS_TOKEN"  # of the environment
SHORTEST_TOKEN = 16
GRACE_SECONDS = 8  # for the request that is worked on
LOOK_SECONDS = 0.1  # at whether the server has started
PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to look."""

    page: str  # with the token, where there is one
    predict: str
    token: str | None  # None: on loopback


def require_packages() -> None:
    """Raises UserError for those that are not installed."""
    if missing := [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]:
        raise UserError(
            f"the page needs the packages {', '.join(PACKAGES.values())}, {' and '.join(missing)} cannot be imported "
            "here; pip install 'pasture-biomass[serve]'"
        )


def token_for(host: str) -> str | None:
    """Of BIOMASS_TOKEN, or a new one; None where only this machine can ask. Raises UserError for a short one."""
    given = os.environ.get(TOKEN)
    if not given:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    if len(given) < SHORTEST_TOKEN or not given.isascii() or not given.isprintable() or set(given) & set(' ";,\\&#+%'):
        raise UserError(
            f"{TOKEN} is at least {SHORTEST_TOKEN} letters and digits, got {len(given)} characters or others; "
            "unset it for a new one"
        )
    return given


def run_server(
    blend: OpenBlend,
    *,
    host: str,
    port: int | None,
    limits: Limits,
    cores: int,
    data: Path | None,
    kept: Path | None,
    show: Callable[[Address], None],
    say: Say,
) -> None:
    """Serve until a signal; port: None: the first free one from 8000. Raises UserError for one that is taken."""
    import uvicorn

    from orchestration.serving.app import Served, make_app
    from orchestration.serving.model_thread import ModelThread
    from orchestration.serving.pictures import TrainingPhotographs

    token = token_for(host)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    trained = None if data is None else TrainingPhotographs(data)
    with contextlib.closing(_bound(host, port)) as listening:
        model = ModelThread(limits.queue, cores)
        served = Served(blend=blend, model=model, limits=limits, token=token, trained=trained, keep=kept, say=say)
        config = uvicorn.Config(
            make_app(served),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="server", daemon=True)
        if token is not None and not is_loopback(host):
            say(
                f"warning: with --host {host} anyone who reaches this port and has the token can ask; photographs and "
                "token travel unencrypted: use a network that you trust, or a proxy with TLS"
            )

        def serve() -> None:
            thread.start()
            while thread.is_alive() and not server.started:
                time.sleep(LOOK_SECONDS)
            if server.started:
                show(_address(host, listening.getsockname()[1], token))
            while thread.is_alive():
                thread.join(LOOK_SECONDS)

        until_signal(serve)
        model.close()
        server.should_exit = True
        thread.join(GRACE_SECONDS + 2)
        model.join(1.0)


def _address(host: str, port: int, token: str | None) -> Address:
    base = f"http://{shown_host(host)}:{port}/"
    return Address(page=base if token is None else f"{base}?token={token}", predict=f"{base}predict", token=token)


def _bound(host: str, port: int | None) -> socket.socket:
    wanted = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    trouble: Exception | None = None
    for number in wanted:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            listening.listen(128)
            return listening
        except (OSError, OverflowError) as error:
            trouble = error
            listening.close()
            if not is_taken(host, number):
                break
    raise UserError(
        f"a free port on an address of this machine is needed, {host}:{wanted[0]} cannot be used ({trouble}); give "
        "another --port, or leave --port out for the next free one"
    )
