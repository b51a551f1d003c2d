"""What a node's feature store may hold: chunks that were not used for longest go first. Safe with several processes.

Training banks and predictions of new photographs have an area and a quota each, so that a prediction never evicts a
training bank. Rows that some process is asking for are left alone, so that no two requests evict each other's work:
together they may pass a quota, until they end. A chunk that somebody has mapped may go: its bytes stay on disk until
the last process that has mapped them lets go of them, so nobody reads a broken array.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Literal

from biomass_models.features.chunks import SUFFIX, ChunkError, read_chunk
from biomass_models.features.claims import held, photographs_of
from biomass_models.interrupt import ShouldStop

Area = Literal["study", "prediction"]
AREAS: tuple[Area, ...] = ("prediction", "study")  # in the order in which chunks move between them
REQUESTS = "requests"  # folder of a bank: which photographs are asked for now (claims.py)
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


def stored_bytes(root: Path, area: Area) -> int:
    """Bytes of all chunks of an area."""
    return sum(map(_bytes_of, chunks_of(root, area)))


def chunks_of(root: Path, area: Area) -> list[Path]:
    """Files of all chunks of an area."""
    return list(root.glob(f"*/{area}/*{SUFFIX}"))


def make_room(root: Path, area: Area, needed: int, limit: int | None, should_stop: ShouldStop | None = None) -> None:
    """Delete chunks of an area until `needed` bytes more fit under its limit, and on the disk; nothing without a limit.

    Processes that make room at once may pass the limit by what each is about to write.
    """
    if limit is None:
        return
    with held(root / "room.lock", should_stop):
        chunks = chunks_of(root, area)
        total = sum(map(_bytes_of, chunks))

        def is_there() -> bool:
            return total + needed <= limit and needed <= shutil.disk_usage(root).free

        if not is_there():
            drop_earlier_versions(root)
        wanted: dict[Path, set[str]] = {}  # bank -> photographs that are asked for
        for chunk in sorted(chunks, key=_last_use):
            if is_there():
                break
            bank = chunk.parent.parent
            if bank not in wanted:
                wanted[bank] = photographs_of(bank / REQUESTS)
            with contextlib.suppress(OSError, ChunkError):  # gone meanwhile, or not ours to delete
                if wanted[bank].isdisjoint(read_chunk(chunk).digests):
                    size = _bytes_of(chunk)
                    chunk.unlink()
                    total -= size


def drop_earlier_versions(root: Path) -> None:
    """Delete groups of version 0.1.0, which are never read again (CHANGELOG)."""
    for group in root.glob("*/group.json"):
        shutil.rmtree(group.parent, ignore_errors=True)


def _bytes_of(chunk: Path) -> int:
    with contextlib.suppress(OSError):  # gone meanwhile
        return chunk.stat().st_size
    return 0


def _last_use(chunk: Path) -> float:
    with contextlib.suppress(OSError):
        return chunk.stat().st_mtime
    return 0.0
