"""Addresses that pages are served at."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

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
