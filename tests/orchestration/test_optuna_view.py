"""The ledger as Optuna sees it: every state, live, never written, and quick with many trials."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hand_made_study as made
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from orchestration.dashboard.optuna_view import LedgerView, ReadOnlyError
from orchestration.dashboard.tensorboard_events import EventFolder
from orchestration.study.derived.events import write_events
from orchestration.study.lock import Heartbeat
from orchestration.study.records import Owner

ROOT = Path(__file__).parents[2]
PROBE, BASELINE = 0, 1


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_kind_of_trial_is_shown_as_what_it_is(tmp_path: Path) -> None:
    ledger = made.empty_study(tmp_path)
    done, pruned, failed, waiting = (made.propose(ledger, number) for number in range(4))
    other = made.propose(ledger, 4, "baseline")
    made.complete(ledger, done, 0.5)
    made.finish_fold(ledger, pruned, 1, 0.2)
    made.prune(ledger, pruned, 0.15)
    made.fail(ledger, failed, "fold 0: out of memory")
    made.finish_fold(ledger, waiting, 2, 0.7)
    before = files_of(tmp_path)
    view = LedgerView(ledger)
    trials = view.get_all_trials(PROBE)
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING,
    ]  # fmt: skip
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert [trial.value for trial in trials] == [0.5, 0.15, None, None]
    assert trials[0].intermediate_values == pytest.approx({0: 0.4, 1: 0.5, 2: 0.6})
    assert trials[1].intermediate_values == {1: 0.2} and trials[3].intermediate_values == {2: 0.7}
    assert trials[1].user_attrs["reason"] == "hopeless after fold 1"
    assert trials[2].user_attrs["reason"] == "fold 0: out of memory"
    assert trials[0].user_attrs["trial"] == done and trials[0].user_attrs["seconds"] == 3.0
    assert trials[0].user_attrs["config"] == ledger.trial(done).config
    assert [trial.user_attrs["trial"] for trial in view.get_all_trials(BASELINE)] == [other]
    assert view.get_trial(4).user_attrs["trial"] == other
    assert view.get_best_trial(PROBE).user_attrs["trial"] == done
    assert files_of(tmp_path) == before, "nothing is written into the study"


def test_optunas_own_functions_work_on_it(tmp_path: Path) -> None:
    ledger = made.empty_study(tmp_path)
    for number, pooling in enumerate(("mean", "mean", "global", "global")):
        made.complete(ledger, made.propose(ledger, number, params={"pooling": pooling}), 0.1 * number)
    study = optuna.load_study(study_name="probe", storage=LedgerView(ledger))
    assert study.best_value == pytest.approx(0.3) and study.metric_names == ["weighted R2"]
    assert len(study.trials_dataframe()) == 4
    assert isinstance(study.best_trial.distributions["pooling"], CategoricalDistribution)
    assert study.best_trial.params["pooling"] == "global", "people see no quotes of JSON"
    assert max(optuna.importance.get_param_importances(study).values()) > 0


def test_a_driver_whose_clock_is_wrong_is_seen_at_work_by_its_beats(tmp_path: Path) -> None:
    """Without waiting for one: a page is refreshed all the time."""
    ledger = made.empty_study(tmp_path)
    made.propose(ledger, 0)
    owner = Owner(host="elsewhere", pid=1, since=0.0, beat=1.0, token="a")
    states = []
    view = LedgerView(ledger)
    for one in (owner, owner, replace(owner, beat=2.0), replace(owner, beat=2.0), replace(owner, token="b"), None):
        if one is None:
            ledger.storage.remove("owner.json")
        else:
            ledger.storage.write("owner.json", json.dumps(one.to_json()).encode())
        view.refresh()
        states.append(view.get_trial(0).state)
    waiting, running = TrialState.WAITING, TrialState.RUNNING
    assert states == [waiting, waiting, running, running, waiting, waiting]


def test_it_follows_the_ledger_and_a_failed_trial_may_run_again(tmp_path: Path) -> None:
    ledger = made.empty_study(tmp_path)
    view = LedgerView(ledger)
    assert view.get_all_trials(PROBE) == []
    trial = made.propose(ledger, 0)
    view.refresh()
    assert [shown.state for shown in view.get_all_trials(PROBE)] == [TrialState.WAITING]
    heartbeat = Heartbeat(ledger.storage)
    heartbeat.start()
    view.refresh()
    assert view.get_trial(0).state == TrialState.RUNNING, "a search drives the study now"
    made.finish_fold(ledger, trial, 1, 0.3)
    view.refresh()
    assert view.get_trial(0).intermediate_values == {1: 0.3}
    made.fail(ledger, trial, "fold 0: no room")
    view.refresh()
    assert view.get_trial(0).state == TrialState.FAIL and view.ended == [trial]
    ledger.reopen(trial)
    view.refresh()
    assert view.get_trial(0).state == TrialState.RUNNING and view.ended == []
    assert "reason" not in view.get_trial(0).user_attrs and view.get_trial(0).intermediate_values == {1: 0.3}
    made.complete(ledger, trial, 0.4)
    later = made.propose(ledger, 1, "baseline")
    view.refresh()
    assert (view.get_trial(0).state, view.get_trial(0).value) == (TrialState.COMPLETE, 0.4)
    assert view.get_all_trials(BASELINE)[0].user_attrs["trial"] == later
    heartbeat.stop()
    view.refresh()
    assert view.get_all_trials(BASELINE)[0].state == TrialState.WAITING
    assert view.get_trial(0).state == TrialState.COMPLETE


def test_what_this_version_does_not_know_is_shown_beside_the_parameters(tmp_path: Path) -> None:
    ledger = made.empty_study(tmp_path)
    made.propose(ledger, 0, params={"pooling": "no such pooling", "colour": "green"})
    (trial,) = LedgerView(ledger).get_all_trials(PROBE)
    assert "pooling" not in trial.params and "colour" not in trial.params and "layout" in trial.params
    assert trial.user_attrs["pooling"] == "no such pooling" and trial.user_attrs["colour"] == "green"


def test_it_refuses_to_be_written(tmp_path: Path) -> None:
    ledger = made.empty_study(tmp_path)
    made.propose(ledger, 0)
    view = LedgerView(ledger)
    study = optuna.load_study(study_name="probe", storage=view)
    for write in (
        lambda: study.ask(),
        lambda: study.set_user_attr("a", 1),
        lambda: view.delete_study(PROBE),
        lambda: view.set_trial_state_values(0, TrialState.FAIL),
        lambda: optuna.create_study(storage=view),
    ):
        with pytest.raises(ReadOnlyError, match="read from the ledger"):
            write()


@pytest.mark.slow
def test_many_trials_are_read_once_and_then_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = made.empty_study(tmp_path)
    template = made.propose(ledger, 0)
    made.complete(ledger, template, 0.5)
    record = json.loads(ledger.storage.read(f"trials/{template}/trial.json"))
    result = ledger.storage.read(f"trials/{template}/result.json")
    for number in range(1, 2000):  # not through the storage, which waits for the disk each time
        folder = tmp_path / "trials" / f"{number:010x}"
        folder.mkdir()
        (folder / "trial.json").write_text(json.dumps(record | {"trial_id": folder.name, "number": number}))
        (folder / "result.json").write_bytes(result)
    read: list[str] = []
    plain = ledger.storage.read
    monkeypatch.setattr(ledger.storage, "read", lambda name: read.append(name) or plain(name))
    view = LedgerView(ledger)
    assert len(view.get_all_trials(PROBE)) == 2000
    files = [name for name in read if name.startswith("trials/")]
    assert sorted(files) == sorted(set(files)) and len(files) == 2 * 2000
    made.propose(ledger, 2000)
    read.clear()
    view.refresh()
    assert len(view.get_all_trials(PROBE)) == 2001
    assert {name.split("/")[1] for name in read if name.startswith("trials/")} == {f"{2000:010x}"}


def test_events_are_the_studys_own_or_a_temporary_copy(tmp_path: Path) -> None:
    ledger = made.empty_study(tmp_path / "study")
    (tmp_path / "here").mkdir()
    events = EventFolder(ledger, tmp_path / "here")
    assert events.path == tmp_path / "here" / "tensorboard" and events.path.is_dir(), "no trial has ended so far"
    old, new, endless = (made.propose(ledger, number) for number in range(3))
    for trial in (old, new):
        made.finish_fold(ledger, trial, 0, 0.5)
    write_events(ledger, new, {0: ledger.fold_metrics(new, 0) or {}})
    before = files_of(tmp_path / "study")
    events.refresh([old, new, endless], range(made.FOLDS))
    copied = {path.parent.name: path.read_bytes() for path in events.path.rglob("events.*")}
    assert set(copied) == {old, new}, "a trial without a finished fold has none, and an older version wrote none"
    assert copied[new] == ledger.events(new) and ledger.events(old) is None
    assert files_of(tmp_path / "study") == before
    assert EventFolder(ledger, tmp_path / "here").path == tmp_path / "study" / "tensorboard"


@pytest.mark.slow
def test_the_view_needs_neither_ray_nor_torch() -> None:
    modules = "orchestration.dashboard.serve, orchestration.dashboard.optuna_view"
    code = f"import sys, {modules}; print({{'ray', 'torch'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "set()"
