"""Arrays that are computed once per node and memory-mapped by every process on it.

A group is a directory named by the hash of a description (whatever changes the numbers is in it); it holds one
.npy file per array, all with one row per image. Work is done under the group's file lock, batch by batch; what was
done before a stop or a kill is found again. A file appears whole: written aside, then renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from biomass_models.cache_limit import note_use, room
from biomass_models.errors import UserError
from biomass_models.interrupt import OnProgress, ShouldStop, check_stop

Array = NDArray[Any]
Produce = Callable[[Sequence[str], int], Iterator[Mapping[str, Array]]]  # (names, first row) -> batches of rows

SAVE_EVERY = 2.0  # seconds between two notes of how many rows are done
SHARD_ROWS = 48  # images that one process takes at a time where several share the work
WAIT = 0.5  # seconds between two looks at `should_stop` while another process works
FORMAT = 2  # part of every key: groups of format 1 may hold rows of other photographs (CHANGELOG.md)


class CacheError(UserError):
    """The cache directory cannot hold what is to be computed."""


def hash_of(description: Mapping[str, Any]) -> str:
    """16 hex digits of a JSON-able description; the order of its keys does not matter."""
    text = json.dumps([FORMAT, description], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def source_hash(*modules: Any) -> str:
    """Hash of the source of modules whose code decides the numbers: a cache never outlives a change of them."""
    sources = [module.__loader__.get_source(module.__name__).encode() for module in modules]  # files, or a wheel
    return hashlib.blake2b(b"\0".join(sources), digest_size=8).hexdigest()


def cached_arrays(
    root: Path,
    description: Mapping[str, Any],
    names: Sequence[str],
    rows: int,
    produce: Produce,
    *,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    wait: bool = True,
    limit: int | None = None,
) -> dict[str, Array]:
    """The named arrays of a group, read-only and memory-mapped, each [rows, ...]; computes those that are missing.

    produce(missing, first) yields batches of rows from row `first` on, as arrays by name; it may yield further
    names, which are kept as well. Raises StopRequested between two batches, CacheError when the disk is too full,
    and, where wait is false, filelock.Timeout when another process works on the group.
    limit: most bytes that the root may hold; what was not used for longest makes room.
    """
    folder = root / hash_of(description)
    while True:
        _ensure(root, folder, description, names, rows, produce, on_progress, should_stop, wait, limit)
        note_use(folder)
        try:
            return {name: np.load(_file(folder, name), mmap_mode="r", allow_pickle=False) for name in names}
        except FileNotFoundError:  # another process made room with this very group before it was mapped
            check_stop(should_stop, f"{folder} was deleted to make room, and is computed again")


def _ensure(
    root: Path,
    folder: Path,
    description: Mapping[str, Any],
    names: Sequence[str],
    rows: int,
    produce: Produce,
    on_progress: OnProgress | None,
    should_stop: ShouldStop | None,
    wait: bool,
    limit: int | None,
) -> None:
    """Have all named arrays in the group's folder."""
    if not _complete(folder, names):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock")
        if wait:
            _acquire(lock, should_stop)
        else:
            lock.acquire(blocking=False)
        try:
            missing = [name for name in names if not _file(folder, name).exists()]
            if missing:
                (folder / "group.json").write_text(json.dumps(description, indent=1, sort_keys=True))
                _compute(root, folder, missing, rows, produce, on_progress, should_stop, limit)
        finally:
            lock.release()


def shared_arrays(
    root: Path,
    description: Mapping[str, Any],
    names: Sequence[str],
    rows: int,
    produce_between: Callable[[int, int], Produce],
    *,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    limit: int | None = None,
) -> dict[str, Array]:
    """As cached_arrays, but processes that ask at the same time share the work instead of waiting for each other.

    Each takes shards of rows that nobody works on; when all are there, one joins them into the group's files.
    produce_between(start, stop) is the `produce` of a shard.
    """
    folder = root / hash_of(description)
    spans = [(start, min(start + SHARD_ROWS, rows)) for start in range(0, rows, SHARD_ROWS)]
    if len(spans) == 1 or _complete(folder, names):
        whole = produce_between(0, rows)
        return cached_arrays(
            root, description, names, rows, whole, on_progress=on_progress, should_stop=should_stop, limit=limit
        )
    missing = [name for name in names if not _file(folder, name).exists()]
    # The names belong to a shard's key: who needs other arrays of the group must not lose its shards to this join.
    shards = [{**description, "shard": span, "names": missing} for span in spans]
    finished: dict[int, dict[str, Array]] = {}
    while not _complete(folder, names):
        try:
            _take_shards(
                root, folder, shards, missing, spans, produce_between, finished, on_progress, should_stop, limit
            )
        except FileNotFoundError:
            if not _complete(folder, names):  # else another process has joined the shards and removed them
                raise
        if len(finished) == len(spans):
            cached_arrays(root, description, missing, rows, _joined(spans, finished), limit=limit)
        elif not _complete(folder, names):
            check_stop(should_stop, f"waiting for other processes that compute {folder}")
            time.sleep(WAIT)
    for shard in shards:
        shutil.rmtree(root / hash_of(shard), ignore_errors=True)
    return cached_arrays(root, description, names, rows, produce_between(0, rows), limit=limit)


