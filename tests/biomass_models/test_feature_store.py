"""Banks of rows: shared by processes, whole after any death, within their quota."""

from __future__ import annotations

import contextlib
import errno
import gc
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from biomass_models.features import chunks, claims, eviction
from biomass_models.features import request as feature_request
from biomass_models.features import rows as feature_rows
from biomass_models.features import store as feature_store
from biomass_models.features.chunks import SUFFIX
from biomass_models.features.eviction import stored_bytes
from biomass_models.features.rows import CacheError, Rows
from biomass_models.features.store import SPAN_ROWS, FeatureStore, damaged_chunks
from biomass_models.hashes import hash_of
from biomass_models.interrupt import StopRequested

SPAWN = multiprocessing.get_context("spawn")
WHAT = {"what": "squares"}
BATCH = 7  # rows; does not divide a span
ROWS = 4 * SPAN_ROWS + 5


def digests_of(rows: int, first: int = 0) -> list[str]:
    return [f"{number:06d}" for number in range(first, first + rows)]


def squares(
    digests: Sequence[str], *, names: Sequence[str] = ("square",), on_row: Callable[[int], None] = lambda row: None
) -> Any:
    """A `produce` whose rows follow from the photograph's hash; on_row: called before a photograph is computed."""

    def produce(rows: Sequence[int], asked: Sequence[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
        for first in range(0, len(rows), BATCH):
            numbers = [int(digests[row]) for row in rows[first : first + BATCH]]
            for number in numbers:
                on_row(number)
            value = np.array(numbers, dtype=np.float64)[:, None] ** 2 * np.ones(3)
            yield {name: value + names.index(name) for name in names if name in asked}

    return produce


def require_squares(rows: Rows, digests: Sequence[str], plus: float = 0.0) -> None:
    expected = np.array([int(digest) for digest in digests], dtype=np.float64)[:, None] ** 2 * np.ones(3) + plus
    np.testing.assert_array_equal(rows.read(), expected)


def fill(root: Path, digests: Sequence[str], on_row: Callable[[int], None] = lambda row: None, **store: Any) -> Rows:
    """The bank of squares for these photographs."""
    return FeatureStore(root, **store).bank(WHAT, ["square"], digests, squares(digests, on_row=on_row))["square"]


# -- deaths ------------------------------------------------------------------------------------------------------------


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


def _log(path: str, seconds: float) -> Callable[[int], None]:
    def on_row(number: int) -> None:
        with Path(path).open("a") as lines:
            lines.write(f"{os.getpid()} {number}\n")
        time.sleep(seconds)

    return on_row


def _rows(log: Path) -> list[tuple[int, int]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(pid), int(row)) for pid, row in (line.split() for line in lines)]


def _work(root: str, log: str, seconds: float, together: Any, first: int = 0, step: int = 1) -> None:
    """Fill the bank for ROWS photographs from `first` on, in ascending or descending order."""
    if together is not None:
        together.wait()
    digests = digests_of(ROWS, first)[::step]
    require_squares(fill(Path(root), digests, _log(log, seconds)), digests)


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
    assert sorted(row for _, row in _rows(log)) == list(range(ROWS))
    assert len({pid for pid, _ in _rows(log)}) > 1


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
    assert sorted(row for _, row in _rows(log)) == list(range(ROWS + 60))


@pytest.mark.slow
def test_a_process_that_dies_in_a_span_leaves_it_to_those_that_wait(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    (doomed,) = _start(1, str(store), str(log), 60.0, None)  # it is in its first photograph until it is killed
    _wait(lambda: _rows(log) != [] or not doomed.is_alive())
    (other,) = _start(1, str(store), str(log), 0.0, None)
    _wait(lambda: len({row for _, row in _rows(log)}) == ROWS - SPAN_ROWS + 1 or not other.is_alive())
    doomed.kill()
    doomed.join()
    other.join(timeout=60)
    assert other.exitcode == 0
    assert sorted(row for pid, row in _rows(log) if pid == other.pid) == list(range(ROWS))


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


# -- what is there is not computed again -------------------------------------------------------------------------------


def test_progress_counts_all_photographs(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    digests = digests_of(100)
    fill(tmp_path, digests[30:50])
    FeatureStore(tmp_path).bank(WHAT, ["square"], digests, squares(digests), on_progress=lambda *now: seen.append(now))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[0] == (20 + BATCH, 100) and seen[-1] == (100, 100)


def test_added_photographs_alone_are_computed(tmp_path: Path) -> None:
    fill(tmp_path, digests_of(357))
    computed: list[int] = []
    digests = [*digests_of(30, first=1000), *digests_of(357)]
    require_squares(fill(tmp_path, digests, computed.append), digests)
    assert computed == list(range(1000, 1030))


def test_a_photograph_that_is_there_twice_is_computed_once(tmp_path: Path) -> None:
    computed: list[int] = []
    digests = [*digests_of(50), *digests_of(50), *digests_of(3)]
    require_squares(fill(tmp_path, digests, computed.append), digests)
    assert computed == list(range(50))


def test_a_bank_computes_only_the_arrays_that_a_photograph_lacks(tmp_path: Path) -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []
    digests, store = digests_of(60), FeatureStore(tmp_path)
    produce = squares(digests, names=("one", "two"))

    def noting(rows: Sequence[int], names: Sequence[str]) -> Any:
        asked.append((len(rows), tuple(names)))
        return produce(rows, names)

    store.bank(WHAT, ["one"], digests[:40], noting)
    found = FeatureStore(tmp_path).bank(WHAT, ["one", "two"], digests, noting)
    require_squares(found["one"], digests)
    require_squares(found["two"], digests, plus=1)
    assert asked == [(40, ("one",)), (40, ("two",)), (20, ("one", "two"))]


def test_what_was_done_before_a_stop_is_kept(tmp_path: Path) -> None:
    digests, computed, seen = digests_of(60), [], []
    with pytest.raises(StopRequested, match="14 of 60"):
        FeatureStore(tmp_path).bank(
            WHAT, ["square"], digests, squares(digests), should_stop=lambda: len(seen) == 2,
            on_progress=lambda *now: seen.append(now),
        )  # fmt: skip
    require_squares(fill(tmp_path, digests, computed.append), digests)
    assert computed == list(range(14, 60))


def test_a_photograph_that_cannot_be_read_costs_its_batch_alone(tmp_path: Path) -> None:
    def broken(number: int) -> None:
        if number == 20:
            raise FileNotFoundError(errno.ENOENT, "gone", "photographs/20.jpg")

    digests, computed = digests_of(60), []
    with pytest.raises(FileNotFoundError, match=r"20\.jpg"):
        fill(tmp_path, digests, broken)
    require_squares(fill(tmp_path, digests, computed.append), digests)
    assert computed == list(range(14, 60))


# -- reading -----------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    small=st.booleans(),
)
def test_rows_are_those_of_their_parts_in_any_order(sizes: list[int], order: Any, small: bool) -> None:
    parts = tuple(np.arange(size * 2.0).reshape(size, 2) + 100 * part for part, size in enumerate(sizes))
    places = [(part, row) for part, size in enumerate(sizes) for row in range(size)]
    order.shuffle(places)
    part_N, row_N = (np.array(column) for column in zip(*places, strict=True))
    rows = Rows(parts, part_N, row_N, ())
    expected = np.stack([parts[part][row] for part, row in places])
    asked_B = np.array([order.randrange(len(places)) for _ in range(7)])
    before, feature_rows.STACKED_BYTES = feature_rows.STACKED_BYTES, 1 << 20 if small else 0
    try:
        np.testing.assert_array_equal(rows.take(asked_B), expected[asked_B])
    finally:
        feature_rows.STACKED_BYTES = before
    np.testing.assert_array_equal(rows.read(), expected)
    assert rows.shape == expected.shape and len(rows) == len(places) and rows.dtype == expected.dtype


# -- damage ------------------------------------------------------------------------------------------------------------


def _one_chunk(root: Path) -> Path:
    (path,) = root.rglob(f"*{SUFFIX}")
    return path


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _name_of_an_array(content: bytes) -> bytes:
    return content.replace(b'"square"', b'"sqUare"')


def _two_digests(content: bytes) -> bytes:
    return content.replace(b"000003 000004", b"000004 000003")


def _shape(content: bytes) -> bytes:
    return content.replace(b'"shape":[9,3]', b'"shape":[9,2]')


def _offsets(content: bytes) -> bytes:
    return content.replace(b'"data_offsets":[0,', b'"data_offsets":[8,')


@pytest.mark.parametrize("damage", [_name_of_an_array, _two_digests, _shape, _offsets])
def test_a_damaged_header_is_found_however_large_the_chunk(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "VERIFIED_BYTES", 0)
    digests, computed = digests_of(9), []
    fill(tmp_path, digests)
    path = _one_chunk(tmp_path)
    content = path.read_bytes()
    assert damage(content) != content
    path.write_bytes(damage(content))
    assert len(list(damaged_chunks(tmp_path))) == 1
    require_squares(fill(tmp_path, digests, computed.append), digests)
    assert computed == list(range(9))


def test_a_disk_that_does_not_keep_what_is_written_is_an_error_and_no_endless_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(aside: Path, *rest: Any) -> str:
        name = chunks.write_chunk(aside, *rest)
        aside.write_bytes(b"")
        return name

    monkeypatch.setattr(feature_store, "write_chunk", forgetful)
    with pytest.raises(CacheError, match="does not keep"):
        fill(tmp_path, digests_of(9))


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_torn_chunk_is_computed_again(tmp_path: Path, keep: int) -> None:
    digests, computed = digests_of(9), []
    fill(tmp_path, digests)
    path = _one_chunk(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    require_squares(fill(tmp_path, digests, computed.append), digests)
    assert computed == list(range(9))


def test_a_small_chunk_with_a_changed_byte_is_computed_again(tmp_path: Path) -> None:
    digests, computed = digests_of(9), []
    fill(tmp_path, digests)
    _flip_a_byte(_one_chunk(tmp_path))
    assert len(list(damaged_chunks(tmp_path))) == 1
    require_squares(fill(tmp_path, digests, computed.append), digests)
    assert computed == list(range(9))
    assert not list(damaged_chunks(tmp_path))


def test_a_changed_byte_of_a_large_chunk_is_found_by_its_hash_and_the_remedy_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "VERIFIED_BYTES", 0)  # as if it were large: mapped, not read
    digests = digests_of(9)
    fill(tmp_path, digests)
    path = _one_chunk(tmp_path)
    assert not list(damaged_chunks(tmp_path))
    _flip_a_byte(path)
    (problem,) = damaged_chunks(tmp_path)
    assert f"{path}" in problem and "delete it" in problem
    path.unlink()
    require_squares(fill(tmp_path, digests), digests)
    assert not list(damaged_chunks(tmp_path))


# -- room --------------------------------------------------------------------------------------------------------------


def test_a_bank_never_takes_more_than_itself_and_one_chunk(tmp_path: Path) -> None:
    digests, sizes = digests_of(ROWS), []

    def on_row(_number: int) -> None:
        sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))

    fill(tmp_path, digests, on_row)
    whole, chunk = stored_bytes(tmp_path, "study"), max(path.stat().st_size for path in tmp_path.rglob(f"*{SUFFIX}"))
    notes = 2 * 10 * ROWS  # a request and a claim, in which the photographs are listed
    assert max(sizes) <= whole + chunk + notes


