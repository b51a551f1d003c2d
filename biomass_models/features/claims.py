"""What processes do with a bank now: notes that end with the process that made them.

A note is a file with photographs and a lock that its owner holds. There are two kinds: claims (photographs that a
process computes) are made and looked at under the bank's lock only, so that no photograph is claimed twice; requests
(photographs whose rows a process needs) keep those rows from being evicted meanwhile. The kernel frees the lock of an
owner that dies, and who looks next removes what it left. A child that was forked while a note was held holds it too.
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
from biomass_models.whole_files import remove_left_over, write_whole

WAIT = 0.5  # seconds between two looks at `should_stop` while another process holds a lock


@contextmanager
def noted(folder: Path, digests: Sequence[str]) -> Iterator[str]:
    """Hold a note about photographs; yields its name, which begins with this process's id."""
    name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_over(folder)
    note, lock = folder / f"{name}.json", filelock.FileLock(folder / f"{name}.lock")
    lock.acquire()  # before the note is there: a note without a held lock is one of a dead process
    try:
        write_whole(note, json.dumps(list(digests)).encode())
        yield name
    finally:
        _remove(folder, name)
        lock.release()


def photographs_of(folder: Path, scratch: Sequence[Path] = ()) -> set[str]:
    """Content hashes in the notes of all living processes; removes what dead ones left.

    scratch: folders with unfinished files of the notes' owners.
    """
    found: set[str] = set()
    for note in folder.glob("*.json"):
        lock = filelock.FileLock(note.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            with contextlib.suppress(FileNotFoundError):  # released just now
                found.update(json.loads(note.read_text()))
            continue
        try:
            for place in scratch:
                remove_left_over(place)
            _remove(folder, note.stem)
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


def _remove(folder: Path, name: str) -> None:
    for suffix in ("json", "lock"):
        with contextlib.suppress(OSError):
            (folder / f"{name}.{suffix}").unlink()
