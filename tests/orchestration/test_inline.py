"""A search in one process: the same ledger as on Ray, without Ray."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from commands import environment

from biomass_models.backbones import devices
from biomass_models.backbones.weights import WeightsSource
from orchestration.inspect.audit import audit
from orchestration.search.ending import Ending
from orchestration.search.known_trials import ALIKE_FAILURES
from orchestration.search.presets.options import Preset
from orchestration.search.start import start_search
from orchestration.study.ledger import Ledger
from orchestration.study.lock import read_owner
from orchestration.study.records import Asked, TrialRef
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import Outcome
from orchestration.workers.refit import dropped_folds, refit_trial
from orchestration.workers.resources import Resources
from orchestration.workers.runner import JobRunner
from orchestration.workers.slots.inline_pool import InlinePool, inline_slot

pytestmark = pytest.mark.slow

TINY = Preset().with_fields(
    families=("probe", "baseline"), backbones=("test_vit",), weights="random", scale="smoke", folds=3
)


def search(folder: Path, data: Path, trials: int, said: list[str] | None = None, **resources: Any) -> Ending:
    return start_search(
        str(folder),
        data,
        TINY.with_fields(trials=trials),
        weights=WeightsSource("random"),
        resources=Resources(**{"inline": True, "cache": folder.parent / "cache", **resources}),
        say=[].append if said is None else said.append,
        made_with=Asked(),
    )


def rows(folder: Path) -> dict[str, pd.DataFrame]:
    ledger = Ledger(Storage(folder))
    return {name: ledger.oof(name) for name in sorted(ledger.results())}


def test_every_trial_is_brought_to_its_end_and_the_same_comes_again(tmp_path: Path, tiny_pasture: Path) -> None:
    assert search(tmp_path / "one", tiny_pasture, 4) == Ending(hours_over=False, ended=4, open=0)
    search(tmp_path / "other", tiny_pasture, 2)
    said: list[str] = []
    search(tmp_path / "other", tiny_pasture, 4, said)
    assert "1 slot, in this process; 2 trials have ended already" in said
    one, other = rows(tmp_path / "one"), rows(tmp_path / "other")
    assert one.keys() == other.keys() and len(one) == 4
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], check_exact=True)
    assert audit(Ledger(Storage(tmp_path / "one"))).problems == []


def test_a_search_with_nothing_left_starts_no_ray(
    tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RayStarts(Exception):
        pass

    monkeypatch.setattr("orchestration.workers.cluster.ray_cluster", Mock(side_effect=RayStarts))
    search(tmp_path / "study", tiny_pasture, 2)
    before = rows(tmp_path / "study")
    for trials in (2, 1):
        again = search(tmp_path / "study", tiny_pasture, trials, inline=False)
        assert again == Ending(hours_over=False, ended=2, open=0) and rows(tmp_path / "study").keys() == before.keys()
    with pytest.raises(RayStarts):
        search(tmp_path / "study", tiny_pasture, 3, inline=False)


def test_a_search_that_prunes_fails_no_trial(tmp_path: Path, tiny_pasture: Path) -> None:
    """Trials come and end long after the first comparison, and the last ones are up for pruning."""
    said: list[str] = []
    search(tmp_path / "study", tiny_pasture, 18, said)
    results = Ledger(Storage(tmp_path / "study")).results().values()
    assert {result.status for result in results} <= {"complete", "pruned"}, [result.reason for result in results]
    assert any(result.decisions for result in results)


def test_an_interrupt_keeps_every_finished_fold(
    tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes while the fifth fold runs."""
    count = iter(range(100))
    work = InlinePool.run

    def run(self: InlinePool, jobs: list[Any], priority: Any) -> Iterator[tuple[Any, Outcome]]:
        for job in jobs:
            if next(count) == 4:
                raise KeyboardInterrupt
            yield from work(self, [job], priority)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(InlinePool, "run", run)
        search(tmp_path / "study", tiny_pasture, 3)
    ledger = Ledger(Storage(tmp_path / "study"))
    done = [
        (record.trial_id, fold, metrics.started_at)
        for record in ledger.trials()
        for fold in range(3)
        if (metrics := ledger.fold_metrics(record.trial_id, fold)) is not None
    ]
    assert len(done) == 4 and read_owner(ledger.storage) is None  # the study is free

    search(tmp_path / "study", tiny_pasture, 3)
    search(tmp_path / "whole", tiny_pasture, 3)
    for name, fold, began in done:  # not computed again
        metrics = ledger.fold_metrics(name, fold)
        assert metrics is not None and metrics.started_at == began
    whole = rows(tmp_path / "whole")
    for name, frame in rows(tmp_path / "study").items():
        pd.testing.assert_frame_equal(frame, whole[name], check_exact=True)


