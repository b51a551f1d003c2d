"""The driver's view of a running search: live status on the terminal, facts for `biomass status`, reasons to stop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from biomass_models.counted import counted
from biomass_models.errors import UserError
from orchestration.progress import Say, progress_bar
from orchestration.search.live_view import LiveView
from orchestration.search.on_ray.beside import Beside
from orchestration.search.on_ray.tune_searcher import TuneSearcher
from orchestration.study.lock import Heartbeat
from orchestration.study.records import SearchFacts
from orchestration.study.settings import StudyError
from orchestration.workers.address import ClusterError

LOOK_SECONDS = 0.5
SILENT_SECONDS = 180.0  # a broker that does not answer for so long is as good as dead
STOP_SECONDS = 60.0  # for an orderly end once there is a reason to stop
LEAVE_SECONDS = 2.0  # for the last look of a search that is broken off


class Watch:
    """Asks the broker and the searcher how things are, draws it, publishes it, and passes a stop on to the pool."""

    def __init__(
        self,
        broker: Any,
        searcher: TuneSearcher,
        view: LiveView,
        heartbeat: Heartbeat,
        say: Say,
        beside: Beside,
    ) -> None:
        """beside: begins once a fold is at work."""
        self._broker, self._searcher, self._view = broker, searcher, view
        self._heartbeat, self._say, self._beside = heartbeat, say, beside
        self._ended = threading.Event()
        self._stopping_since: float | None = None
        self._answered = time.monotonic()
        self._asked: Any = None  # the question to the broker that is under way
        self._named: set[str] = set()  # failed starts that were said
        self._room_said = False  # whether it was said that the head holds fewer trials than the slots need
        self.lost: UserError | None = None  # why nobody should wait for the end of the search any more

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch in a thread, which has a last look at the end."""
        thread = threading.Thread(target=self._run, name="watch", daemon=True)
        thread.start()
        patience: float | None = LEAVE_SECONDS
        try:
            yield
            patience = None  # the last look keeps models within their limit
        finally:
            self._ended.set()
            thread.join(patience)

    def _run(self) -> None:
        proposer, shown = self._searcher.proposer, None
        with progress_bar("Search") as update:
            while True:
                ended = self._ended.wait(LOOK_SECONDS)
                facts = None if ended else self._facts()
                self._view.refresh()
                if facts is not None:
                    self._say_once(self._searcher.follow(max(facts.slots or 0, 1)))
                    self._heartbeat.publish(facts)
                    if facts.running and self._searcher.running:  # a slot may be measured before there is a trial
                        self._beside.begin()
                if facts is not None and (why := facts.start_failure) and why not in self._named:
                    self._named.add(why)
                    slots = counted(facts.cannot_start, "slot has", "slots have")
                    self._say(f"note: {slots} no worker, it does not start: {why}")
                shown = facts or shown  # a broker that does not answer at once changes nothing of what is shown
                update(
                    proposer.trials.ended,
                    proposer.planned,
                    self._view.notes(shown, self._searcher.running),
                    shown and shown.seconds_left,
                )
                if ended:
                    return
                self._pass_on()

    def _say_once(self, limit: str | None) -> None:
        if limit is not None and not self._room_said:
            self._room_said = True
            self._say(f"note: {limit}")

    def _pass_on(self) -> None:
        """A reason to stop goes to the pool, whose jobs then end; where they do not, the search is lost."""
        if self._heartbeat.lost_to:
            self._searcher.stop_reason = f"the study was taken over by {self._heartbeat.lost_to}"
        if self._searcher.stop_reason is None or self._ended.is_set():
            return
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._broker.close.remote()
        elif time.monotonic() - self._stopping_since > STOP_SECONDS:
            self.lost = StudyError(f"{self._searcher.stop_reason}. Every finished fold is kept")

    def _facts(self) -> SearchFacts | None:
        """What the broker answers; None while it does not, and for good when it is lost."""
        if self.lost is not None or self._ended.is_set():  # a call would start another Ray where there is none any more
            return None
        try:
            if self._asked is None:
                self._asked = self._broker.status.remote()
            if not ray.wait([self._asked], timeout=LOOK_SECONDS)[0]:
                if time.monotonic() - self._answered > SILENT_SECONDS:
                    self.lost = _no_broker(f"has not answered for {SILENT_SECONDS:.0f} s")
                return None
            asked, self._asked = self._asked, None
            status: SearchFacts = ray.get(asked)
        except RayError as error:
            if isinstance(error, ActorDiedError):
                self.lost = _no_broker("has died")
            return None
        self._answered = time.monotonic()
        return self._view.completed(status, self._heartbeat.since)


def _no_broker(what: str) -> ClusterError:
    return ClusterError(
        f"the broker of the folds {what}", "run the same command again to resume, what was finished is kept", rule=""
    )
