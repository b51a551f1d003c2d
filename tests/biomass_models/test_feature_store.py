"""Banks of rows: what is there is not computed again, is read in any order, and damage is found."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from squares_bank import BATCH, WHAT, digests_of, fill, require_squares, squares

from biomass_models.features import chunks
from biomass_models.features import rows as feature_rows
from biomass_models.features import store as feature_store
from biomass_models.features.chunks import SUFFIX
from biomass_models.features.rows import CacheError, Rows
from biomass_models.features.store import FeatureStore, damaged_chunks
from biomass_models.interrupt import StopRequested

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
