"""Rows that are computed once per node and photograph, and memory-mapped by every process on it.

A bank is a folder named by the hash of all that changes the numbers but the photographs. Its rows lie in chunks
(chunks.py); the index of a bank, photograph -> chunk and row, is made from the chunks' headers. Processes claim spans
of photographs that nobody has computed (claims.py), compute them and write chunks of their own: nothing is joined, and
a death at any instant costs the rows that were not written yet.

    ROOT/<bank>/bank.json                        the description
    ROOT/<bank>/study/<content>.safetensors      chunks of training banks
    ROOT/<bank>/prediction/<content>.safetensors chunks of new photographs, under a quota of their own (eviction.py)
    ROOT/<bank>/claims/, lock                    who computes what now
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomass_models.chunks import SUFFIX, VERIFIED_BYTES, Array, Chunk, ChunkError, read_chunk, write_chunk
from biomass_models.claims import WAIT, Claim, claimed, held
from biomass_models.eviction import AREAS, Area, drop_earlier_versions, limit_of, note_use, room
from biomass_models.hashes import hash_of
from biomass_models.interrupt import OnProgress, ShouldStop, check_stop

# (rows of the image set, names of arrays) -> batches of arrays [b, ...] by name, in order; further names are kept too
Produce = Callable[[Sequence[int], Sequence[str]], Iterator[Mapping[str, Array]]]

SPAN_ROWS = 48  # photographs that one process claims at a time; more where many are missing
MOST_SPANS = 256  # of one request, so that large banks have few files
WRITE_EVERY = 20.0  # seconds of work after which a chunk is written, however few its rows
WRITE_BYTES = 128 << 20  # bytes after which a chunk is written
STACKED_BYTES = 32 << 20  # arrays up to this size are stacked in memory at the first batch
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CacheError(RuntimeError):
    """The feature store's folder cannot hold what is to be computed; nothing is wrong with what is computed."""


