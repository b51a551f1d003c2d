"""A search in this process, trial after trial and fold after fold: no Ray.

For tiny studies, debugging, notebooks and tests. Ledger, trials, pruning and proposals are those of a search on Ray,
and one can go on with what the other has begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from biomass_models.counted import counted
from orchestration.progress import Say, Update, progress_bar
from orchestration.search.ending import Ending, ending_of, failing_alike
from orchestration.search.incumbent import Incumbent
from orchestration.search.live_view import LiveView
from orchestration.search.model_room import ModelRoom
from orchestration.search.proposer import Proposer
from orchestration.search.pruning import PruneRule
from orchestration.search.second_round import label, rounds_to_label
from orchestration.search.trial import NOT_THE_TRIAL, BlockedError, run_trial
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.lock import Heartbeat
from orchestration.study.records import SearchFacts
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import Outcome
from orchestration.workers.pool import AnyJob, Pool, Priority
from orchestration.workers.resources import Resources
from orchestration.workers.slots.inline_pool import inline_slot


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
    if waiting := rounds_to_label(ledger, proposer.second_round):
        with inline_slot(context, resources) as slot:
            label(ledger, slot, waiting)
    before = frozenset(ledger.results())
    say(f"1 slot, in this process; {counted(proposer.trials.ended, 'trial has', 'trials have')} ended already")
    incumbent = Incumbent(StudyData(ledger))
    room = None if resources.weights_gb is None else ModelRoom(ledger, resources.weights_gb, say)
    broken_off: str | None = None
    with progress_bar("Search") as update:
        view = _View(LiveView(proposer, incumbent, say, room), proposer, heartbeat, update)
        with inline_slot(context, resources, on_progress=view.encoded) as slot:
            together = slot.context.gpus > 0 if resources.folds_together is None else resources.folds_together
            pool = _SeenPool(slot, view)
            view.show()
            while broken_off is None and (record := proposer.propose()) is not None:
                name = record.trial_id
                try:
                    result = run_trial(ledger, pool, name, rule=rule, incumbent=incumbent, together=together)
                except NOT_THE_TRIAL as error:
                    broken_off = str(error)
                    break
                except Exception as error:  # the boundary of a trial, as a coordinator is on Ray
                    result = ledger.write_failure(name, f"coordinator: {type(error).__name__}: {error}")
                if result is not None:
                    proposer.record_result(name, result)
                view.show()
                broken_off = failing_alike(proposer)
    return ending_of(proposer, broken_off or proposer.nothing_left, before)


class _View:
    """The search on the terminal and for `biomass status`."""

    def __init__(self, view: LiveView, proposer: Proposer, heartbeat: Heartbeat, update: Update) -> None:
        self._view, self._proposer, self._heartbeat, self._update = view, proposer, heartbeat, update
        self._facts = SearchFacts(slots=1)

    def show(self) -> None:
        self._view.refresh()
        self._facts = self._view.completed(self._facts, self._heartbeat.since)
        self._heartbeat.publish(self._facts)
        notes = self._view.notes(self._facts, running=int(self._facts.running > 0))
        self._update(self._proposer.trials.ended, self._proposer.planned, notes, self._facts.seconds_left)

    def require_lock(self) -> None:
        """Raise BlockedError where another driver has the study: nothing more may be written into it."""
        if self._heartbeat.lost_to:
            raise BlockedError(f"the study was taken over by {self._heartbeat.lost_to}")

    def jobs(self, left: int, *, done: bool = False) -> None:
        """left: jobs that have not ended, of which the first one runs now; done: whether another one is done."""
        self._facts = replace(
            self._facts, running=min(left, 1), queued=max(left - 1, 0), done=self._facts.done + int(done)
        )
        self.show()

    def encoded(self, done: int, total: int) -> None:
        """Photographs of the bank that is being filled."""
        self._facts = replace(self._facts, encoding=(done, total))
        self.show()


class _SeenPool:
    """A pool that shows each job's begin and end."""

    def __init__(self, pool: Pool, view: _View) -> None:
        self._pool, self._view = pool, view

    def run(self, jobs: list[AnyJob], priority: Priority) -> Iterator[tuple[AnyJob, Outcome]]:
        left = len(jobs)
        self._view.jobs(left)
        for job in jobs:
            self._view.require_lock()
            ((_, outcome),) = self._pool.run([job], priority)
            left -= 1
            self._view.jobs(left, done=outcome.status == "done")
            yield job, outcome

    def drop(self, attempt: str) -> None:
        self._pool.drop(attempt)
