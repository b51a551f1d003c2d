"""Runs a prepared search on Ray: broker, Tuner and watcher, to one of its ends."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune

from orchestration.search.coordinator import FirmGround, make_coordinator
from orchestration.search.incumbent import Incumbent
from orchestration.search.model_room import ModelRoom
from orchestration.search.proposer import Proposer
from orchestration.search.pruning import PruneRule
from orchestration.search.tune_searcher import ALIKE_FAILURES, BreakNotes, TuneSearcher, live_trials
from orchestration.search.watch import Watch
from orchestration.study import layout
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.lock import Heartbeat
from orchestration.study.records import COMPLETE, FAILED, REFUSED, TrialResult
from orchestration.study.settings import StudyError
from orchestration.workers.actor import FoldWorker
from orchestration.workers.address import is_cluster
from orchestration.workers.broker import Broker, Slots, slots_of
from orchestration.workers.cluster import ON_HEAD, slot_limit
from orchestration.workers.context import WorkerContext
from orchestration.workers.pulse import Pulse
from orchestration.workers.resources import Resources

Say = Callable[[str], None]
COORDINATOR_STARTS = 10  # of one trial
MOST_LIVE = 1000  # Tune's own limit of trials under way; the searcher's, which follows the slots, is far below


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a search came to its end. One that is broken off raises: an error with the reason, or KeyboardInterrupt."""

    hours_over: bool  # before every trial that was asked for had ended
    ended: int  # trials of the study that have ended
    open: int  # trials that were proposed and wait for the next search


def gpus_of_a_slot(resources: Resources) -> float:
    """As asked for, else one where Ray has any; needs Ray."""
    if resources.gpus_per_fold is not None:
        return resources.gpus_per_fold
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def start_broker(context: WorkerContext, resources: Resources, worker_class: type = FoldWorker) -> tuple[Any, int]:
    """The broker actor and how many slots it has now. Raises StudyError when the machine can hold none."""
    gpus = gpus_of_a_slot(resources)
    slots = Slots(
        cpus=resources.cpus_per_fold,
        gpus=gpus,
        most=slot_limit(resources.max_slots, resources.cpus_per_fold, resources.address),
        grows=is_cluster(resources.address),
        timeout=resources.fold_timeout,
    )
    has = ray.cluster_resources()
    if not slots.grows and slots_of(ray.nodes(), slots) < 1:
        raise StudyError(
            f"a slot needs {slots.cpus:g} CPUs and {slots.gpus:g} GPUs, this machine has {has.get('CPU', 0):g} and "
            f"{has.get('GPU', 0):g}; lower --cpus-per-fold or --gpus-per-fold"
        )
    # A waiting job holds a call open. On the head: a worker node may leave at any time, and must not take the broker.
    actor = ray.remote(Broker).options(num_cpus=0, max_concurrency=100_000, resources=ON_HEAD)
    broker: Any = actor.remote(
        replace(context, gpus=gpus, cache_gb=resources.cache_gb, compiles=resources.compiles), slots, worker_class
    )
    return broker, ray.get(broker.start.remote())


def run(
    ledger: Ledger,
    context: WorkerContext,
    proposer: Proposer,
    rule: PruneRule | None,
    resources: Resources,
    heartbeat: Heartbeat,
    pulse: Pulse,
    say: Say,
) -> Ending:
    """Search until the proposer has nothing more. Needs Ray and the study's lock.

    Leaves the process that calls it alone. Raises StudyError with the reason where the search cannot go on,
    ClusterError where Ray has died.
    """
    broker, slots = pulse.guard(lambda: start_broker(context, resources))
    waits = "" if slots else ", folds wait for a node that has what a slot asks for (biomass doctor)"
    if proposer.costs is not None:
        proposer.costs.ask(broker)
    before = frozenset(ledger.results())
    say(f"{slots} slots{waits}; {proposer.finished} trials are finished already")
    searcher = TuneSearcher(proposer, live=live_trials(max(slots, 1)))
    room = None if resources.weights_gb is None else ModelRoom(ledger, resources.weights_gb, say)
    watch = Watch(broker, searcher, Incumbent(StudyData(ledger)), heartbeat, say, room)
    together = gpus_of_a_slot(resources) > 0 if resources.folds_together is None else resources.folds_together
    leave = threading.Event()
    tuner = make_tuner(ledger, searcher, broker, rule, together=together, leave=leave)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with watch.watching():
        # not here, where a dead Ray would hold it for ever, and where Tune would take SIGINT and SIGUSR1 for itself
        pulse.guard(tuner.fit, lambda: watch.lost, leave.set)
    if proposer.costs is not None and proposer.costs.unknown:
        say(f"note: nothing was refused for what its folds cost, no slot could be measured: {proposer.costs.unknown}")
    if (why := searcher.end_reason) is not None:
        raise StudyError(f"{why}. Every finished fold is kept")
    if proposer.unfinished and not proposer.hours_over:
        raise StudyError(f"{proposer.unfinished} trials stay open; the same command goes on with them")
    _require_a_success(ledger.results(), before)
    return Ending(hours_over=proposer.hours_over, ended=proposer.finished, open=proposer.unfinished)


def _require_a_success(results: Mapping[str, TrialResult], before: Container[str]) -> None:
    """Raise StudyError where the study has no complete trial, or where many trials of this run have all failed."""
    now = {name: result for name, result in results.items() if name not in before}
    complete = any(result.status == COMPLETE for result in results.values())
    broken = len(now) >= ALIKE_FAILURES and all(result.status == FAILED for result in now.values())
    if all(result.status == REFUSED for result in results.values()) or (complete and not broken):
        return
    failed = [result.reason for result in (now if complete else results).values() if result.status == FAILED]
    reason, times = Counter(failed).most_common(1)[0]
    raise StudyError(
        f"a search must complete a trial, got {len(failed)} failed, most often ({times}) for: {reason}. Mend it, then "
        "give the same command with --retry-failed"
    )


class _Leave(tune.Callback):
    """Ends Tune's loop at its next step, once nobody waits for it any more."""

    def __init__(self, leave: threading.Event) -> None:
        self._leave = leave

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._leave.is_set():
            raise SystemExit  # past Tune's own clean-up, which waits for actors that go down with Ray

    def __getstate__(self) -> dict[str, Any]:
        return {}


def make_tuner(
    ledger: Ledger,
    searcher: TuneSearcher,
    broker: Any,
    rule: PruneRule | None,
    *,
    together: bool,
    leave: threading.Event,
) -> tune.Tuner:
    """The Tuner of a study's search, which ends when the searcher has nothing more or when `leave` is set."""
    coordinate = make_coordinator(ledger.storage.uri, broker, rule, together=together)
    where: dict[str, Any] = {"storage_path": ledger.storage.uri}
    if not ledger.storage.is_local:
        where = {"storage_path": ledger.storage.base, "storage_filesystem": ledger.storage.filesystem}
    return tune.Tuner(
        tune.with_resources(coordinate, ON_HEAD),
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=-1, max_concurrent_trials=MOST_LIVE, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=layout.TUNE,
            verbose=0,
            callbacks=[_Leave(leave), FirmGround(), BreakNotes(searcher)],
            # A coordinator that loses its process starts again and goes on from the ledger. What kills it is never the
            # trial's fault: in the end the searcher leaves the trial open.
            failure_config=tune.FailureConfig(max_failures=COORDINATOR_STARTS - 1),
            **where,
        ),
    )
