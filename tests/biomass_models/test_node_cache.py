"""Several processes share the work of one group of arrays, and survive each other's deaths."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from numpy.typing import NDArray

from biomass_models import node_cache
from biomass_models.cache_limit import cache_bytes
from biomass_models.node_cache import SHARD_ROWS, CacheError, Produce, cached_arrays, hash_of, shared_arrays

ROWS = 4 * SHARD_ROWS + 5
SPAWN = multiprocessing.get_context("spawn")


def _between(log: str, seconds: float, name: str = "square") -> Any:
    def between(start: int, stop: int) -> Produce:
        def produce(_names: Sequence[str], first: int) -> Iterator[Mapping[str, NDArray[Any]]]:
            for row in range(start + first, stop):
                with Path(log).open("a") as lines:
                    lines.write(f"{os.getpid()} {row}\n")
                time.sleep(seconds)
                yield {name: np.array([[row**2]])}

        return produce

    return between


def _work(root: str, log: str, seconds: float, together: Any = None, name: str = "square") -> None:
    if together is not None:
        together.wait()
    arrays = shared_arrays(Path(root), {"what": "squares"}, [name], ROWS, _between(log, seconds, name))
    assert (arrays[name][:, 0] == np.arange(ROWS) ** 2).all()


def _rows(log: Path) -> list[tuple[int, int]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(pid), int(row)) for pid, row in (line.split() for line in lines)]


def test_two_processes_share_the_rows_and_compute_none_twice(tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = (str(tmp_path / "cache"), str(log), 0.005, SPAWN.Barrier(2))
    processes = [SPAWN.Process(target=_work, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    rows = _rows(log)
    assert sorted(row for _, row in rows) == list(range(ROWS))
    assert len({pid for pid, _ in rows}) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the shards are gone


def test_a_process_that_dies_in_a_shard_leaves_it_to_the_others(tmp_path: Path) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    doomed = SPAWN.Process(target=_work, args=(str(cache), str(log), 0.1))
    doomed.start()
    while len(_rows(log)) < 10:
        time.sleep(0.01)
    other = SPAWN.Process(target=_work, args=(str(cache), str(log), 0.0))
    other.start()
    while not any(pid == other.pid for pid, _ in _rows(log)):
        assert other.is_alive()
        time.sleep(0.01)
    assert doomed.pid is not None
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.join()
    other.join(timeout=60)
    assert other.exitcode == 0


def _die_in_the_join(root: str, rows: int, die_after: int) -> None:
    """Compute all shards of a group, then die once `die_after` of them are joined."""
    noted, notes = node_cache._save, []

    def save(note: Path, arrays: Any, missing: list[str], done: int) -> None:
        noted(note, arrays, missing, done)
        if json.loads((note.parent.parent / "group.json").read_text()) == {"what": "squares"}:
            notes.append(done)
            if len(notes) == die_after:
                os.kill(os.getpid(), signal.SIGKILL)

    node_cache.SAVE_EVERY, node_cache._save = -1.0, save  # a note after each shard: a slow disk makes it so
    shared_arrays(Path(root), {"what": "squares"}, ["square"], rows, _between(f"{root}.log", 0.0))


@pytest.mark.parametrize("die_after", [1, 2, 3])
@pytest.mark.parametrize("rows", [ROWS, 4 * SHARD_ROWS])
def test_a_process_that_dies_in_the_join_leaves_no_wrong_row(tmp_path: Path, rows: int, die_after: int) -> None:
    cache = tmp_path / "cache"
    doomed = SPAWN.Process(target=_die_in_the_join, args=(str(cache), rows, die_after))
    doomed.start()
    doomed.join()
    assert doomed.exitcode == -signal.SIGKILL
    between = _between(str(tmp_path / "again"), 0.0)
    square = shared_arrays(cache, {"what": "squares"}, ["square"], rows, between)["square"]
    assert np.array_equal(square[:, 0], np.arange(rows) ** 2)


def test_progress_counts_all_rows(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    between = _between(str(tmp_path / "log"), 0.0)
    shared_arrays(tmp_path, {"a": 1}, ["square"], ROWS, between, on_progress=lambda *now: seen.append(now))
    assert seen == [(row + 1, ROWS) for row in range(ROWS)]


def test_processes_that_need_other_arrays_of_a_group_do_not_disturb_each_other(tmp_path: Path) -> None:
    together = SPAWN.Barrier(3)
    processes = [
        SPAWN.Process(target=_work, args=(str(tmp_path / "cache"), str(tmp_path / name), seconds, together, name))
        for name, seconds in (("one", 0.0), ("two", 0.004), ("three", 0.008))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert all(len(_rows(tmp_path / name)) == ROWS for name in ("one", "two", "three"))


def test_what_a_large_group_has_already_is_not_computed_again(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def between(start: int, stop: int) -> Produce:
        def produce(names: Sequence[str], first: int) -> Iterator[Mapping[str, NDArray[Any]]]:
            asked.append(tuple(names))
            yield {name: np.zeros((stop - start - first, 1)) for name in names}

        return produce

    shared_arrays(tmp_path, {"a": 1}, ["one"], ROWS, between)
    assert set(asked) == {("one",)}
    asked.clear()
    assert set(shared_arrays(tmp_path, {"a": 1}, ["one", "two"], ROWS, between)) == {"one", "two"}
    assert set(asked) == {("two",)}


def _group(root: Path, name: str, limit: int | None = None, rows: int = 100) -> NDArray[Any]:
    """A group of 8 bytes a row that counts from 0."""

    def produce(_names: Sequence[str], first: int) -> Iterator[Mapping[str, NDArray[Any]]]:
        yield {"rows": np.arange(first, rows, dtype=np.float64)[:, None]}

    return cached_arrays(root, {"what": name}, ["rows"], rows, produce, limit=limit)["rows"]


def _there(root: Path, name: str) -> bool:
    return (root / hash_of({"what": name}) / "rows.npy").exists()


def test_the_least_recently_used_group_makes_room(tmp_path: Path) -> None:
    size = _group(tmp_path, "a").nbytes
    limit = 3 * (size + 128)  # a file has a header
    held = _group(tmp_path, "b", limit)
    for when, name in enumerate("abc", start=1):
        _group(tmp_path, name, limit)
        os.utime(tmp_path / hash_of({"what": name}) / "used", (when, when))
    _group(tmp_path, "a", limit)  # used again: b is now the oldest
    _group(tmp_path, "d", limit)
    assert [_there(tmp_path, name) for name in "abcd"] == [True, False, True, True]
    assert cache_bytes(tmp_path) <= limit
    assert (held[:, 0] == np.arange(100)).all()  # who had it mapped goes on reading
    assert (_group(tmp_path, "b", limit)[:, 0] == np.arange(100)).all()  # and who wants it again computes it again


def test_a_group_in_the_making_is_not_evicted_and_a_limit_below_one_group_is_an_error(tmp_path: Path) -> None:
    size = _group(tmp_path, "a").nbytes
    with filelock.FileLock(tmp_path / hash_of({"what": "a"}) / "lock"):
        _group(tmp_path, "b", size + 200)
        assert _there(tmp_path, "a")
    with pytest.raises(CacheError, match="--cache-gb"):
        _group(tmp_path, "c", size // 2)


def _churn(root: str, seed: int) -> None:
    order = np.random.default_rng(seed)
    for _ in range(60):
        rows = _group(Path(root), f"g{order.integers(6)}", limit=3 * 928)
        assert (rows[:, 0] == np.arange(100)).all()


def test_processes_that_evict_each_others_groups_never_read_a_broken_one(tmp_path: Path) -> None:
    processes = [SPAWN.Process(target=_churn, args=(str(tmp_path), seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
