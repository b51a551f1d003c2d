"""The trials of a study as its search knows them: proposed, open, ended, refused."""

from __future__ import annotations

import re
import time
from bisect import bisect_left, insort
from collections.abc import Sequence

from orchestration.search.gains.turns import Proposed
from orchestration.study.ids import content_key
from orchestration.study.records import COMPLETE, FAILED, REFUSED, Params, TrialRecord, TrialResult, TrialRound

ALIKE_FAILURES = 5  # first trials that all fail for one reason: it is not the trials that are at fault


class KnownTrials:
    """Trials of the families that are searched, by id, and how many others the study has."""

    def __init__(self) -> None:
        self._records: dict[str, TrialRecord] = {}  # those that take a place among the trials of the study
        self._proposed: list[Proposed] = []  # the same in the order of proposal
        self._open: dict[str, TrialRecord] = {}  # those of them that have not ended
        self.backbones: set[str] = set()  # of those trials
        self._refused: dict[str, TrialRecord] = {}  # those that do not, because they are too expensive
        self._results: dict[str, TrialResult] = {}  # of both
        self.others = 0  # trials of families that are not searched now and take a place
        self._others_refused = 0
        self._by_content: dict[str, str] = {}  # trial id by what the trial computes
        self._first_ends: list[str | None] = []  # reasons of the first trials to end in this run; None: no failure
        self.set_aside: list[TrialRecord] = []  # open ones whose family or weights are not here now

    def add(self, record: TrialRecord, result: TrialResult | None = None) -> None:
        """A trial that was proposed. result: of one that ended before this run."""
        self._records[record.trial_id] = record
        insort(self._proposed, Proposed(record, result), key=_place)
        self.backbones.add(record.config["backbone"])
        if result is not None:
            self._results[record.trial_id] = result
        else:
            self._open[record.trial_id] = record
        self._note_content(record)

    def refuse(self, record: TrialRecord, result: TrialResult) -> None:
        """A trial that will not run."""
        self._refused[record.trial_id], self._results[record.trial_id] = record, result
        self._note_content(record)

    def note_other(self, record: TrialRecord, result: TrialResult | None) -> None:
        """A trial of a family that is not searched now."""
        if result is None:
            self.set_aside.append(record)
        if result is not None and result.status == REFUSED:
            self._others_refused += 1
        else:
            self.others += 1

    def end(self, trial_id: str, result: TrialResult) -> TrialRecord:
        """A trial that ends now; returns what was proposed."""
        record = self._records[trial_id]
        self._results[trial_id] = result
        self._open.pop(trial_id, None)
        ended = Proposed(record, result)
        self._proposed[bisect_left(self._proposed, _place(ended), key=_place)] = ended
        if len(self._first_ends) < ALIKE_FAILURES:
            self._first_ends.append(_kind_of(result.reason or "") if result.status == FAILED else None)
        return record

    def existing_id(self, record: TrialRecord) -> str | None:
        """The id of the same trial in the ledger, by this version's scheme or an earlier one's; None if new."""
        return self._by_content.get(content_key(record))

    def is_refused(self, trial_id: str) -> bool:
        """Whether a trial takes no place, because it is too expensive."""
        return trial_id in self._refused

    @property
    def places(self) -> int:
        """Trials that count among those that a study was asked for."""
        return len(self._records) + self.others

    @property
    def next_number(self) -> int:
        """Of the next trial, in the order of proposal."""
        return self.places + len(self._refused) + self._others_refused

    @property
    def proposed(self) -> Sequence[Proposed]:
        """Those that take a place, in the order of proposal."""
        return self._proposed

    def of_round(self, second_round: TrialRound) -> int:
        """How many were proposed in a second round, refused ones included."""
        return sum(one.second_round == second_round for one in [*self._records.values(), *self._refused.values()])

    def pending(self, family: str) -> dict[str, Params]:
        """Points of a family's open trials, but for those that are set aside: what an engine sees as pending."""
        aside = {record.trial_id for record in self.set_aside}
        return {
            name: record.params for name, record in self._open.items() if record.family == family and name not in aside
        }

    @property
    def ended(self) -> int:
        """Trials that are complete, pruned or failed; refused ones take no place and are not counted."""
        return len(self._results) - len(self._refused)

    @property
    def open(self) -> int:
        """Trials that were proposed here and have not ended; those that are set aside are not counted."""
        aside = sum(record.trial_id in self._records for record in self.set_aside)
        return len(self._records) - self.ended - aside

    def ended_since(self, moment: float) -> list[float]:
        """When the trials ended that have ended since, in seconds since 1970."""
        ended = [result for name, result in list(self._results.items()) if name in self._records]
        return [result.ended_at for result in ended if result.ended_at >= moment]

    @property
    def best_score(self) -> float | None:
        """Of the complete trials; what a pruned one is thought to be worth does not count."""
        results = list(self._results.values())
        return max((one.score for one in results if one.status == COMPLETE and one.score is not None), default=None)

    def count(self, status: str) -> int:
        """Ended trials of one status: complete, pruned, failed or refused."""
        return sum(result.status == status for result in list(self._results.values()))

    @property
    def common_failure(self) -> str | None:
        """The reason for which the first trials that ended in this run have all failed, or None."""
        alike = len(self._first_ends) == ALIKE_FAILURES and len(set(self._first_ends)) == 1
        return self._first_ends[0] if alike else None

    def least_estimate(self, family: str) -> float:
        """Seconds of a fold of the cheapest refused trial; 0 where there is none."""
        own = [self._results[name] for name, record in self._refused.items() if record.family == family]
        return min((result.estimated_seconds or 0.0 for result in own), default=0.0)

    def _note_content(self, record: TrialRecord) -> None:
        self._by_content[content_key(record)] = record.trial_id


def refusal(seconds: float, limit_seconds: float) -> TrialResult:
    """The end of a trial of which a fold is estimated at more seconds than one may take."""
    return TrialResult(
        status=REFUSED,
        reason=f"a fold may take {limit_seconds:.0f} s (--max-fold-seconds), this one is estimated at {seconds:.0f} s",
        estimated_seconds=seconds,
        limit_seconds=limit_seconds,
        ended_at=time.time(),
    )


def _place(one: Proposed) -> tuple[int, str]:
    return one.record.number, one.record.trial_id


def _kind_of(reason: str) -> str:
    """A reason without what differs between trials: numbers, and so folds, sizes and epochs."""
    return re.sub(r"\d+(\.\d+)?", "N", reason)
