"""What grows with a ledger: readers of 10 000 trials, proposals, readers over an object store.

    python tests/benchmarks/bench_ledger.py [TRIALS]                  leaderboard, status, proposer made anew
    python tests/benchmarks/bench_ledger.py --proposals [TRIALS]      CPU of a proposal after so many trials
    python tests/benchmarks/bench_ledger.py --s3 MILLISECONDS [TRIALS]   the first, on moto's S3, each request so late

CPU seconds are this process's own: they hold on a busy machine as well, wall seconds do not.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestration"))
from object_store import s3_server

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
from orchestration.study.records import COMPLETE, TrialRecord, TrialResult
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from search_spaces.domain import SearchSpace
from search_spaces.spaces import space_of

FAMILIES, BACKBONE = ("baseline", "probe", "distilled"), "tf_efficientnet_lite0"
OPEN = 12  # trials at a time: 8 slots
LAST = 20  # proposals that a number is the mean of


def timed(name: str, work: Callable[[], Any]) -> Any:
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took, own = time.perf_counter() - start, time.process_time() - cpu
    print(f"{name}: {took:.1f} s, {own:.1f} CPU s (peak memory so far {memory:.0f} MB)", flush=True)
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
        cost: dict[str, Any] = {"seconds": 1.0, "folds_done": 5, "peak_memory_mb": 900.0, "ended_at": time.time()}
        result = TrialResult(status=COMPLETE, score=score, fold_scores=(score,) * 5, **cost)
        ledger.write_trial(record)
        oof = quadrats[["image_id", "fold", "group", *TARGETS]].copy()
        oof[list(TARGETS)] *= rng.lognormal(0, 0.3, (len(oof), len(TARGETS)))
        ledger.write_result(record.trial_id, result, oof)


def readers(study: str, data_dir: Path, trials: int) -> None:
    make_pasture(data_dir, images=24, test_images=1, width=160, height=80)
    quadrats = read_train(data_dir)
    folds = assign_folds(quadrats)
    ledger, settings = Ledger(Storage(study)), StudySettings(families=FAMILIES, backbones=(BACKBONE,))
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
    known = ledger.results()
    timed("a refresh of a driver that knows all results", lambda: ledger.results(known=known))


def proposals(folder: str, trials: int) -> None:
    """Proposals as on 8 slots, with results in another order than that of proposal."""
    print("| family | fields | " + " | ".join(f"trial {n}" for n in _shown(trials)) + " |  CPU ms a proposal")
    for family in FAMILIES:
        space, rng = space_of(family, ("one", "two", "three", "four"), "gpu"), np.random.default_rng(0)
        weights = dict.fromkeys(("one", "two", "three", "four"), "w")
        ledger = Ledger(Storage(f"{folder}/{family}"))
        proposer = Proposer({family: space}, ledger, seed=0, fold_hash="f", weights=weights)
        took, waiting = list[float](), deque[TrialRecord]()
        while len(took) < trials:
            started = time.process_time()
            record = proposer.propose()
            assert record is not None
            waiting.append(record)
            if len(waiting) == OPEN:
                waiting.rotate(int(rng.integers(OPEN)))
                result = TrialResult(status=COMPLETE, score=float(rng.normal(0.6, 0.1)), seconds=1.0)
                proposer.record_result(waiting.popleft().trial_id, result)
            took.append(time.process_time() - started)
        shown = " | ".join(f"{1000 * np.mean(took[n - LAST : n]):.0f}" for n in _shown(trials))
        print(f"| {family} | {len(space.domains)} | {shown} |", flush=True)


def _shown(trials: int) -> list[int]:
    return [number for number in (50, 200, 400, 1000) if number <= trials]


@contextlib.contextmanager
def late(port: int, milliseconds: float) -> Iterator[int]:
    """A port of loopback that hands all to another one; what is sent to it arrives so late.

    A process of its own hands it on: what that costs is no part of the readers' CPU seconds.
    """
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe(duplex=False)
    hand = processes.Process(target=hand_on, args=(port, milliseconds / 1000, theirs), daemon=True)
    hand.start()
    try:
        yield ours.recv()
    finally:
        hand.kill()


def hand_on(port: int, wait: float, ready: Connection) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    ready.send(listener.getsockname()[1])

    def copy(source: socket.socket, target: socket.socket, wait: float) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                time.sleep(wait)
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)

    while True:
        client = listener.accept()[0]
        server = socket.create_connection(("127.0.0.1", port))
        for one in ((client, server, wait), (server, client, 0.0)):
            threading.Thread(target=copy, args=one, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int, nargs="?")
    parser.add_argument("--proposals", action="store_true")
    parser.add_argument("--s3", type=float, metavar="MILLISECONDS")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.proposals:
            proposals(folder, asked.trials or 1000)
        elif asked.s3 is None:
            readers(f"{folder}/study", Path(folder) / "data", asked.trials or 10_000)
        else:
            with s3_server(Path(folder) / "log") as environment:
                port = int(environment["AWS_ENDPOINT_URL"].rpartition(":")[2])
                with late(port, asked.s3) as late_port:
                    os.environ |= {**environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{late_port}"}
                    readers("s3://bucket/study", Path(folder) / "data", asked.trials or 1000)


if __name__ == "__main__":
    main()
