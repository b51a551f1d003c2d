"""A study on an object store, against a real S3 server on loopback."""

from __future__ import annotations

import errno
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pyarrow.fs
import pytest
from object_store import CREDENTIALS, s3_server
from tiny_study import make_study

from biomass_models.backbones.weights import WeightsSource
from biomass_models.errors import StoreError
from orchestration.inspect.audit import audit
from orchestration.inspect.status import render_status, status_of
from orchestration.search.trial import run_trial
from orchestration.study import lock
from orchestration.study.ledger import Ledger
from orchestration.study.lock import LockError, read_owner, study_lock
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import FlipsJob, FoldJob, Job
from orchestration.workers.runner import JobRunner
from orchestration.workers.slots.inline_pool import InlinePool

pytest.importorskip("moto", reason="the object store of the tests is moto's server (dev extra)")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log of the server, which has a line a request."""
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with s3_server(log) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield log


def test_files_are_whole_listed_and_removed(store: Path) -> None:
    storage = Storage("s3://bucket/files")
    assert storage.children("trials") == [] and storage.size("trials/a/trial.json") is None
    storage.write("trials/a/trial.json", b"one")
    storage.write("trials/a/trial.json", b"other")
    storage.write("trials/b/fold-0/metrics.json", b"{}")
    assert storage.read("trials/a/trial.json") == b"other" and storage.size("trials/a/trial.json") == 5
    assert storage.children("trials") == ["a", "b"]
    names = ["trials/b/fold-0/metrics.json", "trials/none", "trials/a/trial.json"] * 20
    assert storage.each(storage.size, names) == [2, None, 5] * 20
    storage.remove("trials/b/fold-0/metrics.json")
    storage.remove("never/there")
    with pytest.raises(FileNotFoundError):
        storage.read("trials/b/fold-0/metrics.json")


@pytest.mark.parametrize("options", ["", "?region=us-east-1"])
def test_a_write_is_one_request_so_that_nothing_is_half_begun(store: Path, options: str) -> None:
    storage, before = Storage(f"s3://bucket/one{options}"), len(store.read_text())
    storage.write("study.json", b"{}" * 100_000)
    requests = re.findall(r'"([A-Z]+) /bucket/one/study.json(\S*)', store.read_text()[before:])
    assert requests == [("PUT", "")] and storage.read("study.json") == b"{}" * 100_000


def test_ctrl_c_while_a_file_is_written_leaves_it_whole(tmp_path: Path) -> None:
    class Slow:
        """A store whose uploads take so long to open that Ctrl-C comes then."""

        def open_output_stream(self, path: str) -> pyarrow.NativeFile:
            stream = pyarrow.fs.LocalFileSystem().open_output_stream(path)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            return stream

    storage = Storage(f"file://{tmp_path}")  # the object-store path of the code
    storage.write("study.json", b"old")
    storage.filesystem = Slow()
    with pytest.raises(KeyboardInterrupt):
        storage.write("study.json", b"new and longer")
    assert (tmp_path / "study.json").read_bytes() == b"new and longer"


AWAY = "s3://bucket/study"
JOBS: dict[str, tuple[str, Job]] = {  # the worker's study, and a job that opens one whose store is away
    "its own study": (AWAY, FoldJob(trial_id="t", fold=0)),
    "member of another study": ("here", FlipsJob(trial_id="t", study=AWAY, ensemble="e", flips=2)),
}


@pytest.fixture
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow  # pyarrow asks again for six seconds
@pytest.mark.parametrize("case", JOBS)
def test_a_store_that_does_not_answer_is_not_the_trials_fault(case: str, tmp_path: Path, nobody_answers: None) -> None:
    study, job = JOBS[case]
    study = study if study == AWAY else str(tmp_path / study)
    cache, weights = str(tmp_path / "cache"), WeightsSource(kind="random")
    outcome = JobRunner(WorkerContext(study=study, data_dir=str(tmp_path), cache=cache, weights=weights)).run(job)
    assert outcome.status == "blocked", outcome
    assert outcome.reason is not None and "must be reachable" in outcome.reason and "127.0.0.1" in outcome.reason


class Refusing:
    """A file system that ends each call with one error."""

    def __init__(self, error: OSError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def refuse(*given: Any, **named: Any) -> NoReturn:
            raise self._error

        return refuse


def test_each_question_to_a_store_that_does_not_answer_ends_alike(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")  # the object-store path of the code
    storage.filesystem = Refusing(OSError("AWS Error NETWORK_CONNECTION"))
    for ask in (storage.read, storage.size, storage.children, storage.sizes, storage.remove):
        with pytest.raises(StoreError, match="must be reachable, got: AWS Error NETWORK_CONNECTION; check") as caught:
            ask("trials")
    with pytest.raises(StoreError, match="must be reachable"):
        storage.write("trials/t/trial.json", b"{}")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # from worker to driver


def test_what_a_disk_refuses_names_the_file(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for ask in (storage.read, storage.size, storage.remove):
        storage.filesystem = Refusing(OSError(errno.EIO, "Error reading bytes from file"))  # as pyarrow does
        with pytest.raises(OSError, match="Error reading bytes") as caught:
            ask("study.json")
        assert caught.value.errno == errno.EIO and caught.value.filename == f"{tmp_path}/study.json"


@pytest.mark.slow
def test_a_trial_is_resumed_closed_and_audited_there_as_on_a_disk(
    store: Path, tmp_path: Path, tiny_pasture: Path
) -> None:
    cache = tmp_path / "cache"
    ledger, context, records = make_study("s3://bucket/study", tiny_pasture, cache)
    local, here, _ = make_study(tmp_path / "study", tiny_pasture, cache)
    trial = records[1].trial_id
    first = next(InlinePool(context).run([FoldJob(trial_id=trial, fold=2)], (0, 0.0)))
    assert first[1].status == "done"
    result = run_trial(Ledger(Storage("s3://bucket/study")), InlinePool(context), trial)
    expected = run_trial(local, InlinePool(here), trial)
    assert result is not None and expected is not None and result.score == expected.score
    pd.testing.assert_frame_equal(ledger.oof(trial), local.oof(trial), check_exact=True)
    assert [len(ledger.fold_starts(trial, fold)) for fold in range(3)] == [1, 1, 1]
    found = audit(ledger)
    assert not found.problems and found.folds == 3 and trial not in found.open
    assert "1 complete" in render_status(status_of(ledger))


@pytest.mark.slow
def test_one_driver_at_a_time_and_the_later_of_two_at_once_wins(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.5)
    ledger = Ledger(Storage("s3://bucket/locked"))
    with study_lock(ledger):
        with pytest.raises(LockError, match="is held by process"), study_lock(ledger):
            pass
        assert read_owner(ledger.storage) is not None
    assert read_owner(ledger.storage) is None

    outcomes: list[str] = []

    def drive() -> None:
        try:
            with study_lock(Ledger(Storage("s3://bucket/locked"))):
                outcomes.append("held")
                together.wait(timeout=20)
        except LockError:
            outcomes.append("refused")
            together.wait(timeout=20)

    together = threading.Barrier(2)
    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused"]
