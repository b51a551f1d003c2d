"""The driver's view of a running search: live status on the terminal, facts for `biomass status`, reasons to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from biomass_models.visible import visible
from orchestration.progress import progress_bar
from orchestration.search.incumbent import Standing
from orchestration.search.model_room import ModelRoom
from orchestration.search.searcher import TuneSearcher, live_trials
from orchestration.study.ledger import LedgerError
from orchestration.study.lock import Heartbeat
from orchestration.study.records import FAILED, PRUNED, SearchFacts

LOOK_SECONDS = 0.5
SILENT_SECONDS = 180.0  # a broker that does not answer for so long is as good as dead
LEAVE_SECONDS = 30.0  # for an orderly end after Ray has died; then the process goes anyhow


class Watch:
    """Asks the broker and the searcher how things are, draws it, publishes it, and passes a stop on to the pool."""

    def __init__(
        self,
        broker: Any,
        searcher: TuneSearcher,
        standing: Standing,
        max_trials: int | None,
        heartbeat: Heartbeat,
        say: Callable[[str], None],
        room: ModelRoom | None = None,
    ) -> None:
        """room: keeps the study's models within a limit; None where there is none."""
        self._say, self._room = say, room
        self._broker, self._searcher, self._standing = broker, searcher, standing
        self._max_trials, self._heartbeat = max_trials, heartbeat
        self._stopping = False
        self._answered = time.monotonic()
        self._finished = -1
        self._blend: float | None = None
        self._named: set[str] = set()  # torn trials and failed starts that were said

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        proposer = self._searcher.proposer
        with progress_bar("Search") as update:
            while True:
                ended = stop.wait(LOOK_SECONDS)
                facts = None if ended else self._facts()
                self._learn(proposer.finished)
                if facts is not None:
                    self._searcher.live = live_trials(max(facts.slots or 0, 1))
                    self._heartbeat.publish(facts)
                if facts is not None and (why := facts.start_failure) and why not in self._named:
                    self._named.add(why)
                    self._say(f"note: {facts.cannot_start} slots have no worker, it does not start: {why}")
                update(proposer.finished, self._max_trials, self._note(facts))
                if ended:
                    return
                if self._heartbeat.lost_to:
                    self._searcher.stop_reason = f"the study was taken over by {self._heartbeat.lost_to}"
                if self._searcher.stop_reason and not self._stopping:
                    self._stopping = True
                    self._broker.close.remote()

    def _learn(self, finished: int) -> None:
        """Look at the blend again when a trial has ended."""
        if finished == self._finished:
            return
        self._finished = finished
        with contextlib.suppress(ValueError, OSError):  # a picture of the state must never stop the search
            self._standing.refresh()
            self._blend = self._standing.blend_score()
            for name in self._standing.torn.keys() - self._named:
                self._named.add(name)
                self._say(f"note: trial {name} is compared with no more: {self._standing.torn[name]}")
        if self._room is not None:
            with contextlib.suppress(LedgerError, OSError):  # a store that does not answer: again with the next trial
                self._room.make(self._standing)

    def _facts(self) -> SearchFacts | None:
        try:
            status: SearchFacts = ray.get(self._broker.status.remote(), timeout=10)
        except RayError as error:
            silent = time.monotonic() - self._answered
            if isinstance(error, ActorDiedError) or silent > SILENT_SECONDS:
                self._leave()
            return None
        self._answered = time.monotonic()
        return replace(status, max_trials=self._max_trials, looked_at=time.time())

    def _leave(self) -> None:
        """Ray is gone under the search (its raylet, or the head node): Tune would wait for it for ever."""
        if self._searcher.stop_reason is None:
            self._searcher.stop_reason = "Ray has died under the search (raylet or head node); the same command goes on"
            # first as Ctrl-C does it; a Tune that is stuck in a dead Ray does not hear that, and nothing is lost anyhow
            last = threading.Timer(LEAVE_SECONDS, _end, [self._searcher.stop_reason])
            last.daemon = True
            last.start()
            os.kill(os.getpid(), signal.SIGINT)

    def _note(self, facts: SearchFacts | None) -> str:
        proposer = self._searcher.proposer
        parts = []
        if proposer.best_score is not None:
            parts.append(f"best {proposer.best_score:.3f}")
            parts += [f"blend {self._blend:.3f}"] if self._blend is not None else []
        if facts is not None:
            parts.append(f"live {self._searcher.under_way} folds {facts.done}/{facts.running}/{facts.queued}")
            parts += [f"busy {100 * facts.busy:.0f} %"] if facts.busy is not None else []
            done, total = facts.encoding
            parts += [f"encoding {done}/{total}"] if done < total else []
        parts += [f"{count} {kind}" for kind in (PRUNED, FAILED) if (count := proposer.count(kind))]
        return " ".join(parts)


def _end(reason: str) -> None:
    print(visible(f"error: {reason}. Every finished fold is kept"), file=sys.stderr, flush=True)
    os._exit(1)
