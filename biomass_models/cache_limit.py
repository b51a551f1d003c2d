"""What a node's cache may hold: the groups that were not used for longest go first. Safe with several processes.

A group (node_cache.py) that somebody computes is locked and left alone. One that somebody reads may go: its files
vanish from the folder, but stay on the disk until the last process that has mapped them lets go of them, so nobody
reads a broken array. Lock and description stay where they are, or two processes could hold two locks of one group.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

USED = "used"  # its time says when the group was used last


def note_use(folder: Path) -> None:
    """Say that a group is being used now."""
    with contextlib.suppress(OSError):  # a cache that others own may be read without leaving a trace
        (folder / USED).touch()


def cache_bytes(root: Path) -> int:
    """Bytes of all arrays below a cache folder, unfinished ones included."""
    return sum(_bytes_of(folder) for folder in _groups(root))


@contextmanager
def room(root: Path, needed: int, limit: int | None, keep: Path) -> Iterator[None]:
    """Make room for `needed` bytes under the limit and hold it against other processes while they are allocated.

    keep: the group that they are for. Groups in the making are never deleted, so what several processes compute at once
    may pass the limit.
    """
    if limit is None:
        yield
        return
    with filelock.FileLock(root / "room.lock"):
        total = cache_bytes(root)
        for folder in sorted(_groups(root), key=_last_use):
            if total + needed <= limit:
                break
            if folder != keep:
                total -= _evict(folder)
        yield


def _evict(folder: Path) -> int:
    """Delete a group's arrays and return their bytes; nothing where a process works on it."""
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except (filelock.Timeout, OSError):
        return 0
    try:
        size = _bytes_of(folder)
        for file in folder.glob("*.npy"):
            file.unlink(missing_ok=True)
        shutil.rmtree(folder / "part", ignore_errors=True)
    finally:
        lock.release()
    return size


def _groups(root: Path) -> list[Path]:
    return [file.parent for file in root.glob("*/group.json")]


def _last_use(folder: Path) -> float:
    times = [0.0]
    for name in (USED, "group.json"):
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return max(times)


def _bytes_of(folder: Path) -> int:
    total = 0
    for file in (*folder.glob("*.npy"), *folder.glob("part/*.npy")):
        with contextlib.suppress(OSError):  # gone meanwhile
            total += file.stat().st_size
    return total
