"""Ray and the workers of a search, which come up while their driver still checks photographs. Light to import.

Ray's processes and torch in each worker take seconds of which the driver needs nothing. Only an embedded Ray starts so:
on a cluster a worker that nobody needs may cost a node.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from orchestration.processes import descendants, kill
from orchestration.verbosity import level_of_ray
from orchestration.workers.address import is_cluster
from orchestration.workers.context import WorkerContext
from orchestration.workers.resources import Resources

if TYPE_CHECKING:
    from orchestration.workers.pulse import Pulse

Say = Callable[[str], None]
CLONE_FS = 0x200  # of Linux' unshare: root and working directory
START_SECONDS = 20.0  # for a start that nobody wants any more, until its processes are killed
KILL_SECONDS = 2.0  # for those to be gone
LOOK_SECONDS = 0.1


class EarlyPool:
    """A context: whatever goes wrong in it, nothing of an early start outlives it.

    `begin` asks for Ray and workers, or does nothing where they must not start early; `cluster` and `pool` hand over
    what has started by then, or start it.
    """

    def __init__(self, context: WorkerContext, resources: Resources, say: Say) -> None:
        """context: as far as it is known; workers get the final one from `pool`."""
        self._context, self._resources, self._say = context, resources, say
        self._thread: threading.Thread | None = None
        self._ready, self._over = threading.Event(), threading.Event()
        self._stack = ExitStack()
        self._before = descendants(os.getpid())
        self._pulse: Pulse | None = None
        self._begun: tuple[Any, int] | None = None
        self._no_pool: BaseException | None = None

    def __enter__(self) -> EarlyPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def begin(self) -> None:
        """Start in a thread; a second call changes nothing."""
        if self._thread is None and not self._resources.inline and not is_cluster(self._resources.address):
            self._thread = threading.Thread(target=self._run, name="early", daemon=True)
            self._thread.start()

    @contextmanager
    def cluster(self) -> Iterator[Pulse]:
        """Ray, which ends with this context. Raises what starting it raises (cluster.ray_cluster)."""
        if self._thread is not None:
            while not self._ready.wait(LOOK_SECONDS):  # in steps, so that a signal gets through
                pass
        if self._pulse is None:  # also after a start that has failed: Ray has seconds for it, and a check takes some
            self._pulse = self._cluster()
        try:
            yield self._pulse
        finally:
            self._close()

    def pool(self, context: WorkerContext) -> tuple[Any, int]:
        """The broker and how many slots it has now, for workers with that context. Needs `cluster`.

        Raises what starting it raises (ray_pool.start_broker).
        """
        from orchestration.workers.slots.ray_pool import hand_over, start_broker

        if self._no_pool is not None:
            raise self._no_pool
        if self._begun is None:
            return start_broker(context, self._resources)
        hand_over(self._begun[0], context, self._resources)
        return self._begun

    def _run(self) -> None:
        try:
            self._start()
        finally:
            self._ready.set()
        self._over.wait()  # the kernel ends Ray's processes with the thread that has started them

    def _start(self) -> None:
        if not _own_working_directory():  # Ray's start changes it, and this process reads files by relative paths
            return
        logging.getLogger("ray").setLevel(level_of_ray())  # it warns of threads before it takes its level
        with suppress(Exception):  # it is started again where it is asked for, and then says why not
            self._pulse = self._cluster()
        if self._pulse is None:
            return
        try:
            from orchestration.workers.slots.ray_pool import start_broker

            self._begun = start_broker(self._context, self._resources)
        except BaseException as error:
            self._no_pool = error

    def _cluster(self) -> Pulse:
        from orchestration.workers.cluster import ray_cluster

        return self._stack.enter_context(ray_cluster(self._resources.address, say=self._say))

    def _close(self) -> None:
        if self._thread is not None and not self._ready.wait(START_SECONDS):
            kill(descendants(os.getpid()) - self._before, KILL_SECONDS)
            self._ready.wait(KILL_SECONDS)
        try:
            self._stack.close()
        finally:
            self._over.set()
            if self._thread is not None:
                self._thread.join(KILL_SECONDS)


def _own_working_directory() -> bool:
    """Give this thread, and processes that it starts, a working directory apart from the other threads'.

    False where the system does not do that.
    """
    if sys.platform != "linux":
        return False
    try:
        return ctypes.CDLL(None).unshare(CLONE_FS) == 0
    except (OSError, AttributeError):
        return False
