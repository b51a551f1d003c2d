"""A finished study of the tiny pasture, and a predictor that works in this process: for tests of blends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiny_study import FIRST, RANDOM, make_study

from biomass_models.backbones.weights import WeightsSource
from biomass_models.targets import TARGETS
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers
from orchestration.blending.predict import Predictor
from orchestration.search.trial import run_trial
from orchestration.study.ledger import Ledger
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import Job, Outcome
from orchestration.workers.pool import Pool
from orchestration.workers.resources import Resources
from orchestration.workers.slots.inline_pool import InlinePool


def finished_study(folder: Path, data_dir: Path, cache: Path, families: tuple[str, ...] = FIRST) -> Ledger:
    """Complete trials, one of each of some families.

    Random weights on tiny pictures have no skill, and a library leaves such members out: half of the truth is mixed
    into their pooled out-of-fold rows. The folds' own rows stay as they were.
    """
    ledger, context, records = make_study(folder, data_dir, cache, families)
    truth_NT = ledger.quadrats()[list(TARGETS)].to_numpy()
    for record in records:
        result = run_trial(ledger, InlinePool(context), record.trial_id)
        assert result is not None
        oof = ledger.oof(record.trial_id)
        oof[list(TARGETS)] = (oof[list(TARGETS)].to_numpy() + truth_NT) / 2
        ledger.write_result(record.trial_id, result, oof)
    return ledger


class Remembering(InlinePool):
    """Keeps what its jobs came to."""

    def __init__(self, context: WorkerContext, outcomes: list[Outcome], stop_after: int | None) -> None:
        super().__init__(context)
        self._outcomes, self._stop_after = outcomes, stop_after

    def run(self, jobs: list[Job], priority: int) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in super().run(jobs, priority):
            if self._stop_after is not None and len(self._outcomes) >= self._stop_after:
                yield job, Outcome(status="failed", reason="the power went")
            self._outcomes.append(outcome)
            yield job, outcome


class InlinePredictor(Predictor):
    """Predicts in this process; `outcomes` says what was computed."""

    def __init__(self, data_dir: Path, cache: Path, *, stop_after: int | None = None) -> None:
        super().__init__(data_dir, resources=Resources(cache=cache), weights=RANDOM)
        self._cache, self._data, self._stop_after = cache, data_dir, stop_after
        self.outcomes: list[Outcome] = []

    @contextmanager
    def pool(self, study: str, weights: WeightsSource) -> Iterator[Pool]:
        context = WorkerContext(study=study, data_dir=str(self._data), cache=str(self._cache), weights=weights)
        yield Remembering(context, self.outcomes, self._stop_after)


def blend_five(ledger: Ledger, data_dir: Path, folder: Path) -> Path:
    """folder/submission.csv of a blend of the five best trials, which the study keeps; features in folder/cache."""
    (submission,) = run_ensemble(
        [ledger.storage.uri],
        FileMembers(),
        data_dir=data_dir,
        out=folder / "submission.csv",
        options=BlendOptions(rule="top-5"),
        seed=0,
        open_predictor=lambda data: InlinePredictor(data, folder / "cache"),
        say=lambda _: None,
        show=lambda *_: None,
    )
    return submission
