"""Where a page is served, and who may open it."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass

from biomass_models.errors import UserError
from orchestration.listening import is_loopback, is_taken
from orchestration.progress import Say

FIRST_PORT, PORTS_TRIED = 8000, 50
TOKEN = "BIOMASS_TOKEN"  # of the environment
SHORTEST_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to look."""

    page: str  # with the token, where there is one
    predict: str
    token: str | None  # None: on loopback


def address_of(host: str, port: int, token: str | None) -> Address:
    base = f"http://{host}:{port}/"
    return Address(page=base if token is None else f"{base}?token={token}", predict=f"{base}predict", token=token)


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


def warn_of(host: str, say: Say) -> None:
    """Where others can reach the page."""
    if not is_loopback(host):
        say(
            f"warning: with --host {host} anyone who reaches this port and has the token can ask; photographs and "
            "token travel unencrypted: use a network that you trust, or a proxy with TLS"
        )


def bound(host: str, port: int | None) -> socket.socket:
    """A socket that listens; port: None: the first free one from 8000. Raises UserError for one that is taken."""
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
