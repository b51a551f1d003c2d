"""Do slots idle, and what does handing out a fold cost? `python tests/benchmarks/bench_scheduling.py [trials] [slots]`

With `--seconds 0.02` every fold sleeps so long: what the driver computes for a trial, by hundreds of trials, as `1000 2
--seconds 0.02`. Exits 1 above 60 CPU ms a trial, or where the last hundred takes over 1.5 times as long as the second.

The real road from Optuna over Ray Tune, coordinators and broker to the ledger, with folds that sleep 1 to 3 s instead
of fitting (100 trials x 5 folds on 8 slots take about 2.2 minutes). Exits 1 when the slots are busy less than 95 % of
the time between the first and the last start of a fold, or when the median wait between two folds is above 20 ms.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestration"))
import stand_ins

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import fold_hash
from biomass_models.targets import FROM_COMPONENTS, TARGETS
from orchestration.search.incumbent import Incumbent
from orchestration.search.live_view import LiveView
from orchestration.search.on_ray.beside import Beside
from orchestration.search.on_ray.run import make_tuner
from orchestration.search.on_ray.tune_searcher import TuneSearcher
from orchestration.search.on_ray.watch import Watch
from orchestration.search.proposer import Proposer
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.lock import Heartbeat
from orchestration.study.records import StudyRecord
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from orchestration.workers.cluster import ON_HEAD, ray_cluster
from orchestration.workers.context import WorkerContext
from orchestration.workers.slots.broker import Broker
from orchestration.workers.slots.leases import Slots
from search_spaces.spaces import space_of

BUSY, OVERHEAD_MS = 0.95, 20.0
DRIVER_MS, GROWTH, HUNDRED = 60.0, 1.5, 100


class Timed(TuneSearcher):
    """Notes the driver's CPU seconds at the end of each trial."""

    def __init__(self, proposer: Proposer) -> None:
        super().__init__(proposer)
        self.cpu = [time.process_time()]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        super().on_trial_complete(trial_id, result, error)
        self.cpu.append(time.process_time())


def main(trials: int, slots: int, seconds: float | None) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Storage(folder))
        hash_ = _study(ledger)
        spaces = {"probe": space_of("probe", ("net",), "cpu")}
        proposer = Proposer(spaces, ledger, seed=0, fold_hash=hash_, weights={"net": "w"}, max_trials=trials)
        with ray_cluster(num_cpus=slots):
            ray.cloudpickle.register_pickle_by_value(stand_ins)
            context = WorkerContext(study=folder, data_dir="", cache="", weights=WeightsSource(kind="random"))
            actor: Any = ray.remote(Broker).options(num_cpus=0, max_concurrency=100_000, resources=ON_HEAD)
            range_ = stand_ins.Sleeper.SECONDS if seconds is None else (seconds, seconds)
            sleeper = type("Sleeper", (stand_ins.Sleeper,), {"SECONDS": range_})
            broker = actor.remote(context, Slots(cpus=1.0, gpus=0.0), sleeper)
            ray.get(broker.start.remote())
            searcher = Timed(proposer)
            searcher.follow(slots)
            view = LiveView(proposer, Incumbent(StudyData(ledger)), lambda text: None)
            tuner = make_tuner(ledger, searcher, broker, None, together=False, leave=threading.Event())
            nothing = Beside("", lambda on_progress: None)
            with Watch(broker, searcher, view, Heartbeat(ledger.storage), lambda text: None, nothing).watching():
                tuner.fit()
        return _report(ledger, trials, slots) if seconds is None else _report_driver(searcher.cpu)


def _report_driver(cpu: list[float]) -> bool:
    """cpu: seconds of the driver at the start and when each trial had ended; Ray's processes are not among them."""
    ms = [10 * (cpu[end] - cpu[end - HUNDRED]) for end in range(HUNDRED, len(cpu), HUNDRED)]
    print(f"driver, CPU ms a trial by hundreds: {', '.join(f'{one:.0f}' for one in ms)}   (below {DRIVER_MS:.0f})")
    return max(ms) < DRIVER_MS and ms[-1] < GROWTH * ms[min(1, len(ms) - 1)]


def _study(ledger: Ledger) -> str:
    rng = np.random.default_rng(0)
    quadrats = pd.DataFrame({"image_id": [f"i{row:03d}" for row in range(350)], "fold": np.arange(350) % 5})
    quadrats["group"] = [f"g{row % 30:02d}" for row in range(350)]
    quadrats[list(TARGETS)] = rng.gamma(2.0, 10.0, (350, 3)) @ FROM_COMPONENTS.T
    identity = fold_hash(quadrats)
    settings = StudySettings(families=("probe",), backbones=("net",))
    ledger.write_study(StudyRecord(settings=settings, data_fingerprint="d", fold_hash=identity), quadrats)
    return identity


def _report(ledger: Ledger, trials: int, slots: int) -> bool:
    folds = [
        metrics.to_json() | dict(metrics.info)
        for trial in ledger.trials()
        for fold in range(5)
        if (metrics := ledger.fold_metrics(trial.trial_id, fold))
    ]
    assert len(folds) == 5 * trials, f"{len(folds)} folds of {5 * trials}"
    table = pd.DataFrame(folds).sort_values("started_at")
    first, last = table["started_at"].min(), table["started_at"].max()
    waited = table["waited"].dropna()  # a slot's first fold has no fold before it
    late = (table.groupby("pid")["started_at"].min() - first).sum()
    early = (last - table.groupby("pid")["finished_at"].max()).clip(lower=0).sum()
    idle = waited.sum() + late + early + (slots - table["pid"].nunique()) * (last - first)
    busy = 1 - idle / (slots * (last - first))
    slot = table.groupby("pid")
    wrote = slot["started_at"].shift(-1) - slot["waited"].shift(-1) - table["finished_at"]
    overhead = 1000 * waited.median()
    print(f"{trials} trials x 5 folds on {slots} slots, {last - first:.0f} s between first and last start")
    print(f"slots busy               {busy:.1%}   (at least {BUSY:.0%})")
    tail = f"95th percentile {1000 * waited.quantile(0.95):.0f} ms   (below {OVERHEAD_MS:.0f} ms)"
    print(f"from one fold to the next  {overhead:.1f} ms median, {tail}")
    print(f"in a fold: its results on the disk {1000 * wrote.median():.0f} ms median")
    return bool(busy >= BUSY and overhead < OVERHEAD_MS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int, nargs="?", default=100)
    parser.add_argument("slots", type=int, nargs="?", default=8)
    parser.add_argument("--seconds", type=float)
    asked = parser.parse_args()
    raise SystemExit(0 if main(asked.trials, asked.slots, asked.seconds) else 1)
