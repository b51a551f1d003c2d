"""Addresses that pages are served at, and how their servers end."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
from collections.abc import Iterator
from typing import Any

LOOPBACK = "127.0.0.1"
EVERY = ("0.0.0.0", "::")  # hosts that stand for all addresses of a machine


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there: then, and only then, the next port may do."""
    with contextlib.suppress(OSError, OverflowError):
        socket.create_connection((host, port), 1).close()
        return True
    return False


def shown_host(host: str) -> str:
    """As it stands in an address that people open."""
    name = f"[{host}]" if ":" in host else host
    return socket.gethostname() if host in EVERY else name


@contextlib.contextmanager
def ending_by_signal() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the process alike, so that the temporary folder is removed.

    SIGINT also where it is ignored: a shell without job control starts background processes so. An ignored SIGHUP stays
    ignored: nohup.
    """

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    own = [signal.SIGINT, signal.SIGTERM]
    own += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    before = {one: signal.signal(one, end) for one in own}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
