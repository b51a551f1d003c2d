"""What banks take of the disk: limits, what goes first, a disk that is full or of others."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from squares_bank import BATCH, ROWS, SPAWN, WHAT, digests_of, fill, log_of, logged, require_squares, squares

from biomass_models.features import chunks, eviction
from biomass_models.features import store as feature_store
from biomass_models.features.chunks import SUFFIX
from biomass_models.features.eviction import stored_bytes
from biomass_models.features.rows import CacheError
from biomass_models.features.store import SPAN_ROWS, FeatureStore


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
    produce = squares(digests, on_row=log_of(log, 0.0))
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
    assert len(logged(log)) == 2 * 8 * SPAN_ROWS
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