GB = 1e9


def _chunk_bytes(tmp_path: Path) -> int:
    """Bytes of a bank of 20 rows."""
    fill(tmp_path / "scale", digests_of(20))
    return stored_bytes(tmp_path / "scale", "study")


def _there(root: Path, first: int) -> bool:
    """Whether photograph `first` is in the store."""
    found = (chunks.read_chunk(path).digests for path in root.rglob(f"*{SUFFIX}"))
    return any(f"{first:06d}" in digests for digests in found)


def test_the_least_recently_used_chunk_makes_room(tmp_path: Path) -> None:
    root, limit = tmp_path / "store", 3.5 * _chunk_bytes(tmp_path) / GB
    held = {first: fill(root, digests_of(20, first), limit_gb=limit) for first in (0, 100, 200)}
    for when, rows in enumerate(held.values(), start=1):
        os.utime(rows.paths[0], (when, when))
    fill(root, digests_of(20, 0), limit_gb=limit)  # used again: 100 is now the oldest
    fill(root, digests_of(20, 300), limit_gb=limit)
    assert [_there(root, first) for first in (0, 100, 200, 300)] == [True, False, True, True]
    assert stored_bytes(root, "study") <= limit * GB
    require_squares(held[100], digests_of(20, 100))  # who had it mapped goes on reading
    require_squares(fill(root, digests_of(20, 100), limit_gb=limit), digests_of(20, 100))  # or computes it again


