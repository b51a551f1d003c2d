"""The one reader of a study: what it ranks, aligns, leaves out, and that it reads each file once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import hand_made_study as hand
import numpy as np
import pandas as pd
import pytest
import study_records as records
from told_study import told_study

from biomass_models.targets import TARGETS
from orchestration.inspect.leaderboard import leaderboard
from orchestration.search.incumbent import Incumbent
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.storage import Storage

STATUSES = ("complete", "pruned", "complete", "failed", "complete", "open")


class CountingStorage(Storage):
    """Counts how often a file is read, and how often it is asked whether there is one."""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self.reads: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    def size(self, name: str) -> int | None:
        self.asked[name] += 1
        return super().size(name)

    def read(self, name: str) -> bytes:
        self.reads[name] += 1
        return super().read(name)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return told_study(tmp_path / "study", statuses=STATUSES)


def test_trials_by_status_and_score(ledger: Ledger) -> None:
    study = StudyData(ledger)
    assert [trial.status for trial in study.trials] == list(STATUSES)
    scores = [trial.score or 0.0 for trial in study.ranked]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    (pruned,), (unended,) = study.of("pruned"), study.of("open")
    assert pruned.reported_value == 0.25 and pruned.score is None and pruned.reason.startswith("pruned after")
    assert unended.result is None and unended.reason == "" and study.by_id[unended.trial_id] is unended
    incumbent = Incumbent(study)
    incumbent.refresh()
    assert incumbent.best(9) == [trial.trial_id for trial in study.ranked]


def test_what_many_ask_for_is_read_once(ledger: Ledger) -> None:
    storage = CountingStorage(ledger.storage.uri)
    study = StudyData(Ledger(storage))
    ids = [trial.trial_id for trial in study.ranked]
    for _ in range(3):
        study.predictions(ids)
        assert study.truth_NT.shape == study.pred_NT(ids[0]).shape
        assert set(study.references) == {"per-target mean"} and study.torn == ()
        assert set(study.fold_metrics(ids[0])) == set(study.folds)
    tables = {name: count for name, count in storage.reads.items() if name.endswith(".parquet")}
    assert set(tables) == {"quadrats.parquet", "references.parquet", *(f"trials/{one}/oof.parquet" for one in ids)}
    assert set(tables.values()) == {1}


def test_predictions_that_are_whole_cost_a_request_for_the_marker_and_one_for_the_table(ledger: Ledger) -> None:
    storage = CountingStorage(ledger.storage.uri)
    study = StudyData(Ledger(storage))
    ids = [trial.trial_id for trial in study.ranked]
    assert len(study.quadrats) == 40
    storage.reads.clear()
    study.predictions(ids)
    files = [f"trials/{one}/{name}" for one in ids for name in ("oof.parquet", "result.json")]
    assert storage.reads == dict.fromkeys(files, 1)
    assert not storage.asked


def test_rows_are_aligned_by_image_id_whatever_their_order(ledger: Ledger) -> None:
    trial = StudyData(ledger).ranked[0]
    expected = StudyData(ledger).pred_NT(trial.trial_id)
    shuffled = ledger.oof(trial.trial_id).sample(frac=1, random_state=0)
    assert trial.result is not None
    ledger.write_result(trial.trial_id, trial.result, shuffled)
    study = StudyData(ledger)
    np.testing.assert_array_equal(study.pred_NT(trial.trial_id), expected)
    backwards = study.quadrats["image_id"][::-1]
    np.testing.assert_array_equal(study.pred_NT(trial.trial_id, backwards), expected[::-1])


def test_a_trial_that_cannot_be_read_is_left_out_with_its_reason(ledger: Ledger) -> None:
    torn, strange, sound = (trial.trial_id for trial in StudyData(ledger).ranked)
    ledger.storage.write(f"trials/{torn}/oof.parquet", b"torn")
    ledger.write_result(strange, records.complete(0.5), ledger.oof(strange)[1:])
    study = StudyData(ledger)
    assert list(study.predictions([torn, strange, sound], most=1)) == [sound]
    assert list(study.predictions([torn, strange, sound], most=0)) == []
    assert "is not the file that result.json vouches for" in study.unread[torn]
    assert "1 of 40 images have no prediction, such as ID0000" in study.unread[strange]
    with pytest.raises(LedgerError, match="pooled over other images"):
        study.pred_NT(strange)


def test_what_a_running_search_writes_meanwhile_is_not_torn(ledger: Ledger) -> None:
    """The trials were read, then one was proposed and an open one has ended."""
    study = StudyData(ledger)
    (open_trial,) = study.of("open")
    assert study.results
    ledger.write_trial(replace(open_trial.record, trial_id="0123456789", number=99))
    ledger.write_result(open_trial.trial_id, records.failed("no room"))
    assert study.torn == ()
    ledger.storage.write("trials/0123456789/trial.json", b"torn")
    ledger.storage.write(f"trials/{open_trial.trial_id}/result.json", b"torn")
    assert [
        name for name in ("0123456789", open_trial.trial_id) for line in StudyData(ledger).torn if name in line
    ] == [
        "0123456789",
        open_trial.trial_id,
    ]


def test_references_know_whether_they_can_predict_a_test_set(ledger: Ledger) -> None:
    table = ledger.references()
    assert table is not None
    more = pd.concat([table, table.sample(frac=1, random_state=0).assign(reference="metadata trees")])
    ledger.write_references(more)
    study = StudyData(ledger)
    found = study.references
    assert {name: each.predicts_tests for name, each in found.items()} == {
        "per-target mean": True,
        "metadata trees": False,
    }
    np.testing.assert_array_equal(found["metadata trees"].pred_NT, found["per-target mean"].pred_NT)
    np.testing.assert_array_equal(study.truth_NT, ledger.quadrats()[list(TARGETS)].to_numpy())
    ledger.write_references(table[1:])
    with pytest.raises(LedgerError, match=r"references\.parquet holds other images: 1 of 40 images"):
        _ = StudyData(ledger).references


@pytest.mark.parametrize("trials", [2, 9])
def test_a_page_of_an_object_store_lists_as_often_for_many_trials_as_for_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    """Files of trials are read by their names, many at a time; an open trial costs no listing either."""
    ledger = hand.empty_study(tmp_path)
    for number in range(trials):
        hand.complete(ledger, hand.propose(ledger, number), 0.5)
    hand.propose(ledger, trials)
    expected = leaderboard(StudyData(ledger))
    listed: list[str] = []
    children = Storage.children
    monkeypatch.setattr(Storage, "children", lambda self, folder: [listed.append(folder), children(self, folder)][1])
    monkeypatch.setattr(ledger.storage, "is_local", False)  # the same files, by pyarrow's filesystem
    data = StudyData(ledger)
    assert leaderboard(data) == expected
    assert [line.partition(";")[0][-20:] for line in data.torn] == [" has lost oof.parquet"[-20:]] * trials
    assert listed == ["trials"] * 3  # records, results, folders without a record
    known = data.results
    listed.clear()
    assert ledger.results(known=known) == {} and listed == ["trials"]  # a refresh of the driver
