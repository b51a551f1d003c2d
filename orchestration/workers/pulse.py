"""Whether the Ray that a command works with is still there, and work that must not hang when it is not.

Ray itself is silent for a minute after its control store (GCS) has died, and then aborts the process of the driver.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ray.exceptions import RayError

from biomass_models.errors import UserError
from orchestration.workers.address import ClusterError

T = TypeVar("T")
PING_SECONDS = 1.0  # between two questions, and the longest wait for an answer
GONE_SECONDS = 5.0  # a control store that nobody answers for so long is gone; one that is kept in Redis may restart
LOOK_SECONDS = 0.1  # between two looks at whether work has ended
LEAVE_SECONDS = 2.0  # for work that was told to leave
OWN = ("gcs_server", "raylet")  # without which an embedded Ray does nothing


class Pulse:
    """Asks after Ray's control store, or after the processes of an embedded Ray, in a thread of its own."""

    def __init__(self, gcs_address: str, node: Any | None, say: Callable[[str], None] = lambda text: None) -> None:
        """gcs_address: HOST:PORT of the control store; node: of an embedded Ray (ray._private.node.Node), else None.

        say: a remark at once when Ray is lost; going down without it takes seconds.
        """
        self._address, self._node, self._say = gcs_address, node, say
        self._answered = time.monotonic()
        self._closed, self._checking = threading.Event(), threading.Lock()
        self.lost: ClusterError | None = None
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def close(self) -> None:
        """Ask no more: Ray is about to be shut down."""
        self._closed.set()
        with self._checking:
            self._node = None

    def check(self) -> ClusterError | None:
        """How Ray was lost, or None; returns within a second or so."""
        with self._checking:
            if self.lost is None and not self._closed.is_set():
                self.lost = self._lost_cluster() if self._node is None else self._lost_process(self._node)
                if self.lost is not None:
                    self._say(f"{self.lost.found}; stopping")
        return self.lost

    def guard(
        self,
        work: Callable[[], T],
        lost: Callable[[], UserError | None] = lambda: None,
        leave: Callable[[], None] = lambda: None,
    ) -> T:
        """Do work that waits for Ray in a thread, and wait here for its end or for that of Ray.

        lost: another reason to wait no longer; leave: called when nobody waits for the work any more. Raises what the
        work raises, the reason, or ClusterError where Ray is lost. Work that hangs in Ray is left behind then.
        """
        ended, results, errors = threading.Event(), list[T](), list[BaseException]()

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:  # Ray ends threads that wait for it with SystemExit
                errors.append(error)
            ended.set()

        thread = threading.Thread(target=run, name="work", daemon=True)
        thread.start()
        try:
            while not ended.wait(LOOK_SECONDS):
                if (reason := self.lost or lost()) is not None:
                    self._raise(reason)
        finally:
            if not ended.is_set():
                leave()
                thread.join(LEAVE_SECONDS)
        if errors:
            self._raise(errors[0])
        return results[0]

    def _raise(self, error: BaseException) -> None:
        """Raise an error of work; where Ray is lost, which may show a little later, that is why."""
        end = time.monotonic() + GONE_SECONDS + PING_SECONDS
        while isinstance(error, ClusterError | RayError) and self.check() is None and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        if self.lost is not None and self.lost is not error and isinstance(error, Exception):
            raise self.lost from error
        raise error

    def _run(self) -> None:
        while not self._closed.wait(PING_SECONDS) and self.check() is None:
            pass

    def _lost_process(self, node: Any) -> ClusterError | None:
        dead = [name for name, _ in node.dead_processes() if name in OWN]
        if not dead:
            return None
        found = f"Ray has died under this command: its {dead[0]} is gone"
        return ClusterError(found, "run the same command again to resume, what was finished is kept", rule="")

    def _lost_cluster(self) -> ClusterError | None:
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PING_SECONDS).close()
            self._answered = time.monotonic()
        except OSError:
            pass
        if time.monotonic() - self._answered < GONE_SECONDS:
            return None
        return ClusterError(
            f"the head of the Ray cluster has died: nobody answers at {self._address}",
            "`ray stop` and `ray start` again on the head and on every worker, then run the same command again to "
            "resume; what was finished is kept",
            rule="",
        )
