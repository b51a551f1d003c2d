"""Workers without models, for tests and benchmarks of the pool: same face as FoldWorker, made-up work."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomass_models.targets import FROM_COMPONENTS, TARGETS
from orchestration.jobs import FoldJob, Outcome
from orchestration.ledger import Ledger
from orchestration.records import FoldMetrics
from orchestration.storage import Storage


@dataclass(frozen=True, kw_only=True)
class ScriptedJob:
    """What a Scripted worker shall do: sleep, hang, die, or die once (mark: a file that says that it has)."""

    trial_id: str
    do: str = "sleep"
    seconds: float = 0.0
    mark: str = ""
    reports: bool = False


@dataclass(frozen=True, kw_only=True)
class ScriptedOutcome(Outcome):
    """Who did it and when."""

    pid: int
    devices: str | None
    started: float
    ended: float


class Scripted:
    """Does what the job says."""

    def __init__(self, context: Any, threads: int, slot: int, broker: Any) -> None:
        self._slot, self._broker = slot, broker
        self._stopped: set[str] = set()
        self._gate = threading.Lock()

    def ready(self) -> bool:
        return True

    def stop(self, trial_id: str) -> None:
        self._stopped.add(trial_id)

    def run(self, job: ScriptedJob) -> Outcome:
        with self._gate:
            return self._work(job)

    def _work(self, job: ScriptedJob) -> Outcome:
        started = time.time()
        do = job.do
        if do == "die" or (do == "die once" and not Path(job.mark).exists()):
            if do == "die once":
                Path(job.mark).touch()
            os._exit(1)
        if do == "hang":
            time.sleep(3600)
        end = time.monotonic() + job.seconds
        while time.monotonic() < end:
            if job.trial_id in self._stopped:
                return Outcome(status="stopped")
            time.sleep(0.02)
            if job.reports:
                self._broker.note_progress.remote(self._slot, 1, 2)
        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        return ScriptedOutcome(status="done", pid=os.getpid(), devices=devices, started=started, ended=time.time())


class Sleeper:
    """Folds that sleep for a second to three and leave made-up rows in the study's ledger, as real ones do."""

    def __init__(self, context: Any, threads: int, slot: int, broker: Any) -> None:
        self._ledger = Ledger(Storage(context.study))
        self._quadrats = self._ledger.quadrats()
        self._gate = threading.Lock()
        self._idle_since: float | None = None

    def ready(self) -> bool:
        return True

    def stop(self, trial_id: str) -> None:
        pass

    def run(self, job: FoldJob) -> Outcome:
        with self._gate:
            trial_id, fold = job.trial_id, job.fold
            started = time.time()
            waited = None if self._idle_since is None else started - self._idle_since
            self._ledger.note_fold_start(trial_id, fold)
            rng = np.random.default_rng([int(trial_id, 16), fold])
            slept = rng.uniform(1.0, 3.0)
            time.sleep(slept)
            rows = self._quadrats[self._quadrats["fold"] == fold]
            oof = rows[["image_id", "fold", "group"]].reset_index(drop=True)
            noise = rng.normal(0, 5.0, (len(rows), 3))
            oof[list(TARGETS)] = np.maximum(rows[list(TARGETS)].to_numpy()[:, :3] + noise, 0) @ FROM_COMPONENTS.T
            metrics = FoldMetrics(
                fold=fold,
                score=0.5,
                started_at=started,
                info={"slept": slept, "waited": waited},  # waited: since this slot's last fold was written
                seconds=time.time() - started,
                finished_at=time.time(),
                pid=os.getpid(),
            )
            self._ledger.write_fold(trial_id, oof=oof, model=b"", metrics=metrics)
            self._idle_since = time.time()
            return Outcome(status="done", metrics=metrics)