def _joined(spans: Sequence[tuple[int, int]], finished: Mapping[int, Mapping[str, Array]]) -> Produce:
    """The rows of finished shards, from any row on: a join that was interrupted goes on where it stopped."""

    def produce(_names: Sequence[str], first: int) -> Iterator[Mapping[str, Array]]:
        for number, (start, stop) in enumerate(spans):
            if stop > first:
                yield {name: array[max(0, first - start) :] for name, array in finished[number].items()}

    return produce


def _take_shards(
    root: Path,
    folder: Path,
    shards: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    spans: Sequence[tuple[int, int]],
    produce_between: Callable[[int, int], Produce],
    finished: dict[int, dict[str, Array]],
    on_progress: OnProgress | None,
    should_stop: ShouldStop | None,
    limit: int | None,
) -> None:
    """Compute or find every shard that no other process holds; fills `finished`."""
    for number, (start, stop) in enumerate(spans):
        if number in finished:
            continue
        before = sum(spans[done][1] - spans[done][0] for done in finished)

        def report(done: int, _total: int, before: int = before) -> None:
            if on_progress is not None:
                on_progress(before + done, spans[-1][1])

        def produce(
            missing: Sequence[str], first: int, start: int = start, stop: int = stop
        ) -> Iterator[Mapping[str, Array]]:
            if _complete(folder, names):  # the shard is missing because it was joined and removed
                raise FileNotFoundError(folder)
            return produce_between(start, stop)(missing, first)

        with contextlib.suppress(filelock.Timeout):
            finished[number] = cached_arrays(
                root,
                shards[number],
                names,
                stop - start,
                produce,
                on_progress=report,
                should_stop=should_stop,
                wait=False,
                limit=limit,
            )


def _complete(folder: Path, names: Sequence[str]) -> bool:
    return all(_file(folder, name).exists() for name in names)


def _compute(
    root: Path,
    folder: Path,
    missing: list[str],
    rows: int,
    produce: Produce,
    on_progress: OnProgress | None,
    should_stop: ShouldStop | None,
    limit: int | None,
) -> None:
    part, note = folder / "part", folder / "part" / "done.json"
    arrays, done = _resume(part, note, missing)
    saved = time.monotonic()
    try:
        if done < rows:
            for batch in produce(missing, done):
                size = len(next(iter(batch.values())))
                if not arrays:
                    needed = sum(array[0].nbytes * rows for array in batch.values())
                    if limit is not None and needed > limit:
                        raise CacheError(
                            f"one group needs {needed / 1e9:.2f} GB, the cache may hold {limit / 1e9:.2f} GB; "
                            "raise --cache-gb"
                        )
                    with room(root, needed, limit, keep=folder):
                        arrays = _allocate(part, batch, rows)
                if done + size > rows:
                    raise CacheError(f"{folder} needs {rows} rows, row {done} and {size - 1} after it are too many")
                for name, array in arrays.items():
                    array[done : done + size] = batch[name]
                done += size
                if on_progress is not None:
                    on_progress(done, rows)
                if time.monotonic() - saved > SAVE_EVERY:
                    _save(note, arrays, missing, done)
                    saved = time.monotonic()
                if done < rows:
                    check_stop(should_stop, f"{done} of {rows} rows are in {folder}")
    finally:
        if arrays:
            _save(note, arrays, missing, done)
    if done != rows or not arrays:
        raise CacheError(f"{folder} needs {rows} rows, got {done}")
    for name in arrays:
        _part_file(part, name).rename(_file(folder, name))
    shutil.rmtree(part)


def _resume(part: Path, note: Path, missing: list[str]) -> tuple[dict[str, Array], int]:
    """What an interrupted run left, and how many rows of it; nothing if that run computed something else."""
    if note.exists():
        left = json.loads(note.read_text())
        files = {name: _part_file(part, name) for name in left["names"]}
        if left["missing"] == missing and all(file.exists() for file in files.values()):
            return {name: np.lib.format.open_memmap(file, mode="r+") for name, file in files.items()}, left["done"]
    shutil.rmtree(part, ignore_errors=True)
    return {}, 0


def _allocate(part: Path, batch: Mapping[str, Array], rows: int) -> dict[str, Array]:
    needed = sum(array[0].nbytes * rows for array in batch.values())
    part.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(part).free
    if needed > 0.95 * free:  # a memory map on a full disk does not raise, it kills the process
        raise CacheError(
            f"{part.parent.parent} needs {needed / 1e9:.1f} GB, got {free / 1e9:.1f} GB free; make room, or "
            "choose another cache directory, smaller pictures, fewer copies or a coarser token grid"
        )
    return {
        name: np.lib.format.open_memmap(
            _part_file(part, name), mode="w+", dtype=array.dtype, shape=(rows, *array.shape[1:])
        )
        for name, array in batch.items()
    }


def _save(note: Path, arrays: Mapping[str, Any], missing: list[str], done: int) -> None:
    for array in arrays.values():
        array.flush()
    aside = note.with_suffix(".tmp")
    aside.write_text(json.dumps({"names": list(arrays), "missing": missing, "done": done}))
    aside.replace(note)


def _acquire(lock: filelock.BaseFileLock, should_stop: ShouldStop | None) -> None:
    while True:
        try:
            lock.acquire(timeout=WAIT)
            return
        except filelock.Timeout:
            check_stop(should_stop, f"waiting for another process that computes {lock.lock_file}")


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _part_file(part: Path, name: str) -> Path:
    return part / f"{name}.npy"
