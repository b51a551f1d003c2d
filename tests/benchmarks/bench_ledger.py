"""A ledger of 10 000 trials: seconds for the leaderboard, the status and a proposer made anew.

python tests/benchmarks/bench_ledger.py [TRIALS]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from biomass_models.data.folds import assign_folds, fold_hash
from biomass_models.data.table import read_train
from biomass_models.families.configs import config_to_params
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS
from orchestration.inspect.leaderboard import leaderboard, render_leaderboard
from orchestration.inspect.status import render_status, status_of
from orchestration.search.opening import open_study
from orchestration.search.proposer import Proposer
from orchestration.study.data import StudyData
from orchestration.study.ids import make_trial_id
from orchestration.study.ledger import Ledger
from orchestration.study.records import TrialRecord, TrialResult
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from search_spaces.domain import SearchSpace
from search_spaces.spaces import space_of

FAMILIES, BACKBONE = ("baseline", "probe", "distilled"), "tf_efficientnet_lite0"


def timed(name: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = work()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name}: {time.perf_counter() - start:.1f} s (peak memory so far {memory:.0f} MB)", flush=True)
    return result


def fill(ledger: Ledger, spaces: dict[str, SearchSpace], folds: str, trials: int) -> None:
    """Trials as a search leaves them, without folds: drawn at random from the spaces, with scores."""
    rng, quadrats = np.random.default_rng(0), ledger.quadrats()
    draws = {family: Random(0) for family in FAMILIES}
    for number in range(trials):
        family = FAMILIES[number % len(FAMILIES)]
        params = spaces[family].draw(draws[family], {})
        config = config_to_params(spaces[family].config(params))
        record = TrialRecord(
            trial_id=make_trial_id(family, config, "w", 0, folds),
            number=number,
            family=family,
            params=params,
            config=config,
            weights="w",
            seed=0,
            why="proposed",
            proposed_at=time.time(),
        )
        score = float(rng.normal(0.6, 0.1))
        cost = {"seconds": 1.0, "folds_done": 5, "peak_memory_mb": 900.0, "ended_at": time.time()}
        result = TrialResult(status="complete", score=score, fold_scores=(score,) * 5, **cost)
        ledger.write_trial(record)
        oof = quadrats[["image_id", "fold", "group", *TARGETS]].copy()
        oof[list(TARGETS)] *= rng.lognormal(0, 0.3, (len(oof), len(TARGETS)))
        ledger.write_result(record.trial_id, result, oof)


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        make_pasture(data_dir, images=24, test_images=1, width=160, height=80)
        quadrats = read_train(data_dir)
        folds = assign_folds(quadrats)
        ledger, settings = (
            Ledger(Storage(Path(folder) / "study")),
            StudySettings(families=FAMILIES, backbones=(BACKBONE,)),
        )
        open_study(
            ledger,
            settings,
            quadrats=quadrats.merge(folds, on="image_id"),
            data_fingerprint="d",
            fold_hash=fold_hash(folds),
            weights={BACKBONE: "w"},
        )
        spaces = {family: space_of(family, (BACKBONE,), "cpu") for family in FAMILIES}

        def proposer() -> Proposer:
            return Proposer(spaces, ledger, seed=0, fold_hash=fold_hash(folds), weights={BACKBONE: "w"})

        timed(f"{trials} trials written", lambda: fill(ledger, spaces, fold_hash(folds), trials))
        timed("leaderboard", lambda: render_leaderboard(leaderboard(StudyData(ledger)), 20))
        timed("status", lambda: render_status(status_of(ledger)))
        rebuilt = timed("proposer made anew", proposer)
        timed("one more proposal", rebuilt.propose)


if __name__ == "__main__":
    main()
