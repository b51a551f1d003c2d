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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomass_models.errors import UserError
from biomass_models.features.chunks import SUFFIX, VERIFIED_BYTES, Array, Chunk, ChunkError, read_chunk, write_chunk
from biomass_models.features.claims import WAIT, held, noted, photographs_of
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
from biomass_models.hashes import hash_of
from biomass_models.interrupt import OnProgress, ShouldStop, check_stop
from biomass_models.whole_files import put_in_place, remove_left_over, unfinished_file, write_whole

# (rows of the image set, names of arrays) -> batches of arrays [b, ...] by name, in order; further names are kept too
Produce = Callable[[Sequence[int], Sequence[str]], Iterator[Mapping[str, Array]]]

SPAN_ROWS = 48  # photographs that one process claims at a time; more where many are missing
MOST_SPANS = 64  # of one request, so that large banks have few files
WRITE_EVERY = 60.0  # seconds of work after which a chunk is written, however few its rows
WRITE_BYTES = 128 << 20  # bytes after which a chunk is written
STACKED_BYTES = 32 << 20  # arrays up to this size are stacked in memory when a batch is taken
CLAIMS = "claims"
_TRIES = 4  # how often a row is computed before the store's disk is not trusted any more
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CacheError(UserError):
    """The feature store's folder cannot hold what is to be computed; nothing is wrong with what is computed."""


@dataclass(frozen=True)
class Rows:
    """One array [N, ...] of a bank for the N photographs of an image set, wherever its rows lie. Read-only."""

    parts: tuple[Array, ...]  # arrays of chunks, memory-mapped
    part_N: NDArray[np.int64]  # which part holds each row
    row_N: NDArray[np.int64]  # and at which place
    paths: tuple[Path, ...] = ()  # of the parts' chunks

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.row_N), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.row_N)

    def take(self, row_B: NDArray[np.int64]) -> Array:
        """Some rows, in the given order: [B, ...]."""
        return self._stacked[row_B] if self.nbytes <= STACKED_BYTES else self._gather(row_B)

    def read(self) -> Array:
        """All rows, as a new array in memory."""
        return self._gather(np.arange(len(self)))

    @cached_property
    def _stacked(self) -> Array:
        return self.read()

    def _gather(self, row_B: NDArray[np.int64]) -> Array:
        out = np.empty((len(row_B), *self.shape[1:]), dtype=self.dtype)
        part_B, place_B = self.part_N[row_B], self.row_N[row_B]
        for part in np.unique(part_B).tolist():
            chosen = part_B == part
            out[chosen] = self.parts[part][place_B[chosen]]
        return out


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
        request = _Request(self, self.root / hash_of(description), names, digests, span_rows)
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
            make_room(self.root, self.area, _nbytes(batches), self.limit, should_stop)
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


