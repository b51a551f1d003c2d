"""Ray Tune's view of a search: which trial it starts next, and when the search must stop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from biomass_models.counted import counted
from biomass_models.errors import UserError
from orchestration.search.ending import failing_alike
from orchestration.search.proposer import Proposer
from orchestration.workers.ray_errors import innermost_cause, lost_broker

BROKEN_COORDINATORS = 5  # of trials in a row: it is not the trials that are at fault


COORDINATOR_MB = 150  # of a coordinator, which is a process of its own on the head: docs/scale.md
HEAD_SHARE = 0.8  # of the memory that Ray counts on the head that coordinators may fill
RAY_SHARE = 0.7  # of a node's memory that Ray counts; the rest is its object store's
HEAD = "node:__internal_head__"  # the resource by which Ray marks the head


def most_running(slots: int) -> int:
    """How many trials to have running: more than slots, so that none idles while Tune starts the next trial; not
    many more, or proposals would be drawn before the results that they should learn from."""
    return slots + max(1, slots // 2)


def room_on_head(nodes: Iterable[Mapping[str, Any]], *, here: str = "", limit: float = math.inf) -> int | None:
    """How many coordinators the head's memory holds; None where Ray does not count it.

    nodes: as ray.nodes gives; here: id of this process's node; limit: bytes that its control groups allow there, of
    which Ray overlooks nested ones (Slurm, systemd).
    """
    for node in nodes:
        has = node.get("Resources", {})
        if node.get("Alive") and HEAD in has and "memory" in has:
            memory = min(has["memory"], RAY_SHARE * limit) if node.get("NodeID") == here else has["memory"]
            return max(1, int(HEAD_SHARE * memory / (COORDINATOR_MB << 20)))
    return None


class TuneSearcher(Searcher):
    """Ray Tune's view of a Proposer. A Tune trial carries nothing but the id of a trial in the ledger."""

    def __init__(self, proposer: Proposer, most_running: int = 1, room: int | None = None) -> None:
        """most_running: most trials that run at a time; may be changed while the search runs.

        room: how many of them the head's memory holds, None: any number.
        """
        super().__init__()
        self.proposer, self._room = proposer, room
        self._trial_ids: dict[str, str] = {}
        self.most_running = most_running
        self.stop_reason: str | None = None  # what stops the whole search, such as a full disk
        self.broken_off: list[str] = []  # trials that stay open, because their coordinators did not stay alive
        self.last_break: str | None = None  # why a coordinator broke off, the latest one
        self._broken_in_a_row = 0

    def suggest(self, trial_id: str) -> Any:  # a dict, None for "not now", or Searcher.FINISHED
        if not self.stop_reason and len(self._trial_ids) >= self.most_running:
            return None
        try:
            if not self.stop_reason and self.proposer.waits:
                return None
            record = None if self.stop_reason else self.proposer.propose()
        except UserError as error:  # of cluster, store or engine: the search ends with its reason
            record, self.stop_reason = None, self.stop_reason or str(error)
        except RayError as error:  # the broker, which measures a slot
            record, self.stop_reason = None, self.stop_reason or lost_broker(innermost_cause(error))
        if record is None:
            return Searcher.FINISHED
        self._trial_ids[trial_id] = record.trial_id
        return {"trial_id": record.trial_id}

    def follow(self, slots: int) -> str | None:
        """Run as many trials as keep so many slots busy, and as the head holds; what is to be said of its limit."""
        wanted = most_running(slots)
        self.most_running = wanted if self._room is None else min(wanted, self._room)
        if self.most_running == wanted:
            return None
        return (
            f"the head's memory holds {counted(self.most_running, 'trial')} at a time, {wanted} would keep "
            f"{counted(slots, 'slot')} busy; give the head more memory (docs/cluster.md)"
        )

    @property
    def end_reason(self) -> str | None:
        """Why the search has not come to its end although nobody stopped it, or None."""
        if self.stop_reason is not None:
            return self.stop_reason
        if (why := self.proposer.nothing_left) is not None:
            return why
        if not self.broken_off:
            return None
        stay = counted(len(self.broken_off), "trial stays", "trials stay")
        return f"{stay} open: {self._why_broken}; run the same command again to resume"

    @property
    def _why_broken(self) -> str:
        why = f", at last by {self.last_break}" if self.last_break else ""
        return f"their coordinators broke off each time they were started{why}"

    @property
    def running(self) -> int:
        """Trials that have begun and not ended."""
        return len(self._trial_ids)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        name = self._trial_ids.pop(trial_id)
        if not error and result is not None and result.get("status") == "stopped":
            self.stop_reason = self.stop_reason or result.get("reason")
            return  # it has not ended: the next run takes it up again
        ended = self.proposer.ledger.result(name)
        if ended is None:
            if error:
                self._leave_open(name)
            return  # the search is being stopped, or Tune has started its coordinator many times: the next run goes on
        self._broken_in_a_row = 0
        self.proposer.record_result(name, ended)
        self.stop_reason = self.stop_reason or failing_alike(self.proposer)

    def _leave_open(self, name: str) -> None:
        """A coordinator does no work of its own: what ends its process, whenever it is started, is not the trial's."""
        self.broken_off.append(name)
        self._broken_in_a_row += 1
        if self._broken_in_a_row >= BROKEN_COORDINATORS and self.stop_reason is None:
            self.stop_reason = (
                f"{BROKEN_COORDINATORS} trials in a row stay open: {self._why_broken}. Mend that on the head node "
                "(memory, disk, the folder of the code), then run the same command again"
            )

    # The ledger holds all that a new start needs; what Tune would save is never read.
    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return {}


class BreakNotes(tune.Callback):
    """Hands a searcher the reasons for which coordinators broke off; Tune's own interface says only that they did."""

    def __init__(self, searcher: TuneSearcher) -> None:
        self._searcher = searcher

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """After each of them."""
        error = trial.get_error()  # its text: nothing is unpickled from a study
        if error is not None:
            self._searcher.last_break = innermost_cause(error)
