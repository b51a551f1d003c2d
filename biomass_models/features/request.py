"""What an image set asks of a bank: what is missing is computed together with other processes, span by span."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biomass_models.features.chunks import Array, Chunk
from biomass_models.features.claims import WAIT, held, noted, photographs_of
from biomass_models.features.eviction import AREAS
from biomass_models.features.rows import CacheError, Rows, nbytes_of
from biomass_models.interrupt import OnProgress, ShouldStop, check_stop

if TYPE_CHECKING:
    from biomass_models.features.store import FeatureStore

# (rows of the image set, names of arrays) -> batches of arrays [b, ...] by name, in order; further names are kept too
Produce = Callable[[Sequence[int], Sequence[str]], Iterator[Mapping[str, Array]]]

SPAN_ROWS = 48  # photographs that one process claims at a time; more where many are missing
MOST_SPANS = 64  # of one request, so that large banks have few files
WRITE_EVERY = 60.0  # seconds of work after which a chunk is written, however few its rows
WRITE_BYTES = 128 << 20  # bytes after which a chunk is written
CLAIMS = "claims"
_TRIES = 4  # how often a row is computed before the store's disk is not trusted any more


class Request:
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
            for digest in list(filter(self._lacking.__contains__, chunk.digests)):  # a bank may hold far more
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
            if digest in self._row_of
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
                    row_bytes = nbytes_of([batch]) // size
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
        return time.monotonic() - self._since > WRITE_EVERY or nbytes_of(self.batches) > WRITE_BYTES

    def unwritten(self) -> tuple[list[str], list[Mapping[str, Array]]]:
        """Photographs and batches that are not written yet; each is handed out once."""
        batches, self.batches, self._since = self.batches, [], time.monotonic()
        first = self._written
        self._written += sum(len(next(iter(batch.values()))) for batch in batches)
        return self.digests[first : self._written], batches