@dataclass(frozen=True)
class Rows:
    """One array [N, ...] of a bank for the N photographs of an image set, wherever its rows lie. Read-only."""

    parts: tuple[Array, ...]  # arrays of chunks, memory-mapped
    part_N: NDArray[np.int64]  # which part holds each row
    row_N: NDArray[np.int64]  # and at which place
    paths: tuple[Path, ...]  # of the chunks

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
        self.root, self._limit, self._area = Path(root), limit_of(area, limit_gb), area
        self._chunks: dict[Path, Chunk] = {}  # headers that were read
        self._verified: set[Path] = set()

    def bank(
        self,
        description: Mapping[str, Any],
        names: Sequence[str],
        digests: Sequence[str],
        produce: Produce,
        *,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> dict[str, Rows]:
        """The named arrays of a bank for photographs by their content hashes; computes what the node does not have.

        produce(rows, names): arrays of the photographs at these places of `digests`. on_progress: photographs done,
        of all different ones. Raises StopRequested between two batches (what was done is kept), CacheError, and what
        `produce` raises.
        """
        bank = _Bank(self, self.root / hash_of(description), names, digests)
        try:
            while True:
                bank.fill(description, produce, on_progress, should_stop)
                try:
                    return bank.rows()
                except (FileNotFoundError, ChunkError):  # made room with by another process, or damaged and deleted
                    check_stop(should_stop, f"a part of {bank.folder} is gone, and is computed again")
        except OSError as error:
            if (problem := self._problem(error)) is not None:
                raise problem from error
            raise

    def _problem(self, error: OSError) -> CacheError | None:
        """What an error of the operating system says about the store's own files; None where it is about others."""
        if error.errno in _FULL:
            return CacheError(
                f"features need room on the disk of {self.root}, got none; make room, or name another folder with "
                "--cache"
            )
        inside = error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(self.root)
        above = error.filename is not None and self.root.is_relative_to(Path(os.fsdecode(error.filename)))
        if inside or above:
            said = os.strerror(error.errno).lower() if error.errno else str(error)
            return CacheError(
                f"the feature cache is a folder that can be written, got {said}: {error.filename}; name another one "
                "with --cache"
            )
        return None

    # -- for a bank ------------------------------------------------------------------------------------------------

    def chunks(self, folder: Path) -> Iterator[Chunk]:
        """All whole chunks of a bank; each header is read once. A torn one is deleted: its rows are computed again."""
        for area in AREAS:
            for path in sorted((folder / area).glob(f"*{SUFFIX}")):
                try:
                    if path not in self._chunks:
                        self._chunks[path] = read_chunk(path)
                    yield self._chunks[path]
                except ChunkError:
                    path.unlink(missing_ok=True)
                except FileNotFoundError:
                    continue

    def write(
        self, folder: Path, claim: Claim, digests: Sequence[str], arrays: Mapping[str, Array], keep: set[Path]
    ) -> None:
        """Put rows in place as one chunk, making room for it under the quota."""
        needed = sum(array.nbytes for array in arrays.values())
        with room(self.root, self._area, needed, self._limit, keep):
            chunk = write_chunk(folder / self._area, digests, arrays, f".{claim.name}.tmp")
        self._chunks[chunk.path] = chunk

    def require_room(self, row_bytes: int, photographs: int, missing: int) -> None:
        """Raise CacheError when a bank of so many photographs does not fit, or the missing ones do not."""
        if self._limit is not None and row_bytes * photographs > self._limit:
            raise CacheError(
                f"one bank of features needs {_size(row_bytes * photographs)}, the cache may hold "
                f"{_size(self._limit)} of them; raise --cache-gb"
            )
        needed, free = row_bytes * missing, shutil.disk_usage(self.root).free
        if needed > 0.95 * free:
            drop_earlier_versions(self.root)
            free = shutil.disk_usage(self.root).free
        if needed > 0.95 * free:
            raise CacheError(
                f"features need {_size(needed)} in {self.root}, got {_size(free)} free; make room, or "
                "choose another cache directory, smaller pictures, fewer copies or a coarser token grid"
            )

    def use(self, chunk: Chunk) -> Chunk:
        """A chunk whose rows are going to be used; one that was made for a prediction becomes the study's that uses it.

        Raises ChunkError for a small chunk with other bytes than were written, and deletes it.
        """
        if chunk.nbytes <= VERIFIED_BYTES and chunk.path not in self._verified:
            try:
                chunk.verify()
            except ChunkError:
                chunk.path.unlink(missing_ok=True)
                raise
            self._verified.add(chunk.path)
        if self._area == "study" and chunk.path.parent.name != "study":
            target = chunk.path.parent.with_name("study") / chunk.path.name
            with contextlib.suppress(PermissionError):  # a store that others own is read as it is
                target.parent.mkdir(exist_ok=True)
                chunk.path.replace(target)
                chunk = self._chunks[target] = replace(chunk, path=target)
                self._verified.add(target)
        note_use(chunk.path)
        return chunk


class _Bank:
    """One request: named arrays of a bank for the photographs of an image set."""

    def __init__(self, store: FeatureStore, folder: Path, names: Sequence[str], digests: Sequence[str]) -> None:
        self._store, self.folder, self._names, self._digests = store, folder, tuple(names), digests
        self._row_of = {digest: row for row, digest in reversed(list(enumerate(digests)))}  # first of equal ones
        self._unique = list(dict.fromkeys(digests))
        self._where: dict[str, dict[str, tuple[Chunk, int]]] = {}  # array -> photograph -> chunk and row
        self._seen: dict[Path, Chunk] = {}  # chunks that are in it

    def rows(self) -> dict[str, Rows]:
        """The arrays, every row of which is there."""
        used = {chunk.path: self._store.use(chunk) for chunk in self._held()}
        found = {}
        for name in self._names:
            number: dict[Path, int] = {}
            parts: list[Array] = []
            part_N, row_N = np.empty((2, len(self._digests)), dtype=np.int64)
            for row, digest in enumerate(self._digests):
                chunk, place = self._where[name][digest]
                if chunk.path not in number:
                    number[chunk.path] = len(parts)
                    parts.append(used[chunk.path].array(name))
                part_N[row], row_N[row] = number[chunk.path], place
            found[name] = Rows(tuple(parts), part_N, row_N, tuple(used[path].path for path in number))
        return found

    def fill(
        self,
        description: Mapping[str, Any],
        produce: Produce,
        on_progress: OnProgress | None,
        should_stop: ShouldStop | None,
    ) -> None:
        """Compute, together with other processes, what no chunk holds."""
        total = len(self._unique)
        while missing := self._missing():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "bank.json").exists():
                (self.folder / "bank.json").write_text(json.dumps(description, indent=1, sort_keys=True))
            with held(self.folder / "lock", should_stop):
                taken = self._claim()
            if taken is None:
                if on_progress is not None:  # who waits for a process that works is not stuck
                    on_progress(total - len(missing), total)
                check_stop(should_stop, f"waiting for other processes that compute {self.folder}")
                time.sleep(WAIT)
                continue
            span = _Span(*taken, produced=total - len(self._missing()), total=total)
            try:
                self._compute(span, produce, on_progress, should_stop)
            finally:
                span.claim.release()

    def _claim(self) -> tuple[Claim, list[str], tuple[str, ...]] | None:
        """Photographs that nobody has or computes, and the arrays that they all lack; under the bank's lock."""
        missing = self._missing()
        others = claimed(self.folder / "claims", [self.folder / area for area in AREAS])
        free = [digest for digest in missing if digest not in others]
        if not free:
            return None
        names = missing[free[0]]
        most = SPAN_ROWS * max(1, -(-len(missing) // (SPAN_ROWS * MOST_SPANS)))
        digests = [digest for digest in free if missing[digest] == names][:most]
        return Claim(self.folder / "claims", digests), digests, names

    def _compute(
        self, span: _Span, produce: Produce, on_progress: OnProgress | None, should_stop: ShouldStop | None
    ) -> None:
        """Rows of a span, written as a chunk whenever much time or memory is in them, and at the end."""
        done = 0

        def write() -> None:
            keep = {chunk.path for chunk in self._held()}
            if (chunk := span.chunk()) is not None:
                self._store.write(self.folder, span.claim, *chunk, keep)

        try:
            for batch in produce([self._row_of[digest] for digest in span.digests], span.names):
                size = len(next(iter(batch.values())))
                if done == 0:
                    row_bytes = sum(array.nbytes // size for array in batch.values())
                    self._store.require_room(row_bytes, span.total, span.total - span.produced)
                span.batches.append(batch)
                done += size
                if on_progress is not None:
                    on_progress(span.produced + done, span.total)
                if span.is_due:
                    write()
                if done < len(span.digests):
                    check_stop(should_stop, f"{span.produced + done} of {span.total} photographs are in {self.folder}")
        finally:
            write()  # of a span that was stopped, or met a broken photograph, what was done is kept
        if done != len(span.digests):
            raise AssertionError(f"{self.folder} needs {len(span.digests)} rows, got {done}")

    def _missing(self) -> dict[str, tuple[str, ...]]:
        """Names of the arrays that each photograph lacks, in the order of the image set; whole ones are left out."""
        self._refresh()
        lacking = ((digest, tuple(n for n in self._names if digest not in self._where[n])) for digest in self._unique)
        return {digest: names for digest, names in lacking if names}

    def _refresh(self) -> None:
        """Take in chunks that are new; start again when one is gone."""
        there = {chunk.path: chunk for chunk in self._store.chunks(self.folder)}
        if not self._where or not there.keys() >= self._seen.keys():
            self._where, self._seen = {name: {} for name in self._names}, {}
        for path in there.keys() - self._seen.keys():
            chunk = self._seen[path] = there[path]
            own = [(digest, (chunk, row)) for row, digest in enumerate(chunk.digests) if digest in self._row_of]
            for name in self._names:
                if name in chunk.arrays:
                    self._where[name].update(own)

    def _held(self) -> list[Chunk]:
        """Chunks that hold rows of this request."""
        places = (place for of_name in self._where.values() for place in of_name.values())
        return list({chunk.path: chunk for chunk, _ in places}.values())


@dataclass
class _Span:
    """Photographs that this process computes, and what of them is not written yet."""

    claim: Claim
    digests: list[str]
    names: tuple[str, ...]
    produced: int  # photographs of the request that were there before
    total: int
    batches: list[Mapping[str, Array]] = field(default_factory=list)
    _written: int = 0
    _since: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        """Whether so much is unwritten that it had better be written now."""
        return time.monotonic() - self._since > WRITE_EVERY or _nbytes(self.batches) > WRITE_BYTES

    def chunk(self) -> tuple[list[str], dict[str, Array]] | None:
        """Photographs and arrays that are not written yet, once; None where there are none."""
        batches, self.batches, self._since = self.batches, [], time.monotonic()
        if not batches:
            return None
        arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        first, self._written = self._written, self._written + len(next(iter(arrays.values())))
        return self.digests[first : self._written], arrays


def _nbytes(batches: Sequence[Mapping[str, Array]]) -> int:
    return sum(array.nbytes for batch in batches for array in batch.values())


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def damaged_chunks(root: Path, on_progress: OnProgress | None = None) -> Iterator[str]:
    """What is wrong with each chunk of a store whose bytes are not those that were written, with the remedy."""
    paths = sorted(path for area in AREAS for path in Path(root).glob(f"*/{area}/*{SUFFIX}"))
    for number, path in enumerate(paths, start=1):
        try:
            read_chunk(path).verify()
        except ChunkError as error:
            yield str(error)
        except FileNotFoundError:
            continue  # another process made room with it
        if on_progress is not None:
            on_progress(number, len(paths))
