"""What people see of a running search beside its counts: the best score, the blend, what is noticed on the way."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from time import time

from biomass_models.targets import TARGETS
from ensembles.measured import SHORT
from orchestration.progress import Say
from orchestration.search.incumbent import Incumbent
from orchestration.search.model_room import ModelRoom
from orchestration.search.proposer import Proposer
from orchestration.study.ledger import LedgerError
from orchestration.study.records import FAILED, PRUNED, SearchFacts
from orchestration.time_left import seconds_left


class LiveView:
    """Follows a proposer and an incumbent; nothing that goes wrong here stops the search."""

    def __init__(self, proposer: Proposer, incumbent: Incumbent, say: Say, room: ModelRoom | None = None) -> None:
        """room: keeps the study's models within a limit; None where there is none."""
        self._proposer, self._incumbent, self._say, self._room = proposer, incumbent, say, room
        self._ended = -1
        self._blend: float | None = None
        self._named: set[str] = set()  # torn trials that were said
        measured = incumbent.data.measured
        self._of = "" if measured == TARGETS else f" of {'+'.join(SHORT[name] for name in measured)}"  # what it counts

    def refresh(self) -> None:
        """Look at the blend, and at the room for models, again when a trial has ended."""
        if self._proposer.trials.ended == self._ended:
            return
        self._ended = self._proposer.trials.ended
        with contextlib.suppress(ValueError, OSError):
            self._incumbent.refresh()
            self._blend = self._incumbent.blend_score()
            for name in self._incumbent.torn.keys() - self._named:
                self._named.add(name)
                self._say(f"note: trial {name} is compared with no more: {self._incumbent.torn[name]}")
        if self._room is not None:
            with contextlib.suppress(LedgerError, OSError):  # a store that does not answer: again with the next trial
                self._room.drop_over_limit(self._incumbent)

    def completed(self, facts: SearchFacts, since: float) -> SearchFacts:
        """Counts of a pool, with how far the search is and the time that is left. since: when the search began."""
        proposer, now = self._proposer, time()
        slots = max(facts.slots or 0, 1)
        left = seconds_left(proposer.trials.ended_since(since), proposer.missing, since=since, slots=slots, now=now)
        return replace(
            facts,
            max_trials=None if (planned := proposer.planned) is None else planned + proposer.trials.others,
            seconds_left=None if planned is None else left,
            looked_at=now,
        )

    def notes(self, facts: SearchFacts | None, running: int) -> list[str]:
        """What is known beside count and time, the most important first: a narrow terminal shows the first ones.

        running: trials whose folds are in work.
        """
        best, failed, pruned = (self._proposer.trials.best_score, *map(self._proposer.trials.count, (FAILED, PRUNED)))
        notes = [f"best {best:.3f}{self._of}"] if best is not None else []
        notes += [f"{failed} {FAILED}"] if failed else []
        if facts is not None and facts.encoding[0] < facts.encoding[1]:
            notes.append("encoding {}/{}".format(*facts.encoding))
        if facts is not None:
            notes.append(f"folds {facts.done}/{facts.running}/{facts.queued}")
        notes += [f"blend {self._blend:.3f}"] if self._blend is not None else []
        notes += [f"{pruned} {PRUNED}"] if pruned else []
        if facts is not None:
            notes += [f"busy {100 * facts.busy:.0f} %"] if facts.busy is not None else []
            notes.append(f"{running} running")
        return notes
