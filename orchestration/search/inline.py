"""A search in this process, trial after trial and fold after fold: no Ray.

For tiny studies, debugging, notebooks and tests. Ledger, trials, pruning and proposals are those of a search on Ray,
and one can go on with what the other has begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from biomass_models.backbones.devices import pick_device, threads
from orchestration.progress import Say, Update, progress_bar
from orchestration.search.ending import Ending, ending_of, failing_alike
from orchestration.search.incumbent import Incumbent
from orchestration.search.live_view import LiveView
from orchestration.search.model_room import ModelRoom
from orchestration.search.pruning import PruneRule
from orchestration.search.searcher import Proposer
from orchestration.search.trial import NOT_THE_TRIAL, run_trial
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.lock import Heartbeat
from orchestration.study.records import SearchFacts
from orchestration.study.settings import StudyError
from orchestration.workers.address import is_cluster
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import Outcome
from orchestration.workers.pool import AnyJob, Priority
from orchestration.workers.resources import Resources
from orchestration.workers.slots.inline_pool import InlinePool


def require_one_process(resources: Resources) -> None:
    """Raise StudyError where more was asked for than this process is."""
    if is_cluster(resources.address):
        raise StudyError(
            f"--inline searches in this process, got the cluster {resources.address}; leave out one of the two "
            "(RAY_ADDRESS names a cluster as well)"
        )
    if (resources.slots or 1) > 1:
        raise StudyError(f"--inline has one slot, this process, got --slots {resources.slots}; leave out one of them")


def search_inline(
    ledger: Ledger,
    context: WorkerContext,
    proposer: Proposer,
    rule: PruneRule | None,
    resources: Resources,
    heartbeat: Heartbeat,
    say: Say,
) -> Ending:
    """Search until the proposer has nothing more. Needs the study's lock, and the costs of folds in the proposer.

    A fold that hangs is not ended: that takes a process of its own. Raises StudyError with the reason where the search
    cannot go on; what interrupts it passes through, and finished folds are kept.
    """
    before = frozenset(ledger.results())
    say(f"1 slot, in this process; {proposer.finished} trials are finished already")
    incumbent = Incumbent(StudyData(ledger))
    room = None if resources.weights_gb is None else ModelRoom(ledger, resources.weights_gb, say)
    gpus = resources.gpus_per_fold
    gpus = float(pick_device("auto").type == "cuda") if gpus is None else gpus
    together = gpus > 0 if resources.folds_together is None else resources.folds_together
    view = LiveView(proposer, incumbent, say, room)
    broken_off: str | None = None
    with progress_bar("Search") as update, threads(max(1, int(resources.cpus_per_fold))):
        pool = _ShownPool(context.of_slot(resources, gpus), view, heartbeat, update, proposer)
        view.refresh()
        while broken_off is None and (record := proposer.propose()) is not None:
            name = record.trial_id
            try:
                result = run_trial(ledger, pool, name, rule=rule, standing=incumbent, together=together)
            except NOT_THE_TRIAL as error:
                broken_off = str(error)
                break
            except Exception as error:  # the boundary of a trial, as a coordinator is on Ray
                result = ledger.write_failure(name, f"coordinator: {type(error).__name__}: {error}")
            if result is not None:
                proposer.tell(name, result)
            view.refresh()
            pool.show()
            broken_off = failing_alike(proposer)
            if heartbeat.lost_to:
                broken_off = f"the study was taken over by {heartbeat.lost_to}"
    return ending_of(proposer, broken_off or proposer.nothing_left, before)


class _ShownPool(InlinePool):
    """Shows each fold before and after, on the terminal and to `biomass status`."""

    def __init__(
        self, context: WorkerContext, view: LiveView, heartbeat: Heartbeat, update: Update, proposer: Proposer
    ) -> None:
        super().__init__(context, on_progress=self._encode)
        self._view, self._heartbeat, self._update, self._proposer = view, heartbeat, update, proposer
        self._facts = SearchFacts(slots=1)

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]:
        self._show(running=1, queued=len(jobs) - 1)
        for job, outcome in super().run(jobs, priority):
            left = self._facts.queued
            done = self._facts.done + (outcome.status == "done")
            self._show(done=done, running=int(left > 0), queued=max(0, left - 1))
            yield job, outcome

    def show(self) -> None:
        """As things are."""
        self._facts = self._view.completed(self._facts, self._heartbeat.since)
        self._heartbeat.publish(self._facts)
        notes = self._view.notes(self._facts, live=int(self._proposer.unfinished > 0))
        self._update(self._proposer.finished, self._proposer.max_trials, notes, self._facts.seconds_left)

    def _show(self, *, running: int, queued: int, done: int | None = None) -> None:
        self._facts = replace(
            self._facts, running=running, queued=queued, done=self._facts.done if done is None else done
        )
        self.show()

    def _encode(self, done: int, total: int) -> None:
        self._facts = replace(self._facts, encoding=(done, total))
        self.show()
