"""Where Ray's own dashboard answers, if a Ray with one runs. Asks by HTTP: importing Ray takes seconds."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from orchestration.workers.address import is_ray_dashboard

PORT = 8265  # Ray's own default
ADDRESS_FILE = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"


def find_ray_dashboard(port: int = PORT, seconds: float = 1.0) -> str | None:
    """Its address, looked for where RAY_ADDRESS points, where `ray start` says its head is, and on this machine."""
    for host in dict.fromkeys([*_hosts(), "127.0.0.1"]):
        address = f"http://{host}:{port}"
        if is_ray_dashboard(address, seconds):
            return address
    return None


def _hosts() -> list[str]:
    try:
        current = ADDRESS_FILE.read_text().strip()
    except OSError:
        current = ""
    named = [os.environ.get("RAY_ADDRESS", ""), current]
    # host:6379, ray://host:10001 and http://host:8265 alike
    hosts = [urlsplit(address if "://" in address else f"//{address}").hostname for address in named if address]
    return [host for host in hosts if host and host not in ("auto", "local")]