def test_a_search_in_which_all_fails_ends_with_the_reason(
    tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: InlinePool, jobs: list[Any], priority: Any) -> Iterator[tuple[Any, Outcome]]:
        yield from ((job, Outcome(status="failed", reason="RuntimeError: no")) for job in jobs)

    monkeypatch.setattr(InlinePool, "run", run)
    with pytest.raises(StudyError, match="all failed for the same reason: fold N: RuntimeError: no"):
        search(tmp_path / "study", tiny_pasture, 50)
    assert len(Ledger(Storage(tmp_path / "study")).results()) == ALIKE_FAILURES


def test_what_is_not_the_trials_fault_leaves_it_open(
    tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: InlinePool, jobs: list[Any], priority: Any) -> Iterator[tuple[Any, Outcome]]:
        yield from ((job, Outcome(status="blocked", reason="no room")) for job in jobs)

    with monkeypatch.context() as patched, pytest.raises(StudyError, match=r"no room.*Every finished fold is kept"):
        patched.setattr(InlinePool, "run", run)
        search(tmp_path / "study", tiny_pasture, 2)
    assert Ledger(Storage(tmp_path / "study")).results() == {}
    assert search(tmp_path / "study", tiny_pasture, 2).ended == 2


@pytest.mark.parametrize(
    ("asked", "has", "device"), [(0.0, True, "cpu"), (None, True, "auto"), (1.0, True, "auto"), (None, False, "cpu")]
)
def test_a_slot_without_gpus_computes_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: float | None, has: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has)
    context = WorkerContext(study=str(tmp_path), data_dir="", cache="", weights=WeightsSource("random"))
    with inline_slot(context, Resources(inline=True, gpus_per_fold=asked)) as slot:
        assert slot.context.device == device


def test_a_gpu_that_answers_no_more_is_not_the_trials_fault(
    tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel fails in the fifth fold (pretended), and from then on whatever is asked of the GPU."""
    count, fit = iter(range(100)), JobRunner._fit

    def broken() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")

    def run(self: JobRunner, *given: Any) -> Any:
        if next(count) < 4:
            return fit(self, *given)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", broken)
        return broken()

    with monkeypatch.context() as patched:
        patched.setattr(JobRunner, "_fit", run)
        with pytest.raises(StudyError, match=r"got: CUDA error: device-side assert triggered; run the same command"):
            search(tmp_path / "study", tiny_pasture, 3)
    monkeypatch.undo()
    results = Ledger(Storage(tmp_path / "study")).results()
    assert [result.status for result in results.values()] == ["complete"]
    assert search(tmp_path / "study", tiny_pasture, 3) == Ending(hours_over=False, ended=3, open=0)


class WithGpu:
    """torch as the choice of a device sees it on a machine with a GPU."""

    cuda = SimpleNamespace(is_available=lambda: True)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def test_all_work_keeps_off_a_gpu_that_was_not_asked_for(
    tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there seems to be a GPU whatever uses it fails: there is none."""
    from orchestration.blending.predict import Predictor  # it loads Ray, which the last test looks for

    monkeypatch.setattr(devices, "torch", WithGpu())
    search(tmp_path / "study", tiny_pasture, 2, gpus_per_fold=0.0, weights_gb=1e-5)
    ledger = Ledger(Storage(tmp_path / "study"))
    assert {result.status for result in ledger.results().values()} == {"complete"}
    (name, *_) = (name for name in ledger.results() if dropped_folds(ledger, name))
    metrics = ledger.fold_metrics(name, 0)
    assert metrics is not None and metrics.environment["gpu"] is None
    refs = {name: TrialRef(ledger.storage.uri, name)}
    resources = Resources(inline=True, gpus_per_fold=0.0, cache=tmp_path / "cache")  # restores its models first
    assert Predictor(tiny_pasture, resources=resources).test(refs, flips=1)[name].shape == (6, 5)
    assert refit_trial(ledger, name, tiny_pasture, cache_dir=None).same


@pytest.mark.parametrize(
    ("resources", "why"),
    [({"address": "10.0.0.1:6379"}, "got the cluster 10.0.0.1:6379"), ({"slots": 4}, "got --slots 4")],
)
def test_more_than_one_process_is_refused(
    tmp_path: Path, tiny_pasture: Path, resources: dict[str, Any], why: str
) -> None:
    with pytest.raises(StudyError, match=why):
        search(tmp_path / "study", tiny_pasture, 2, **resources)


def test_the_models_of_an_inline_search_are_kept_within_a_limit(tmp_path: Path, tiny_pasture: Path) -> None:
    search(tmp_path / "study", tiny_pasture, 4, weights_gb=1e-5)
    ledger = Ledger(Storage(tmp_path / "study"))
    assert any(dropped_folds(ledger, name) for name in ledger.results())


def test_ray_is_not_loaded(tmp_path: Path, tiny_pasture: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from test_inline import search; "
        f"search(Path('study'), Path({str(tiny_pasture)!r}), 2); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'ray', 'torch'}))"
    )
    here = {**environment(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=here, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "['torch']"
