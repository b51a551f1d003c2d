"""The ledger: payload before marker, nothing half-written is read, nothing leaves its folder."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_records import complete, fold_metrics, study_record, trial_record

from biomass_models.targets import TARGETS
from orchestration.study.ledger import Ledger, LedgerError, open_ledger
from orchestration.study.storage import Storage

RECORD = trial_record(trial_id="abc", params={"layers": 1}, config={"layers": 1}, why="first trial", proposed_at=1.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(Storage(tmp_path / "study"))
    ledger.write_study(study_record(), _oof())
    ledger.write_trial(RECORD)
    return ledger


def _oof() -> pd.DataFrame:
    frame = pd.DataFrame({"image_id": ["a", "b"], "fold": [0, 0], "group": ["x", "y"]})
    frame[list(TARGETS)] = np.arange(10.0).reshape(2, 5)
    return frame


def test_a_fold_comes_back_as_it_was_written(ledger: Ledger) -> None:
    assert ledger.fold_metrics("abc", 0) is None
    ledger.write_fold("abc", oof=_oof(), model=b"tensors", metrics=fold_metrics(0))
    metrics = ledger.fold_metrics("abc", 0)
    assert metrics is not None and metrics.score == 0.5
    pd.testing.assert_frame_equal(ledger.fold_oof("abc", 0), _oof())
    assert ledger.fold_model("abc", 0) == b"tensors"
    assert ledger.trials() == [RECORD]


@pytest.mark.parametrize("marker", ["", "{", '{"score": 0.5', "[]"])
def test_a_half_written_marker_vouches_for_nothing(ledger: Ledger, marker: str) -> None:
    ledger.write_fold("abc", oof=_oof(), model=b"tensors", metrics=fold_metrics(0))
    ledger.storage.write("trials/abc/fold-0/metrics.json", marker.encode())
    assert ledger.fold_metrics("abc", 0) is None


def test_a_payload_that_is_gone_cut_or_changed_is_not_used(ledger: Ledger) -> None:
    ledger.write_fold("abc", oof=_oof(), model=b"tensors", metrics=fold_metrics(0))
    ledger.storage.write("trials/abc/fold-0/model.safetensors", b"tensorz")  # same size
    with pytest.raises(LedgerError, match="vouches for"):
        ledger.fold_model("abc", 0)
    ledger.storage.write("trials/abc/fold-0/model.safetensors", b"tens")
    assert ledger.fold_metrics("abc", 0) is None
    (Path(ledger.storage.uri) / "trials/abc/fold-0/model.safetensors").unlink()
    assert ledger.fold_metrics("abc", 0) is None


def test_oof_without_result_does_not_exist(ledger: Ledger) -> None:
    ledger.storage.write("trials/abc/oof.parquet", b"PAR1")
    assert ledger.result("abc") is None and ledger.results() == {}
    with pytest.raises(LedgerError, match="not finished"):
        ledger.oof("abc")


@pytest.mark.parametrize("status", ["pruned", "failed"])
def test_a_trial_that_ended_without_all_its_rows_needs_no_repair(ledger: Ledger, status: str) -> None:
    ledger.write_result("abc", replace(complete(0.5), status=status, score=None, fold_scores=(0.5, None), files={}))
    with pytest.raises(LedgerError, match=f"abc is {status}; name another") as caught:
        ledger.oof("abc")
    assert "repair" not in str(caught.value)


def test_numbers_that_json_does_not_know_are_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError):
        ledger.write_result("abc", complete(float("nan")))
    assert ledger.result("abc") is None


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)
    storage.write("a/file", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("biomass_models.whole_files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        storage.write("a/file", b"new content")
    assert storage.read("a/file") == b"old"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["../outside", "/etc/hosts", "a/../../outside"])
def test_no_path_leaves_its_folder(tmp_path: Path, name: str) -> None:
    storage = Storage(tmp_path / "study")
    with pytest.raises(ValueError, match="inside its folder"):
        storage.write(name, b"x")
    with pytest.raises(ValueError, match="inside its folder"):
        storage.read(name)


def test_the_same_files_through_a_uri(tmp_path: Path) -> None:
    """The object-store path of the code, on the one URI that every machine has."""
    remote = Ledger(Storage(f"file://{tmp_path}/study"))
    (tmp_path / "study/trials/abc/fold-0").mkdir(parents=True)  # object stores have no directories to make
    remote.write_study(study_record(), _oof())
    remote.write_trial(RECORD)
    remote.write_fold("abc", oof=_oof(), model=b"tensors", metrics=fold_metrics(0))
    local = Ledger(Storage(tmp_path / "study"))
    assert local.fold_model("abc", 0) == remote.fold_model("abc", 0) == b"tensors"
    assert local.storage.children("trials") == remote.storage.children("trials") == ["abc"]


def test_a_wrong_study_path_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="biomass search"):
        open_ledger(str(tmp_path / "nothing"))


@settings(max_examples=40, deadline=None)
@given(ids=st.sets(st.text("0a", min_size=1, max_size=4), min_size=1, max_size=6), prefix=st.text("0ab", max_size=5))
def test_a_trial_is_found_by_how_no_other_id_begins(ids: set[str], prefix: str) -> None:
    """As git names commits: the whole id always counts, a beginning where it is one trial's alone."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Storage(folder))
        for name in ids:
            ledger.write_trial(replace(RECORD, trial_id=name))
        begun = sorted(name for name in ids if prefix and name.startswith(prefix))
        if prefix in ids:
            assert ledger.trial_id(prefix) == prefix
        elif len(begun) == 1:
            assert ledger.trial_id(prefix) == begun[0]
        else:
            with pytest.raises(LedgerError) as refused:
                ledger.trial_id(prefix)
            assert all(name in str(refused.value) for name in begun[:5])
            assert ("give more of it" if begun else "there is no trial") in str(refused.value)


def test_what_was_set_aside_does_not_make_a_beginning_ambiguous(ledger: Ledger) -> None:
    ledger.write_trial(replace(RECORD, trial_id="abd"))
    with pytest.raises(LedgerError, match="as 2 do: abc, abd; give more of it"):
        ledger.trial_id("ab")
    ledger.set_trial_aside("abd")
    assert ledger.trial_id("ab") == "abc"
    with pytest.raises(LedgerError, match=r"there is no trial abx.*did you mean abc\?"):
        ledger.trial_id("abx")
