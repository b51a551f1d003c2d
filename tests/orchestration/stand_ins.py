"""Workers without models, for tests and benchmarks of the pool: same face as SlotWorker, made-up work."""

from __future__ import annotations

import importlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomass_models.targets import FROM_COMPONENTS, TARGETS
from orchestration.study.ledger import Ledger
from orchestration.study.records import FoldMetrics
from orchestration.study.storage import Storage
from orchestration.workers.jobs import FoldJob, Outcome
from orchestration.workers.slots.actor import SignOfLife


@dataclass(frozen=True, kw_only=True)
class ScriptedJob:
    """What a Scripted worker shall do: sleep, hang, die, or die or raise once (mark: a file that says that it has)."""

    trial_id: str
    attempt: str = ""
    do: str = "sleep"
    seconds: float = 0.0
    mark: str = ""
    looks: bool = False  # at the stop flag while it sleeps, as a fit does between two batches
    log: str = ""  # a folder in which each run leaves a file


@dataclass(frozen=True, kw_only=True)
class ScriptedOutcome(Outcome):
    """Who did it and when."""

    pid: int
    devices: str | None
    started: float
    ended: float


class Scripted:
    """Does what the job says."""

    def __init__(self, context: Any, threads: int, slot: int, broker: Any, life_seconds: float | None) -> None:
        self._slot, self._broker, self._life_seconds = slot, broker, life_seconds
        self._stopped: set[int] = set()
        self._gate = threading.Lock()

    def ready(self) -> bool:
        return True

    def stop(self, number: int) -> None:
        self._stopped.add(number)

    def run(self, job: ScriptedJob, number: int) -> Outcome:
        with self._gate:
            return self._work(job, number)

    def _work(self, job: ScriptedJob, number: int) -> Outcome:
        started = time.time()
        do = job.do
        if job.log:
            (Path(job.log) / f"{os.getpid()}-{time.time_ns()}").touch()
        if do == "die" or (do == "die once" and not Path(job.mark).exists()):
            if do == "die once":
                Path(job.mark).touch()
            os._exit(1)
        if do == "raise once" and not Path(job.mark).exists():
            Path(job.mark).write_text(str(os.getpid()))
            raise RuntimeError("the GPU must answer, got: a device-side assert")
        if do == "hang":
            time.sleep(3600)
        life = SignOfLife(lambda: False, lambda: self._broker.note_life.remote(self._slot), self._life_seconds)
        end = time.monotonic() + job.seconds
        while time.monotonic() < end:
            if number in self._stopped:
                return Outcome(status="stopped")
            time.sleep(0.02)
            if job.looks:
                life()
        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        return ScriptedOutcome(status="done", pid=os.getpid(), devices=devices, started=started, ended=time.time())


class Unstartable(Scripted):
    """Does not come up, as the context says: why, on which slots, and how often (marks: a folder that counts)."""

    def __init__(self, context: Start, threads: int, slot: int, broker: Any, life_seconds: float | None) -> None:
        self._at_ready: str | None = None
        tried = 0 if context.marks is None else len(list(Path(context.marks).iterdir()))
        if context.marks is not None:
            (Path(context.marks) / f"{os.getpid()}-{time.time_ns()}").touch()
        if slot not in context.good and context.after <= tried < context.until:
            self._fail(context.why)
        super().__init__(None, threads, slot, broker, life_seconds)

    def _fail(self, why: str) -> None:
        match why:
            case "raises":
                raise RuntimeError("the CUDA driver is too old,\n  got 11.4")
            case "wraps":
                try:
                    raise OSError(28, "No space left on device", "/dev/shm")
                except OSError as error:
                    raise ValueError("no room for the context") from error
            case "lacks a package":
                importlib.import_module("a_package_that_is_not_there")
            case "exits":
                os._exit(1)
            case "is refused":
                raise SystemExit("a licence is missing")
            case "never comes up":
                time.sleep(3600)
            case _:
                self._at_ready = why

    def ready(self) -> bool:
        if self._at_ready == "dies in ready":
            os._exit(1)
        if self._at_ready == "raises in ready":
            raise ConnectionError("the licence server hung up")
        return True


@dataclass(frozen=True, kw_only=True)
class Start:
    """How the workers of a pool come up."""

    why: str
    good: tuple[int, ...] = ()  # slots that come up
    marks: str | None = None
    after: int = 0  # starts that work before the first that does not
    until: int = 1_000_000  # starts, after which they work


def _load(mark: str) -> Loadable:
    if Path(mark).exists():
        importlib.import_module("a_package_of_the_head")
    Path(mark).touch()
    return Loadable(mark)


class Loadable:
    """Can be loaded by one process, the broker's, and by no other: as what names a package that only the head has."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return _load, (self.mark,)


class Sleeper:
    """Folds that sleep for a second to three and leave made-up rows in the study's ledger, as real ones do."""

    SECONDS = (1.0, 3.0)

    def __init__(self, context: Any, threads: int, slot: int, broker: Any, life_seconds: float | None) -> None:
        self._ledger = Ledger(Storage(context.study))
        self._quadrats = self._ledger.quadrats()
        self._gate = threading.Lock()
        self._idle_since: float | None = None

    def ready(self) -> bool:
        return True

    def stop(self, number: int) -> None:
        pass

    def run(self, job: FoldJob, number: int) -> Outcome:
        with self._gate:
            trial_id, fold = job.trial_id, job.fold
            started = time.time()
            waited = None if self._idle_since is None else started - self._idle_since
            self._ledger.note_fold_start(trial_id, fold)
            rng = np.random.default_rng([int(trial_id, 16), fold])
            slept = rng.uniform(*self.SECONDS)
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
