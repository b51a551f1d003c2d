"""Do slots idle, and what does handing out a fold cost? `python tests/benchmarks/bench_scheduling.py [trials] [slots]`

The real road from Optuna over Ray Tune, coordinators and broker to the ledger, with folds that sleep 1 to 3 s instead
of fitting (100 trials x 5 folds on 8 slots take about 2.2 minutes). Exits 1 when the slots are busy less than 95 % of
the time between the first and the last start of a fold, or when the median wait between two folds is above 20 ms.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import ray

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestration"))
import stand_ins

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import fold_hash
from biomass_models.targets import FROM_COMPONENTS, TARGETS
from orchestration.search.on_ray.run import make_tuner
from orchestration.search.on_ray.tune_searcher import TuneSearcher, most_running
from orchestration.search.proposer import Proposer
from orchestration.study.ledger import Ledger
from orchestration.study.records import StudyRecord
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from orchestration.workers.cluster import ON_HEAD, ray_cluster
from orchestration.workers.context import WorkerContext
from orchestration.workers.slots.broker import Broker
from orchestration.workers.slots.leases import Slots
from search_spaces.spaces import space_of

BUSY, OVERHEAD_MS = 0.95, 20.0


def main(trials: int, slots: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Storage(folder))
        hash_ = _study(ledger)
        spaces = {"probe": space_of("probe", ("net",), "cpu")}
        proposer = Proposer(spaces, ledger, seed=0, fold_hash=hash_, weights={"net": "w"}, max_trials=trials)
        with ray_cluster(num_cpus=slots):
            ray.cloudpickle.register_pickle_by_value(stand_ins)
            context = WorkerContext(study=folder, data_dir="", cache="", weights=WeightsSource(kind="random"))
            actor = ray.remote(Broker).options(num_cpus=0, max_concurrency=100_000, resources=ON_HEAD)
            broker = actor.remote(context, Slots(cpus=1.0, gpus=0.0), stand_ins.Sleeper)
            ray.get(broker.start.remote())
            searcher = TuneSearcher(proposer, most_running=most_running(slots))
            make_tuner(ledger, searcher, broker, None, together=False, leave=threading.Event()).fit()
        return _report(ledger, trials, slots)


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
    counts = [int(argument) for argument in sys.argv[1:]]
    raise SystemExit(0 if main(*(counts + [100, 8][len(counts) :])) else 1)