def test_one_bank_above_the_limit_is_an_error_before_it_is_computed(tmp_path: Path) -> None:
    computed: list[int] = []
    with pytest.raises(CacheError, match="--cache-gb"):
        fill(tmp_path / "store", digests_of(100), computed.append, limit_gb=_chunk_bytes(tmp_path) / GB)
    assert len(computed) == BATCH


def _fill_beside(root: str, what: int, limit: float, log: str) -> None:
    digests = digests_of(8 * SPAN_ROWS, 1000 * what)
    store = FeatureStore(Path(root), limit_gb=limit)
    produce = squares(digests, on_row=_log(log, 0.0))
    require_squares(store.bank({"what": what}, ["square"], digests, produce)["square"], digests)


@pytest.mark.slow
def test_requests_that_pass_the_limit_together_do_not_evict_each_others_work(tmp_path: Path) -> None:
    fill(tmp_path / "scale", digests_of(8 * SPAN_ROWS))
    limit, log = 1.2 * stored_bytes(tmp_path / "scale", "study") / GB, tmp_path / "log"
    arguments = [(str(tmp_path / "store"), what, limit, str(log)) for what in (0, 1)]
    processes = [SPAWN.Process(target=_fill_beside, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=100)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(_rows(log)) == 2 * 8 * SPAN_ROWS
    fill(tmp_path / "store", digests_of(20, 5000), limit_gb=limit)  # who comes afterwards is within the limit again
    assert stored_bytes(tmp_path / "store", "study") <= limit * GB


@pytest.mark.slow
def test_what_nobody_uses_any_more_is_off_the_disk_and_its_descriptors_are_closed(tmp_path: Path) -> None:
    def open_files() -> list[str]:
        gc.collect()
        found = []
        for entry in list(Path("/proc/self/fd").iterdir()):
            with contextlib.suppress(OSError):  # of the listing itself
                found.append(str(entry.readlink()))
        return [target for target in found if str(tmp_path) in target]

    store = FeatureStore(tmp_path / "store", limit_gb=2.5 * _chunk_bytes(tmp_path) / GB)
    for first in range(0, 1000, 100):
        digests = digests_of(20, first)
        rows = store.bank(WHAT, ["square"], digests, squares(digests))["square"]
        assert len(open_files()) == 1
    del rows
    assert not open_files()


def test_predictions_have_a_quota_of_their_own_and_read_what_studies_have(tmp_path: Path) -> None:
    root, size = tmp_path / "store", _chunk_bytes(tmp_path)
    limit = 6 * size / GB  # a quarter of it, for predictions, holds one chunk
    fill(root, digests_of(100), limit_gb=limit)
    computed: list[int] = []
    fill(root, digests_of(100), computed.append, limit_gb=limit, area="prediction")
    assert not computed
    for first in (200, 300, 400):
        fill(root, digests_of(20, first), limit_gb=limit, area="prediction")
    assert [_there(root, first) for first in (0, 200, 300, 400)] == [True, False, False, True]
    fill(root, digests_of(20, 400), computed.append, limit_gb=limit)  # a study finds what was predicted, and keeps it
    assert not computed
    assert stored_bytes(root, "prediction") == 0 and stored_bytes(root, "study") > 5 * size


def test_without_a_limit_predictions_still_have_a_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "PREDICTION_BYTES", int(1.5 * _chunk_bytes(tmp_path)))
    for first in (0, 100):
        fill(tmp_path / "store", digests_of(20, first), area="prediction")
    assert [_there(tmp_path / "store", first) for first in (0, 100)] == [False, True]


