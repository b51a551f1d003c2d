"""One driver at a time per study: a lock with owner, host and heartbeat, and the takeover of one that was left behind.

On a local path the kernel's file lock decides, and is free as soon as its holder dies. Beside it, and alone on object
stores and mounts without file locks, owner.json says who drives the study; its driver writes it anew every few seconds
together with what it is doing, so that `biomass status` can tell a search that runs from one that was killed.

Whether a driver of another machine lives is seen from its beat: one that does not change while this machine's own clock
advances by STALE_SECONDS is dead. What the beat says of the time is never compared with the clock here.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import filelock

from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.file_locks import lock_problem
from orchestration.study import layout
from orchestration.study.ledger import Ledger
from orchestration.study.records import Owner, SearchFacts
from orchestration.study.storage import Storage

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # without a new beat: that driver is dead
LOOK_SECONDS = 1.0  # between two looks at another driver's beat
SETTLE_SECONDS = 1.0  # two drivers that take a free object-store lock at once: the later writer has it


class LockError(UserError):
    """Somebody else works on the study; the text says who, since when and what to do."""


class Heartbeat:
    """The driver's sign of life. `facts` are published with every beat."""

    def __init__(self, storage: Storage, settles: bool = False) -> None:
        """settles: no kernel lock has decided between drivers that come at the same moment."""
        self._storage, self._settles = storage, settles
        now = time.time()
        self._owner = Owner(
            host=socket.gethostname(),
            machine=this_machine(),
            pid=os.getpid(),
            since=now,
            beat=now,
            token=uuid.uuid4().hex,
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.lost_to: str | None = None  # who has taken the study over while this driver could not beat

    @property
    def since(self) -> float:
        """When this driver began, in seconds since 1970."""
        return self._owner.since

    def publish(self, facts: SearchFacts) -> None:
        self._owner = replace(self._owner, facts=facts)

    def start(self) -> None:
        """Take the lock; LockError when another driver took it at the same moment."""
        self._beat()
        if self._settles:
            time.sleep(SETTLE_SECONDS)
            if (owner := read_owner(self._storage)) is None or owner.token != self._owner.token:
                raise LockError(_held(self._storage, owner))
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        owner = read_owner(self._storage)
        if owner is not None and owner.token == self._owner.token:
            self._storage.remove(layout.OWNER)

    def _run(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                owner = read_owner(self._storage)
                if owner is not None and owner.token != self._owner.token:
                    self.lost_to = who(owner)
                    return
                self._beat()
            except OSError:
                continue  # a store that does not answer for a moment; if it lasts, the next beat sees who took over

    def _beat(self) -> None:
        beat = replace(self._owner, beat=time.time())
        self._storage.write(layout.OWNER, json.dumps(beat.to_json()).encode())


def read_owner(storage: Storage) -> Owner | None:
    """Who drives the study; None when nobody does, or when what is written there cannot be read."""
    try:
        return storage.parsed(layout.OWNER, lambda content: Owner.from_json(json.loads(content)))
    except (FileNotFoundError, ValueError):
        return None


def is_alive(owner: Owner, storage: Storage | None = None) -> bool:
    """Whether the driver has given a sign of life of late; one of this machine must also be a living process.

    storage: where a beat that looks old, or lies in the future, is watched for its next change: the clock of another
    machine may be wrong.
    """
    here = is_here(owner)
    if here and not _exists(owner.pid):
        return False
    age = time.time() - owner.beat
    if storage is not None and (age < -STALE_SECONDS or (age >= STALE_SECONDS and not here)):
        return _beats(storage, owner, 2 * BEAT_SECONDS + LOOK_SECONDS)
    return age < STALE_SECONDS


def _beats(storage: Storage, owner: Owner, seconds: float) -> bool:
    """Whether another driver writes its sign of life anew, or takes it away, within so many seconds of this clock."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(LOOK_SECONDS, left))
        now = read_owner(storage)
        if now is None or (now.token, now.beat) != (owner.token, owner.beat):
            return True
    return False


def who(owner: Owner) -> str:
    return f"process {owner.pid} on {owner.host} since {_when(owner.since)}"


def require_free(storage: Storage) -> None:
    """Raise LockError where the kernel's lock shows that a driver of this machine holds the study; takes nothing."""
    lock = Path(storage.uri) / layout.LOCK
    if not storage.is_local or not lock.exists() or lock_problem(lock.parent):
        return
    kernel_lock = filelock.FileLock(lock)
    try:
        kernel_lock.acquire(timeout=0)
    except filelock.Timeout:
        raise LockError(_held(storage, read_owner(storage))) from None
    kernel_lock.release()


@contextmanager
def study_lock(ledger: Ledger, say: Callable[[str], None] = lambda text: None) -> Iterator[Heartbeat]:
    """Hold the study for one driver. A lock that its driver left behind is taken over, with a remark.

    Raises LockError that says who holds it and since when.
    """
    storage = ledger.storage
    kernel_lock: filelock.BaseFileLock | None = None
    if storage.is_local:
        folder = Path(storage.uri)
        folder.mkdir(parents=True, exist_ok=True)
        if why := lock_problem(folder):
            say(f"note: files in {folder} cannot be locked ({why}); {layout.OWNER} alone keeps two searches apart")
        else:
            kernel_lock = filelock.FileLock(folder / layout.LOCK)
    if kernel_lock is not None:
        try:
            kernel_lock.acquire(timeout=0)
        except filelock.Timeout:
            raise LockError(_held(storage, read_owner(storage))) from None
    try:
        if (owner := read_owner(storage)) is not None:
            # the kernel's lock being free, a driver of this machine is gone however fresh its last beat
            is_gone = owner.host == socket.gethostname() if kernel_lock else is_here(owner) and not _exists(owner.pid)
            if not is_gone:
                owner = _outwait(storage, owner, say)
        if owner is not None:
            say(f"note: {who(owner)} left the study behind, last sign of life {_when(owner.beat)}; taken over")
        heartbeat = Heartbeat(storage, settles=kernel_lock is None)
        heartbeat.start()
        try:
            if left_over := storage.sweep():
                say(f"note: {counted(left_over, 'temporary file')} of killed processes removed")
            yield heartbeat
        finally:
            heartbeat.stop()
    finally:
        if kernel_lock is not None:
            kernel_lock.release()


def _outwait(storage: Storage, owner: Owner, say: Callable[[str], None]) -> Owner | None:
    """The driver, when it gave no sign of life for STALE_SECONDS; None when it gave the study back meanwhile.

    Raises LockError as soon as it gives a sign of life.
    """
    say(f"note: {who(owner)} holds the study; waiting up to {STALE_SECONDS:.0f} s for a sign of life")
    if not _beats(storage, owner, STALE_SECONDS):
        return owner
    for _ in range(2):  # twice: not every store that is opened by a URI puts a file in place whole
        if (now := read_owner(storage)) is not None:
            raise LockError(_held(storage, now))
        time.sleep(LOOK_SECONDS)
    return None


def _held(storage: Storage, owner: Owner | None) -> str:
    holder = "another process" if owner is None else who(owner)
    return (
        f"one search at a time works on a study; {storage.uri} is held by {holder}. "
        "Wait for it, stop it, or use another study folder"
    )


@cache
def this_machine() -> str:
    """What tells this machine since it was started, and this container's process ids, from all others.

    Containers, and machines of one image, may share a host name; a process id means nothing elsewhere.
    """
    found = [socket.gethostname()]
    with suppress(OSError):  # Linux alone has them
        found += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(found)


def is_here(owner: Owner) -> bool:
    """Whether a driver's process id is one of this machine."""
    return owner.host == socket.gethostname() and owner.machine in (None, this_machine())


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