class _Request:
    """Named arrays of a bank for the photographs of an image set."""

    def __init__(
        self, store: FeatureStore, folder: Path, names: Sequence[str], digests: Sequence[str], span_rows: int
    ) -> None:
        self._store, self.folder, self._span_rows = store, folder, span_rows
        self._names, self._digests = tuple(names), digests
        self._row_of = {digest: row for row, digest in reversed(list(enumerate(digests)))}  # first of equal ones
        self._unique = list(dict.fromkeys(digests))
        self._lacking: dict[str, tuple[str, ...]] = {}  # photograph -> arrays that no chunk holds, in order
        self._chunks: dict[Path, Chunk] = {}  # that are taken into account
        self._computed = 0  # photographs
        self._forget()

    def missing(self) -> dict[str, tuple[str, ...]]:
        """Names of the arrays that each photograph lacks, in the order of the image set; whole ones are left out."""
        there = self._store.chunks(self.folder)
        if not there.keys() >= self._chunks.keys():
            self._forget()
        for path in there.keys() - self._chunks.keys():
            chunk = self._chunks[path] = there[path]
            for digest in self._lacking.keys() & set(chunk.digests):
                lacking = tuple(name for name in self._lacking[digest] if name not in chunk.arrays)
                if lacking:
                    self._lacking[digest] = lacking
                else:
                    del self._lacking[digest]
        return self._lacking

    def rows(self) -> dict[str, Rows]:
        """The arrays, every row of which is there."""
        used = [chunk for chunk in self._chunks.values() if not self._row_of.keys().isdisjoint(chunk.digests)]
        opened = {chunk.path: self._store.use(chunk) for chunk in used}
        places: dict[tuple[Path, ...], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        found = {}
        for name in self._names:
            holders = tuple(chunk.path for chunk in used if name in chunk.arrays)
            if holders not in places:
                places[holders] = self._places(holders)
            parts = tuple(opened[path][1][name] for path in holders)
            found[name] = Rows(parts, *places[holders], tuple(opened[path][0] for path in holders))
        return found

    def fill(self, produce: Produce, on_progress: OnProgress | None, should_stop: ShouldStop | None) -> None:
        """Compute, together with other processes, what no chunk holds."""
        total = len(self._unique)
        while missing := self._look():
            if self._computed > _TRIES * total:
                raise CacheError(f"{self.folder} does not keep what is written into it; name another folder (--cache)")
            with contextlib.ExitStack() as stack:
                with self._store.own_files(), held(self.folder / "lock", should_stop):
                    digests, names = self._unclaimed()
                    note = stack.enter_context(noted(self.folder / CLAIMS, digests)) if digests else ""
                if digests:
                    span = _Span(note, digests, names, total - len(self._lacking), total)
                    self._compute(span, produce, on_progress, should_stop)
                    self._computed += len(digests)
                    continue
            if on_progress is not None:  # who waits for a process that works is not stuck
                on_progress(total - len(missing), total)
            check_stop(should_stop, f"waiting for other processes that compute {self.folder}")
            time.sleep(WAIT)

    def _look(self) -> dict[str, tuple[str, ...]]:
        with self._store.own_files():
            return self.missing()

    def _forget(self) -> None:
        self._lacking, self._chunks = dict.fromkeys(self._unique, self._names), {}

    def _places(self, holders: Sequence[Path]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of some chunks holds each photograph, and in which row."""
        where = {
            digest: (part, row)
            for part, path in enumerate(holders)
            for row, digest in enumerate(self._chunks[path].digests)
        }
        part_N, row_N = np.array([where[digest] for digest in self._digests], dtype=np.int64).T
        return part_N, row_N

    def _unclaimed(self) -> tuple[list[str], tuple[str, ...]]:
        """Photographs that nobody has or computes, and the arrays that they all lack; under the bank's lock."""
        others = photographs_of(self.folder / CLAIMS, [self.folder / area for area in AREAS])
        missing = self.missing()  # after the claims: what was computed meanwhile is in one of the two
        free = [digest for digest in missing if digest not in others]
        if not free:
            return [], ()
        names = missing[free[0]]
        most = self._span_rows * max(1, -(-len(missing) // (self._span_rows * MOST_SPANS)))
        return [digest for digest in free if missing[digest] == names][:most], names

    def _compute(
        self, span: _Span, produce: Produce, on_progress: OnProgress | None, should_stop: ShouldStop | None
    ) -> None:
        """Rows of a span, written as a chunk whenever much time or memory is in them, and at the end."""
        done = 0
        batches = produce([self._row_of[digest] for digest in span.digests], span.names)
        try:
            for batch in batches:
                size = len(next(iter(batch.values())))
                if done == 0:
                    row_bytes = _nbytes([batch]) // size
                    own = sum(chunk.nbytes for chunk in self._chunks.values() if self._is_own(chunk))
                    self._store.require_room(row_bytes * len(self._lacking), own)
                span.batches.append(batch)
                done += size
                if on_progress is not None:
                    on_progress(span.before + done, span.total)
                if span.is_due:
                    self._write(span, should_stop)
                if done < len(span.digests):
                    check_stop(should_stop, f"{span.before + done} of {span.total} photographs are in {self.folder}")
        except BaseException:  # a stop, or a broken photograph: what was done before is kept
            with contextlib.suppress(CacheError):
                self._write(span, None)
            raise
        if done != len(span.digests):
            raise AssertionError(f"{self.folder} needs {len(span.digests)} rows, got {done}")
        self._write(span, should_stop)

    def _is_own(self, chunk: Chunk) -> bool:
        """Whether a chunk holds rows of this request, in the area of its quota."""
        return chunk.path.parent.name == self._store.area and not self._row_of.keys().isdisjoint(chunk.digests)

    def _write(self, span: _Span, should_stop: ShouldStop | None) -> None:
        digests, batches = span.unwritten()
        if digests:
            self._store.write(self.folder, span.note, digests, batches, should_stop)


@dataclass
class _Span:
    """Photographs that this process computes, and what of them is not written yet."""

    note: str  # name of the claim
    digests: list[str]
    names: tuple[str, ...]
    before: int  # photographs of the request that were there already
    total: int
    batches: list[Mapping[str, Array]] = field(default_factory=list)
    _written: int = 0
    _since: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        """Whether so much is unwritten that it had better be written now."""
        return time.monotonic() - self._since > WRITE_EVERY or _nbytes(self.batches) > WRITE_BYTES

    def unwritten(self) -> tuple[list[str], list[Mapping[str, Array]]]:
        """Photographs and batches that are not written yet; each is handed out once."""
        batches, self.batches, self._since = self.batches, [], time.monotonic()
        first = self._written
        self._written += sum(len(next(iter(batch.values()))) for batch in batches)
        return self.digests[first : self._written], batches


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


def _nbytes(batches: Sequence[Mapping[str, Array]]) -> int:
    return sum(array.nbytes for batch in batches for array in batch.values())


def _in_words(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