def test_groups_of_version_0_1_0_are_never_read_and_go_first(tmp_path: Path) -> None:
    root, old = tmp_path / "store", tmp_path / "store" / "0123456789abcdef"
    old.mkdir(parents=True)
    (old / "group.json").write_text("{}")
    np.save(old / "square.npy", np.full((20, 3), 7.0))
    limit = 1.5 * _chunk_bytes(tmp_path) / GB
    require_squares(fill(root, digests_of(20), limit_gb=limit), digests_of(20))
    fill(root, digests_of(20, 100), limit_gb=limit)
    assert not (old / "square.npy").exists()


def _churn(root: str, limit: float, seed: int) -> None:
    order = np.random.default_rng(seed)
    for _ in range(60):
        digests = digests_of(20, 100 * int(order.integers(6)))
        require_squares(fill(Path(root), digests, limit_gb=limit), digests)


@pytest.mark.slow
def test_processes_that_evict_each_others_chunks_never_read_a_broken_one(tmp_path: Path) -> None:
    limit = 3.5 * _chunk_bytes(tmp_path) / GB
    processes = [SPAWN.Process(target=_churn, args=(str(tmp_path / "store"), limit, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_a_disk_with_too_little_room_is_an_error_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(CacheError, match="make room"):
        fill(tmp_path, digests_of(100))


def test_a_disk_that_fills_up_meanwhile_is_the_stores_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(CacheError, match="make room"):
            fill(tmp_path, digests_of(100))
    assert not list(tmp_path.rglob("*.tmp"))
    require_squares(fill(tmp_path, digests_of(100)), digests_of(100))


@pytest.mark.parametrize("place", ["", "below"])
def test_a_folder_that_cannot_be_written_is_the_stores_problem(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match=r"--cache"):
        fill(tmp_path / "file" / place, digests_of(3))


def test_a_store_that_others_own_is_read_as_it_is(tmp_path: Path) -> None:
    digests = digests_of(30)
    fill(tmp_path, digests, area="prediction")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    refused = OSError(errno.EROFS, "Read-only file system")
    with pytest.MonkeyPatch.context() as patched:
        for module, name in ((os, "utime"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink")):
            patched.setattr(module, name, lambda *_, **__: (_ for _ in ()).throw(refused))
        require_squares(fill(tmp_path, digests), digests)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_study_that_adopts_what_was_predicted_stays_within_its_limit(tmp_path: Path) -> None:
    root, limit = tmp_path / "store", 2.5 * _chunk_bytes(tmp_path) / GB
    for first in (0, 100):
        fill(root, digests_of(20, first), limit_gb=limit)
    fill(root, digests_of(20, 200), area="prediction")
    fill(root, digests_of(20, 200), limit_gb=limit)
    assert stored_bytes(root, "study") <= limit * GB and stored_bytes(root, "prediction") == 0


def test_a_bank_of_no_photographs_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one photograph"):
        fill(tmp_path, [])


def test_a_chunk_is_a_safetensors_file_named_by_its_content(tmp_path: Path) -> None:
    half = {"half": np.ones((2, 3), np.float16), "pixels": np.arange(8, dtype=np.uint8).reshape(2, 2, 2)}
    more = {"half": np.zeros((1, 3), np.float16), "pixels": np.full((1, 2, 2), 9, dtype=np.uint8)}
    names = {chunks.write_chunk(tmp_path / aside, ["a", "b", "c"], [half, more]) for aside in ("one", "two")}
    (name,) = names
    (tmp_path / "one").rename(tmp_path / name)
    expected = {key: np.concatenate([half[key], more[key]]) for key in half}
    chunk = chunks.read_chunk(tmp_path / name)
    chunk.verify()
    assert chunk.digests == ("a", "b", "c")
    for reading in (chunk.open(), load_file(tmp_path / name)):  # ours, and the library's
        assert reading.keys() == expected.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(reading[key], array)
    assert chunks.write_chunk(tmp_path / "three", ["a", "b", "d"], [half, more]) != name
