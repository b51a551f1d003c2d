"""Runs a prepared search on Ray: broker, Tuner and watcher, to one of its ends."""

from __future__ import annotations

import logging
import threading
from typing import Any

import ray
from ray import tune

from biomass_models.counted import counted
from orchestration.progress import Say
from orchestration.search.ending import Ending, ending_of
from orchestration.search.fold_costs import FoldCosts
from orchestration.search.incumbent import Incumbent
from orchestration.search.live_view import LiveView
from orchestration.search.model_room import ModelRoom
from orchestration.search.on_ray.beside import Beside
from orchestration.search.on_ray.coordinator import FirmGround, make_coordinator
from orchestration.search.on_ray.tune_searcher import BreakNotes, TuneSearcher, room_on_head
from orchestration.search.on_ray.watch import Watch
from orchestration.search.proposer import Proposer
from orchestration.search.pruning import PruneRule
from orchestration.search.second_round import label, rounds_to_label
from orchestration.study import layout
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.lock import Heartbeat
from orchestration.verbosity import level_of_ray
from orchestration.workers.cluster import ON_HEAD
from orchestration.workers.context import WorkerContext
from orchestration.workers.machine import memory_limit
from orchestration.workers.pool import RETRY
from orchestration.workers.pulse import Pulse
from orchestration.workers.resources import Resources
from orchestration.workers.slots.leases import gpus_of_a_slot
from orchestration.workers.slots.ray_pool import GuardedPool, RayPool, start_broker

COORDINATOR_STARTS = 10  # of one trial
MOST_RUNNING = 1000  # Tune's own limit of running trials; the searcher's, which follows the slots, is far below


def search_on_ray(
    ledger: Ledger,
    context: WorkerContext,
    proposer: Proposer,
    rule: PruneRule | None,
    resources: Resources,
    heartbeat: Heartbeat,
    pulse: Pulse,
    references: Beside,
    say: Say,
) -> Ending:
    """Search until the proposer has nothing more. Needs Ray and the study's lock.

    references: made while the folds run. Leaves the process that calls it alone. Raises StudyError with the reason
    where the search cannot go on, ClusterError where Ray has died.
    """
    broker, slots = pulse.guard(lambda: start_broker(context, resources))
    waits = "" if slots else ", folds wait for a node that has what a slot asks for (biomass doctor)"
    if proposer.costs is not None:
        measure_a_slot(proposer.costs, broker)
    if waiting := rounds_to_label(ledger, proposer.second_round):
        label(ledger, GuardedPool(RayPool(broker), pulse), waiting)
    before = frozenset(ledger.results())
    say(f"{counted(slots, 'slot')}{waits}; {counted(proposer.trials.ended, 'trial has', 'trials have')} ended already")
    here = ray.get_runtime_context().get_node_id()
    searcher = TuneSearcher(proposer, room=room_on_head(ray.nodes(), here=here, limit=memory_limit()))
    searcher.follow(max(slots, 1))
    room = None if resources.weights_gb is None else ModelRoom(ledger, resources.weights_gb, say)
    view = LiveView(proposer, Incumbent(StudyData(ledger)), say, room)
    watch = Watch(broker, searcher, view, heartbeat, say, references)
    together = gpus_of_a_slot(resources) > 0 if resources.folds_together is None else resources.folds_together
    leave = threading.Event()
    tuner = make_tuner(ledger, searcher, broker, rule, together=together, leave=leave)
    logging.getLogger("ray.tune").setLevel(level_of_ray())
    with watch.watching():
        # not here, where a dead Ray would hold it for ever, and where Tune would take SIGINT and SIGUSR1 for itself
        pulse.guard(tuner.fit, lambda: watch.lost, leave.set)
    references.finish()
    if proposer.costs is not None and proposer.costs.unknown:
        say(f"note: nothing was refused for what its folds cost, no slot could be measured: {proposer.costs.unknown}")
    return ending_of(proposer, searcher.end_reason, before)


def measure_a_slot(costs: FoldCosts, broker: Any) -> None:
    """Have the first slot that is there measured before any fold runs on it, and folds counted on any slot: torch is
    there. A count goes before all folds that wait."""
    if costs.measure_job is not None:
        answer = broker.run.remote(costs.measure_job, RETRY)
        costs.set_poll(lambda: ray.get(answer) if ray.wait([answer], timeout=0)[0] else None)
        costs.set_counter(lambda job: ray.get(broker.run.remote(job, RETRY)))


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
            search_alg=searcher, num_samples=-1, max_concurrent_trials=MOST_RUNNING, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=layout.TUNE,
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # says nothing then; that of notebooks leaves an empty output
            callbacks=[_Leave(leave), FirmGround(), BreakNotes(searcher)],
            # A coordinator that loses its process starts again and goes on from the ledger. What kills it is never the
            # trial's fault: in the end the searcher leaves the trial open.
            failure_config=tune.FailureConfig(max_failures=COORDINATOR_STARTS - 1),
            **where,
        ),
    )
