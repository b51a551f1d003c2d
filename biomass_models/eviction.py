"""What a node's feature store may hold: chunks that were not used for longest go first. Safe with several processes.

Training banks and predictions of new photographs have an area and a quota each, so that a prediction never evicts a
training bank. A chunk that somebody reads may go: its bytes stay on the disk until the last process that has mapped
them lets go of them, so nobody reads a broken array.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import filelock

from biomass_models.chunks import SUFFIX

Area = Literal["study", "prediction"]
AREAS: tuple[Area, ...] = ("study", "prediction")
PREDICTION_SHARE = 0.25  # of the limit, in addition to it
PREDICTION_BYTES = 4_000_000_000  # quota of predictions where the store has no limit


def limit_of(area: Area, gigabytes: float | None) -> int | None:
    """Most bytes of an area of a store that may hold so many GB (--cache-gb); None is no limit."""
    if area == "study":
        return None if gigabytes is None else int(gigabytes * 1e9)
    return PREDICTION_BYTES if gigabytes is None else int(PREDICTION_SHARE * gigabytes * 1e9)


def note_use(chunk: Path) -> None:
    """Record that a chunk is in use now."""
    with contextlib.suppress(OSError):  # a store that others own may be read without leaving a trace
        os.utime(chunk)


def stored_bytes(root: Path, area: Area | None = None) -> int:
    """Bytes of all chunks of a store, or of one area."""
    return sum(_size(chunk) for each in AREAS if area in (None, each) for chunk in chunks_of(root, each))


def chunks_of(root: Path, area: Area) -> list[Path]:
    """Files of all chunks of an area."""
    return list(root.glob(f"*/{area}/*{SUFFIX}"))


@contextmanager
def room(root: Path, area: Area, needed: int, limit: int | None, keep: Container[Path]) -> Iterator[None]:
    """Make room for `needed` bytes under the area's limit and hold it against other processes while they are written.

    keep: chunks that are in use for the very bank that the bytes are for.
    """
    if limit is None:
        yield
        return
    with filelock.FileLock(root / "room.lock"):
        chunks = chunks_of(root, area)
        total = sum(map(_size, chunks))
        if total + needed > limit:
            drop_earlier_versions(root)
        for chunk in sorted(chunks, key=_last_use):
            if total + needed <= limit:
                break
            if chunk not in keep:
                total -= _size(chunk)
                chunk.unlink(missing_ok=True)
        yield


def drop_earlier_versions(root: Path) -> None:
    """Delete groups of version 0.1.0, which are never read again (CHANGELOG)."""
    for group in root.glob("*/group.json"):
        shutil.rmtree(group.parent, ignore_errors=True)


def _size(chunk: Path) -> int:
    with contextlib.suppress(OSError):  # gone meanwhile
        return chunk.stat().st_size
    return 0


def _last_use(chunk: Path) -> float:
    with contextlib.suppress(OSError):
        return chunk.stat().st_mtime
    return 0.0
