"""What an engine is told of a trial: its score, or what it brings the blend of the moment.

Under the aim `blend` every ended trial has another value once one more is complete: values are computed anew, for the
trials of a family, before the family's engine is asked. They are a function of the complete trials: an engine that is
rebuilt from the ledger is told what the one before it was told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestration.search.gains.fold_errors import Errors, FoldErrors
from orchestration.search.gains.trial_gains import trial_gains
from orchestration.search.gains.turns import Proposed
from orchestration.study.data import StudyData
from orchestration.study.records import COMPLETE
from orchestration.study.settings import AIMS, BLEND, StudyError

MOST = 500  # the best complete trials by their score, which are compared with each other


class BlendAim:
    """What each trial brings the blend of all others (trial_gains.py).

    A pruned trial, and one whose rows cannot be read or that is not among the best MOST, counts as the one that brings
    least: a trial is pruned because the blend would hardly gain by it.
    """

    def __init__(self, errors: Errors) -> None:
        self._errors = errors
        self._known: tuple[frozenset[str], dict[str, float]] = (frozenset(), {})  # complete trials, and gains

    def values(self, proposed: Sequence[Proposed]) -> Mapping[str, float | None]:
        """By trial id of every ended trial, larger is better; None of one that has failed."""
        gains = self._gains(proposed)
        least = min(gains.values(), default=0.0)
        return {
            one.record.trial_id: None if one.result.reported_value is None else gains.get(one.record.trial_id, least)
            for one in proposed
            if one.result is not None
        }

    def _gains(self, proposed: Sequence[Proposed]) -> dict[str, float]:
        score = {
            one.record.trial_id: one.result.score or 0.0
            for one in proposed
            if one.result is not None and one.result.status == COMPLETE
        }
        if self._known[0] != score.keys():
            best = sorted(score, key=lambda name: (-score[name], name))[:MOST]
            names, gram_KMM = self._errors.of(sorted(best))
            self._known = frozenset(score), dict(zip(names, trial_gains(gram_KMM).tolist(), strict=True))
        return self._known[1]


def new_aim(aim: str, data: StudyData) -> BlendAim | None:
    """As a study's settings say; None for the score, which is a trial's own.

    Raises StudyError for an aim that only a later version knows.
    """
    if aim not in AIMS:
        raise StudyError(f"the aim is {' or '.join(AIMS)}, the study has {aim}; give one of them with --aim")
    return BlendAim(FoldErrors(data)) if aim == BLEND else None
