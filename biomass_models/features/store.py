"""Rows that are computed once per node and photograph, and memory-mapped by every process on it.

A bank is a folder named by the hash of all that changes the numbers but the photographs. Its rows lie in chunks
(chunks.py); the index of a bank, photograph -> chunk and row, is made from the chunks' headers. Processes claim spans
of photographs that nobody has computed (claims.py), compute them and write chunks of their own: nothing is joined, and
a death at any instant costs the rows that were not written yet.

    ROOT/<bank>/bank.json                        the description, for people
    ROOT/<bank>/study/<content>.safetensors      chunks of training banks
    ROOT/<bank>/prediction/<content>.safetensors chunks of new photographs, under a quota of their own (eviction.py)
    ROOT/<bank>/claims/, requests/, lock         who computes and who needs what now
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomass_models.features.chunks import SUFFIX, VERIFIED_BYTES, Array, Chunk, ChunkError, read_chunk, write_chunk
from biomass_models.features.claims import noted
from biomass_models.features.eviction import (
    AREAS,
    REQUESTS,
    Area,
    chunks_of,
    drop_earlier_versions,
    limit_of,
    make_room,
    note_use,
    stored_bytes,
)
from biomass_models.features.request import SPAN_ROWS, Produce, Request
from biomass_models.features.rows import CacheError, Rows, nbytes_of
from biomass_models.hashes import hash_of
from biomass_models.interrupt import OnProgress, ShouldStop, check_stop
from biomass_models.whole_files import put_in_place, remove_left_over, unfinished_file, write_whole

_FULL = (errno.ENOSPC, errno.EDQUOT)


class FeatureStore:
    """The banks below one folder of a node's own disk."""

    def __init__(self, root: Path, *, limit_gb: float | None = None, area: Area = "study") -> None:
        """limit_gb: what the store may hold; area: whose quota new chunks count for, all chunks are read."""
        self.root, self.area, self.limit = Path(root), area, limit_of(area, limit_gb)
        self._headers: dict[Path, Chunk] = {}
        self._verified: set[str] = set()  # names of chunks

    def bank(
        self,
        description: Mapping[str, Any],
        names: Sequence[str],
        digests: Sequence[str],
        produce: Produce,
        *,
        span_rows: int = SPAN_ROWS,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> dict[str, Rows]:
        """The named arrays of a bank for photographs by their content hashes; computes what the node does not have.

        produce(rows, names): arrays of the photographs at these places of `digests`. span_rows: photographs that are
        claimed at a time, or a multiple. on_progress: photographs done, of all different ones.
        Raises StopRequested between two batches (what was done is kept), CacheError, and what `produce` raises.
        """
        if not digests:
            raise ValueError("a bank is asked for at least one photograph, got none")
        request = Request(self, self.root / hash_of(description), names, digests, span_rows)
        with contextlib.suppress(FileNotFoundError, ChunkError, PermissionError):
            if not request.missing():
                return request.rows()  # nothing is written into a store that has everything
        with self.own_files():
            request.folder.mkdir(parents=True, exist_ok=True)
            _describe(request.folder / "bank.json", description)
        with self._noted(request.folder / REQUESTS, digests):
            while True:
                request.fill(produce, on_progress, should_stop)
                with self.own_files():
                    try:
                        return request.rows()
                    except (FileNotFoundError, ChunkError):  # deleted by another process, or damaged
                        check_stop(should_stop, f"a part of {request.folder} is gone, and is computed again")

    @contextmanager
    def own_files(self) -> Iterator[None]:
        """Inside, the store's own files are worked on: an error of the operating system is a CacheError."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise CacheError(
                    f"features need room on the disk of {self.root}, got none; make room, or name another folder with "
                    "--cache"
                ) from error
            said = os.strerror(error.errno).lower() if error.errno else str(error)
            raise CacheError(
                f"the feature cache is a folder that can be written, got {said}: {error.filename or self.root}; name "
                "another one with --cache"
            ) from error

    # -- for a request ---------------------------------------------------------------------------------------------

    def chunks(self, folder: Path) -> dict[Path, Chunk]:
        """All whole chunks of a bank. A damaged one is deleted: its rows are computed again."""
        found = {}
        for area in AREAS:
            for path in sorted((folder / area).glob(f"*{SUFFIX}")):
                try:
                    found[path] = self._headers[path] if path in self._headers else read_chunk(path)
                except ChunkError:
                    path.unlink(missing_ok=True)
                except FileNotFoundError:
                    continue
        self._headers = {path: chunk for path, chunk in self._headers.items() if path.parent.parent != folder} | found
        return found

    def write(
        self,
        folder: Path,
        note: str,
        digests: Sequence[str],
        batches: Sequence[Mapping[str, Array]],
        should_stop: ShouldStop | None,
    ) -> None:
        """Put rows in place as one chunk, making room for it under the quota."""
        with self.own_files():
            make_room(self.root, self.area, nbytes_of(batches), self.limit, should_stop)
            place = folder / self.area
            with unfinished_file(place / note) as unfinished:
                put_in_place(unfinished, place / write_chunk(unfinished, digests, batches))

    def require_room(self, needed: int, own: int) -> None:
        """Raise CacheError when bytes fit neither under the limit, beside a request's own, nor on the disk."""
        if self.area == "study" and self.limit is not None and needed + own > self.limit:
            raise CacheError(
                f"one bank of features needs {_in_words(needed + own)}, the cache may hold "
                f"{_in_words(self.limit)} of them; raise --cache-gb"
            )
        with self.own_files():
            evictable = 0 if self.limit is None else max(0, stored_bytes(self.root, self.area) - own)
            if needed > 0.95 * (shutil.disk_usage(self.root).free + evictable):
                drop_earlier_versions(self.root)
            free = shutil.disk_usage(self.root).free + evictable
        if needed > 0.95 * free:
            raise CacheError(
                f"features need {_in_words(needed)} in {self.root}, got {_in_words(free)} free; make room, or "
                "choose another cache directory, smaller pictures, fewer copies or a coarser token grid"
            )

    def use(self, chunk: Chunk) -> tuple[Path, dict[str, Array]]:
        """Where a chunk is, and its arrays. Raises ChunkError for a small one that is damaged, and deletes it."""
        if chunk.nbytes <= VERIFIED_BYTES and chunk.path.name not in self._verified:
            try:
                chunk.verify()
            except ChunkError:
                chunk.path.unlink(missing_ok=True)
                raise
            self._verified.add(chunk.path.name)
        chunk = self._adopted(chunk)
        note_use(chunk.path)
        return chunk.path, chunk.open()

    def _adopted(self, chunk: Chunk) -> Chunk:
        """The chunk where a study keeps it: one that was made for a prediction moves to the training banks."""
        if self.area != "study" or chunk.path.parent.name == "study":
            return chunk
        target = chunk.path.parent.with_name("study") / chunk.path.name
        try:
            make_room(self.root, "study", chunk.nbytes, self.limit)
            target.parent.mkdir(exist_ok=True)
            chunk.path.rename(target)
        except FileNotFoundError:  # another process was first, or has made room with it
            raise
        except OSError:  # a store that others own is read as it is
            return chunk
        return replace(chunk, path=target)

    @contextmanager
    def _noted(self, folder: Path, digests: Sequence[str]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with self.own_files():
                stack.enter_context(noted(folder, list(dict.fromkeys(digests))))
            yield


def damaged_chunks(root: Path, on_progress: OnProgress | None = None) -> Iterator[str]:
    """What is wrong with each chunk of a store whose bytes are not those that were written, with the remedy."""
    paths = sorted(path for area in AREAS for path in chunks_of(Path(root), area))
    for number, path in enumerate(paths, start=1):
        try:
            read_chunk(path).verify()
        except ChunkError as error:
            yield str(error)
        except FileNotFoundError:
            continue  # another process made room with it
        if on_progress is not None:
            on_progress(number, len(paths))


def _describe(path: Path, description: Mapping[str, Any]) -> None:
    if not path.exists():
        remove_left_over(path.parent)
        write_whole(path, json.dumps(description, indent=1, sort_keys=True).encode())


def _in_words(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
