"""Which family is next: equal turns, or turns by what each family has brought the blend.

What is shared out under `earned` are the seconds of slots, since a blend is compared with another one of the same cost;
equal turns are turns of trials. A choice is a function of the trials that are proposed and of how they have ended: a
search that was killed goes on as it would have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from orchestration.search.gains.family_gains import HALVES, family_gains
from orchestration.search.gains.fold_errors import Errors, FoldErrors
from orchestration.study.data import StudyData
from orchestration.study.records import COMPLETE, FAILED, TrialRecord, TrialResult
from orchestration.study.settings import EARNED, SHARINGS, StudyError

FLOOR = 0.5  # of its given share that a family keeps, whatever it has brought
START = 4  # trials of each family that are proposed in equal turns, before gains mean anything
SHORTLIST = 25  # the best trials of each half of a family that its gain is measured with


class Proposed(NamedTuple):
    """A trial that takes a place in the study, and how it ended."""

    record: TrialRecord
    result: TrialResult | None  # None while it is open


class Turns(Protocol):
    """Chooses the family of the next trial."""

    def next_family(self, families: Sequence[str], proposed: Sequence[Proposed]) -> str:
        """One of `families`, those that have points left; proposed: in the order of proposal."""
        ...


class EqualTurns:
    """Each family gets its share of the trials."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        """shares: of the trials by family, in any unit."""
        self._shares = shares

    def next_family(self, families: Sequence[str], proposed: Sequence[Proposed]) -> str:
        return _least_served(families, _counts(proposed), self._shares)


class EarnedTurns:
    """Each family gets a share of the seconds that follows its gain for the blend."""

    def __init__(self, shares: Mapping[str, float], errors: Errors) -> None:
        """shares: what each family gets while all gain the same, in any unit; errors: of complete trials."""
        self._shares, self._errors = shares, errors
        self._measured: tuple[frozenset[str], dict[str, float]] = (frozenset(), {})  # complete trials, and gains

    def next_family(self, families: Sequence[str], proposed: Sequence[Proposed]) -> str:
        counts = _counts(proposed)
        if len(families) == 1 or min(counts[family] for family in families) < START:
            return _least_served(families, counts, self._shares)
        return _least_served(families, seconds_charged(proposed), earned_shares(self._shares, self.gains(proposed)))

    def gains(self, proposed: Sequence[Proposed]) -> dict[str, float]:
        """Gain for the blend so far, in R2 (family_gains.py), of each family with complete trials."""
        complete = frozenset(one.record.trial_id for one in proposed if _is_complete(one))
        if self._measured[0] != complete:
            self._measured = complete, self._gains(proposed)
        return self._measured[1]

    def _gains(self, proposed: Sequence[Proposed]) -> dict[str, float]:
        shown = [*_shortlisted(proposed)]
        names, gram_KMM = self._errors.of([trial_id for trial_id, _, _ in shown])
        families = list(self._shares)
        cells = {trial_id: (families.index(family), half) for trial_id, family, half in shown}
        family_M, half_M = np.array([cells[name] for name in names], dtype=np.int64).reshape(-1, 2).T
        gain_F = family_gains(gram_KMM, family_M, half_M, len(families))
        return {families[place]: float(gain_F[place]) for place in np.unique(family_M)}


def new_turns(sharing: str, shares: Mapping[str, float], data: StudyData) -> Turns:
    """As a study's settings say. Raises StudyError for a way of sharing that only a later version knows."""
    if sharing not in SHARINGS:
        raise StudyError(f"shares are {' or '.join(SHARINGS)}, the study has {sharing}; give one of them with --shares")
    return EarnedTurns(shares, FoldErrors(data)) if sharing == EARNED else EqualTurns(shares)


def earned_shares(shares: Mapping[str, float], gains: Mapping[str, float]) -> dict[str, float]:
    """Share of each family, 1 in all: FLOOR of the given one, and the rest by share times root of the gain.

    gains: of the families that have complete trials; the others keep FLOOR of theirs. The given shares where no family
    has any, and where all gain the same, if only nothing. The root: if a family's loss falls like 1 / seconds,
    what doubling its seconds brings is in proportion to the gain, and the loss of all is least where seconds are in
    proportion to its root. Gains of few trials are uncertain, and the root also keeps chance from deciding.
    """
    total = sum(shares.values())
    given = {family: share / total for family, share in shares.items()}
    if not any(gains.values()):  # alike
        gains = dict.fromkeys(gains, 1.0) or dict.fromkeys(shares, 1.0)
    earned = {family: share * gains.get(family, 0.0) ** 0.5 for family, share in given.items()}
    sum_earned = sum(earned.values())
    return {family: FLOOR * share + (1 - FLOOR) * earned[family] / sum_earned for family, share in given.items()}


def seconds_charged(proposed: Iterable[Proposed]) -> dict[str, float]:
    """Seconds of slots that each family has had.

    An open trial is charged what those of its family took on average, and a failed one at least that: a family that
    fails at once would else be asked for ever. Where no trial of a family has come to its end, the average is that of
    all; without any a trial counts as one second.
    """
    trials = list(proposed)
    took: dict[str, list[float]] = defaultdict(list)
    for record, result in trials:
        if result is not None and result.status != FAILED and result.seconds > 0:
            took[record.family].append(result.seconds)
    every = [seconds for own in took.values() for seconds in own]
    usual = sum(every) / len(every) if every else 1.0
    charged: dict[str, float] = defaultdict(float)
    for record, result in trials:
        own = took.get(record.family)
        average = sum(own) / len(own) if own else usual
        seconds = 0.0 if result is None else result.seconds
        ended_well = result is not None and result.status != FAILED and seconds > 0
        charged[record.family] += seconds if ended_well else max(seconds, average)
    return charged


def _least_served(families: Sequence[str], served: Mapping[str, float], shares: Mapping[str, float]) -> str:
    """The first of the families that have had least of their share."""
    return min(families, key=lambda family: served.get(family, 0.0) / shares[family])


def _counts(proposed: Sequence[Proposed]) -> dict[str, float]:
    counts: dict[str, float] = defaultdict(float)
    for one in proposed:
        counts[one.record.family] += 1
    return counts


def _is_complete(one: Proposed) -> bool:
    return one.result is not None and one.result.status == COMPLETE


def _shortlisted(proposed: Sequence[Proposed]) -> Iterable[tuple[str, str, int]]:
    """Trial id, family and half of the trials that gains are measured with.

    Trials of a family are in its halves by turns, in the order of proposal: however they end, a trial keeps its half.
    """
    own: dict[tuple[str, int], list[tuple[float, str]]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for one in proposed:
        family = one.record.family
        half, seen[family] = seen[family] % HALVES, seen[family] + 1
        if _is_complete(one):
            assert one.result is not None
            own[family, half].append((-(one.result.score or 0.0), one.record.trial_id))
    for (family, half), trials in sorted(own.items()):
        yield from ((trial_id, family, half) for _, trial_id in sorted(trials)[:SHORTLIST])
