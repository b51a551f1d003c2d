"""Who computes which photographs of a bank now: claims that end with the process that made them.

A claim is a file with its photographs and a lock that its owner holds. Claims are made, read and removed under the
bank's lock only, so that no photograph is claimed twice; the kernel frees the lock of an owner that dies, and the next
process that looks removes what it left.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import filelock

from biomass_models.interrupt import ShouldStop, check_stop

WAIT = 0.5  # seconds between two looks at `should_stop` while another process holds a lock


class Claim:
    """Photographs that this process computes; released when it is done or dies."""

    def __init__(self, folder: Path, digests: Sequence[str]) -> None:
        """Called under the bank's lock."""
        self.name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(json.dumps(list(digests)))
        self._lock = filelock.FileLock(folder / f"{self.name}.lock")
        self._lock.acquire()

    def release(self) -> None:
        """Give the photographs back. Its files go before its lock: a name is never used again."""
        for suffix in ("json", "lock"):
            with contextlib.suppress(OSError):
                (self._folder / f"{self.name}.{suffix}").unlink()
        self._lock.release()


def claimed(folder: Path, scratch: Sequence[Path]) -> set[str]:
    """Content hashes of all photographs that living processes compute now; removes what dead ones left.

    Called under the bank's lock. scratch: folders in which a claim's unfinished files lie, `.<claim>.*`.
    """
    found: set[str] = set()
    for file in folder.glob("*.json"):
        lock = filelock.FileLock(file.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            with contextlib.suppress(FileNotFoundError):  # released just now
                found.update(json.loads(file.read_text()))
            continue
        try:
            for place in scratch:
                for unfinished in place.glob(f".{file.stem}.*"):
                    unfinished.unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            file.with_suffix(".lock").unlink(missing_ok=True)
        finally:
            lock.release()
    return found


@contextmanager
def held(path: Path, should_stop: ShouldStop | None) -> Iterator[None]:
    """Hold a lock file; StopRequested when a stop is asked for while another process holds it."""
    lock = filelock.FileLock(path)
    while True:
        try:
            lock.acquire(timeout=WAIT)
            break
        except filelock.Timeout:
            check_stop(should_stop, f"waiting for another process that holds {path}")
    try:
        yield
    finally:
        lock.release()
