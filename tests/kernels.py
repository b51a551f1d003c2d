"""A notebook's kernel as tests drive it: run a cell, interrupt it, see what it shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from orchestration.processes import descendants, kill

PATIENCE = 200.0  # seconds for what must happen, on a machine that others use as well
ROOT = Path(__file__).parents[1]


@contextmanager
def own_environment(folder: Path) -> Iterator[dict[str, str]]:
    """Of this process and of kernels that it starts: nothing of the user's, neither settings of Jupyter and IPython
    nor a cache."""
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    before = dict(os.environ)
    os.environ.update({**own, "BIOMASS_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)})
    try:
        yield dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)


class Kernel:
    """A kernel under way. Outputs of the last cell as a notebook stores them, but updated ones are replaced."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager, self._client = manager, client
        self.outputs: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        return int(self._manager.provisioner.pid)  # type: ignore[union-attr]

    def run(self, code: str, meanwhile: Callable[[], bool] | None = None) -> dict[str, Any]:
        """Run a cell; returns the reply. meanwhile: called again and again until it is true or the cell ends."""
        self.outputs, shown = [], dict[str, int]()
        request = self._client.execute(code)
        end, waiting = time.monotonic() + PATIENCE, meanwhile
        while True:
            assert time.monotonic() < end, self.outputs
            if waiting is not None and waiting():
                waiting = None
            try:
                message = self._client.get_iopub_msg(timeout=0.05)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return self._reply_to(request)
            name = content.get("transient", {}).get("display_id")
            if kind == "update_display_data":
                self.outputs[shown[name]] = content
            elif kind in ("stream", "display_data", "execute_result", "error"):
                if name is not None:
                    shown[name] = len(self.outputs)
                self.outputs.append(content)

    def _reply_to(self, request: str) -> dict[str, Any]:
        while True:
            reply = self._client.get_shell_msg(timeout=PATIENCE)
            if reply["parent_header"].get("msg_id") == request:
                return reply["content"]

    @property
    def text(self) -> str:
        """All that the last cell shows, as text."""
        parts = [one.get("text") or one.get("data", {}).get("text/plain") or "" for one in self.outputs]
        return "\n".join([*parts, *("\n".join(one["traceback"]) for one in self.outputs if "traceback" in one)])

    def interrupt(self) -> bool:
        """As the stop button does: SIGINT to the kernel and to what it has started in its group."""
        self._manager.interrupt_kernel()
        return True


@contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    """A kernel that works in a folder; nothing of it stays."""
    manager = KernelManager(kernel_name="python3")
    with own_environment(folder) as own:
        manager.start_kernel(env=own, cwd=str(folder))
        client = manager.client()
        client.start_channels()
        found = Kernel(manager, client)
        try:
            client.wait_for_ready(timeout=PATIENCE)
            yield found
        finally:
            processes = descendants(found.pid)
            client.stop_channels()
            manager.shutdown_kernel(now=True)
            kill(processes)
