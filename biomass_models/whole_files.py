"""Local files and folders that appear at their name whole or not at all: made beside it, then renamed.

A writer holds a lock on its temporary file, which the kernel frees when the process dies: so the leavings of a killed
writer are told apart from the work of a living one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
UNLOCKED_SECONDS = 86400.0  # age of a leaving where the file system has no locks


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file to write; it takes the place of `path` when the block ends well, else it is removed.

    Whatever must be right about the file is checked within the block. Raises OSError that names a file.
    """
    with unfinished_file(path) as temporary:
        yield temporary
        put_in_place(temporary, path)


@contextlib.contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """As `whole_file`, for a file that gets another name than `path`: the block ends with `put_in_place`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, lock = _locked(path)
    try:
        yield temporary
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


def put_in_place(temporary: Path, path: Path) -> None:
    """Give an unfinished file its name, after its bytes have reached the disk."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)


def write_whole(path: Path, content: bytes) -> None:
    """Put a whole file in place: a reader sees the old content or the new one, never a part."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of `path`, which is new or an empty folder, when the block ends well."""
    final = path.resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}-") as scratch:
        part = Path(scratch) / final.name
        part.mkdir()
        yield part
        if final.exists():
            final.rmdir()
        part.replace(final)


def remove_left_over(root: Path) -> list[Path]:
    """Delete the temporary files below `root` whose writers are dead; returns their paths."""
    found = [Path(folder) / name for folder, _, names in os.walk(root) for name in names if _TEMPORARY.fullmatch(name)]
    return [path for path in sorted(found) if _removed(path)]


def _locked(path: Path) -> tuple[Path, int]:
    while True:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        lock = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if temporary.exists():  # else it was swept up between the two lines above
            return temporary, lock
        os.close(lock)


def _removed(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDWR)
    except OSError:  # finished or removed meanwhile, or not ours
        return False
    try:
        if left_over := _writer_is_dead(lock):
            path.unlink(missing_ok=True)
        return left_over
    finally:
        os.close(lock)


def _writer_is_dead(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(lock).st_mtime > UNLOCKED_SECONDS
    return True
