"""Banks that several processes fill, whole after the death of any at any instant."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from squares_bank import ROWS, SPAWN, WHAT, digests_of, fill, log_of, logged, require_squares, squares

from biomass_models.features import chunks, claims
from biomass_models.features import request as feature_request
from biomass_models.features import store as feature_store
from biomass_models.features.chunks import SUFFIX
from biomass_models.features.store import SPAN_ROWS, FeatureStore
from biomass_models.hashes import hash_of


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at_row(row: int) -> Callable[[], Callable[[int], None]]:
    return lambda: lambda number: _die() if number == row else None


def _die_at_chunk(count: int, module: Any, name: str, after: bool) -> Callable[[], Callable[[int], None]]:
    """Death around a call of `module.name`, the `count`th time that it is made."""

    def prepare() -> Callable[[int], None]:
        called, original = [0], getattr(module, name)

        def dying(*args: Any, **more: Any) -> Any:
            called[0] += 1
            if called[0] == count and not after:
                _die()
            value = original(*args, **more)
            if called[0] == count:
                _die()
            return value

        setattr(module, name, dying)
        return lambda row: None

    return prepare


def _survive_every_death(folder: str, rows: int, chunk_a_batch: bool) -> None:
    """One death a store, at every instant of every span; then the bank is asked for again, and is right."""
    digests = digests_of(rows)
    feature_request.WRITE_BYTES = 0 if chunk_a_batch else feature_request.WRITE_BYTES
    spans = -(-rows // SPAN_ROWS)
    inside = [min(start + SPAN_ROWS // 2, rows - 1) for start in range(0, rows, SPAN_ROWS)]
    points = [_die_at_row(row) for row in (*range(0, rows, SPAN_ROWS), *inside)]
    points += [_die_at_chunk(file, os, "fsync", after=True) for file in (1, 2)]  # of bank.json, of the request
    for span in range(1, spans + 1):
        for file in (2 * span + 1, 2 * span + 2):  # a claim, a chunk: written, but not in place
            points.append(_die_at_chunk(file, os, "fsync", after=True))
        points.append(_die_at_chunk(span, feature_store.FeatureStore, "write", after=True))  # in place, still claimed
        points.append(_die_at_chunk(span, claims, "_remove", after=False))  # before a claim's files go
        points.append(_die_at_chunk(span, claims, "_remove", after=True))  # its files are gone, its lock is held
        points.append(_die_at_chunk(span, feature_request, "photographs_of", after=True))  # holding the bank's lock
    for number, prepare in enumerate(points):
        root = Path(folder) / str(number)
        child = os.fork()
        if child == 0:
            fill(root, digests, prepare())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, number
        again: list[int] = []
        kept = {digest for path in root.rglob(f"*{SUFFIX}") for digest in chunks.read_chunk(path).digests}
        require_squares(fill(root, digests, again.append), digests)
        assert len(again) == rows - len(kept)  # what was written is not computed again
        assert not list(root.rglob("*.tmp"))
        assert not again or not list(root.rglob("claims/*.json"))  # who computes removes what the dead left
        shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "chunk_a_batch"), [(SPAN_ROWS - 1, False), (SPAN_ROWS, False), (357, False), (384, False), (100, True)]
)
def test_a_death_at_any_instant_costs_the_rows_in_work_and_none_is_wrong(
    tmp_path: Path, rows: int, chunk_a_batch: bool
) -> None:
    process = SPAWN.Process(target=_survive_every_death, args=(str(tmp_path), rows, chunk_a_batch))
    process.start()
    process.join()
    assert process.exitcode == 0


def _die_again_and_again(folder: str) -> None:
    """Death after death on one store, each a little later; then the bank is right, and no row was done twice."""
    root, digests, done = Path(folder), digests_of(384), []
    for row in range(40, 384, 60):
        child = os.fork()
        if child == 0:
            fill(root, digests, _die_at_row(row)())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    require_squares(fill(root, digests, done.append), digests)
    assert len(done) < 100
    held = [digest for path in root.rglob(f"*{SUFFIX}") for digest in chunks.read_chunk(path).digests]
    assert sorted(held) == digests


def test_deaths_in_a_row_leave_each_photograph_once(tmp_path: Path) -> None:
    process = SPAWN.Process(target=_die_again_and_again, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == 0


def _work(root: str, log: str, seconds: float, together: Any, first: int = 0, step: int = 1) -> None:
    """Fill the bank for ROWS photographs from `first` on, in ascending or descending order."""
    if together is not None:
        together.wait()
    digests = digests_of(ROWS, first)[::step]
    require_squares(fill(Path(root), digests, log_of(log, seconds)), digests)


def _start(count: int, *arguments: Any, **more: Any) -> list[Any]:
    processes = [SPAWN.Process(target=_work, args=arguments, kwargs=more) for _ in range(count)]
    for process in processes:
        process.start()
    return processes


@pytest.mark.slow
def test_processes_share_the_photographs_and_compute_none_twice(tmp_path: Path) -> None:
    log, together = tmp_path / "log", SPAWN.Barrier(3)
    processes = _start(3, str(tmp_path / "store"), str(log), 0.003, together)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(row for _, row in logged(log)) == list(range(ROWS))
    assert len({pid for pid, _ in logged(log)}) > 1


@pytest.mark.slow
def test_processes_with_other_sets_in_other_orders_compute_none_twice(tmp_path: Path) -> None:
    log, together = tmp_path / "log", SPAWN.Barrier(2)
    processes = [
        *_start(1, str(tmp_path / "store"), str(log), 0.003, together),
        *_start(1, str(tmp_path / "store"), str(log), 0.003, together, first=60, step=-1),
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(row for _, row in logged(log)) == list(range(ROWS + 60))


@pytest.mark.slow
def test_a_process_that_dies_in_a_span_leaves_it_to_those_that_wait(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    (doomed,) = _start(1, str(store), str(log), 60.0, None)  # it is in its first photograph until it is killed
    _wait(lambda: logged(log) != [] or not doomed.is_alive())
    (other,) = _start(1, str(store), str(log), 0.0, None)
    _wait(lambda: len({row for _, row in logged(log)}) == ROWS - SPAN_ROWS + 1 or not other.is_alive())
    doomed.kill()
    doomed.join()
    other.join(timeout=60)
    assert other.exitcode == 0
    assert sorted(row for pid, row in logged(log) if pid == other.pid) == list(range(ROWS))


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert until()


def test_who_waits_for_another_process_gives_signs_of_life(tmp_path: Path) -> None:
    digests = digests_of(10)
    bank = tmp_path / hash_of(WHAT)
    seen: list[tuple[int, int]] = []
    with contextlib.ExitStack() as claim:
        claim.enter_context(claims.noted(bank / "claims", digests))

        def on_progress(*now: int) -> None:
            seen.append(now)
            claim.close()

        store = FeatureStore(tmp_path)
        rows = store.bank(WHAT, ["square"], digests, squares(digests), on_progress=on_progress)["square"]
    require_squares(rows, digests)
    assert seen == [(0, 10), (7, 10), (10, 10)]
