"""How a search comes to its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from biomass_models.counted import counted
from orchestration.search.known_trials import ALIKE_FAILURES
from orchestration.search.proposer import Proposer
from orchestration.study.records import COMPLETE, FAILED, REFUSED, TrialResult
from orchestration.study.settings import StudyError


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a search came to its end. One that is broken off raises: an error with the reason, or KeyboardInterrupt."""

    hours_over: bool  # before every trial that was asked for had ended
    ended: int  # trials of the study that have ended
    open: int  # trials that were proposed and wait for the next search
    failed: int = 0  # of this run
    most_often: str | None = None  # why they failed
    searched_whole: Mapping[str, int] = field(default_factory=dict)  # points of families whose ranges have no new one
    no_more: Mapping[str, str] = field(default_factory=dict)  # why else nothing new came of a family

    @property
    def lines(self) -> list[str]:
        """What is not as one would wish, a line each."""
        found = []
        if self.hours_over:
            waits = f", {counted(self.open, 'open one waits', 'open ones wait')}" if self.open else ""
            ended = counted(self.ended, "trial has", "trials have")
            found.append(f"The hours are over: {ended} ended{waits}; run the same command again for more.")
        if self.failed:
            failed = counted(self.failed, "trial of this run has", "trials of this run have")
            found.append(f"{failed} failed, most often for: {self.most_often}")
        for family, points in self.searched_whole.items():
            hold = counted(points, "trial", "trials")
            found.append(f"The ranges of {family} are searched whole ({hold}); widen them with --space to go on.")
        found += [f"{reason[0].upper()}{reason[1:]} to go on." for reason in self.no_more.values()]
        return found


def failing_alike(proposer: Proposer) -> str | None:
    """Why a search must end whose first trials have all failed for one reason, or None."""
    if (reason := proposer.trials.common_failure) is None:
        return None
    return (
        f"the first {ALIKE_FAILURES} trials all failed for the same reason: {reason}. Mend it, then give the same "
        "command with --retry-failed"
    )


def ending_of(proposer: Proposer, broken_off: str | None, before: Container[str]) -> Ending:
    """The end of a search that has stopped proposing.

    broken_off: why it was, or None; before: trials that had ended when it began. Raises StudyError where it has not
    come to its end, or nothing was achieved.
    """
    if broken_off is not None:
        raise StudyError(f"{broken_off}. Every finished fold is kept")
    if proposer.trials.open and not proposer.hours_over:
        stay = counted(proposer.trials.open, "trial stays", "trials stay")
        raise StudyError(f"{stay} open; run the same command again to resume")
    require_a_success(proposer.ledger.results(), before)
    results = proposer.ledger.results().items()
    failed = Counter(one.reason for name, one in results if name not in before and one.status == FAILED)
    return Ending(
        hours_over=proposer.hours_over,
        ended=proposer.trials.ended,
        open=proposer.trials.open,
        failed=failed.total(),
        most_often=failed.most_common(1)[0][0] if failed else None,
        searched_whole=proposer.searched_whole,
        no_more=proposer.no_more,
    )


def require_a_success(results: Mapping[str, TrialResult], before: Container[str]) -> None:
    """Raise StudyError where the study has no complete trial, or where many trials of this run have all failed."""
    now = {name: result for name, result in results.items() if name not in before}
    complete = any(result.status == COMPLETE for result in results.values())
    broken = len(now) >= ALIKE_FAILURES and all(result.status == FAILED for result in now.values())
    if all(result.status == REFUSED for result in results.values()) or (complete and not broken):
        return
    failed = [result.reason for result in (now if complete else results).values() if result.status == FAILED]
    if not failed:
        raise StudyError(
            "a search must complete a trial, got pruned and refused ones only; go on with more --trials, or --prune off"
        )
    reason, times = Counter(failed).most_common(1)[0]
    raise StudyError(
        f"a search must complete a trial, got {len(failed)} failed, most often ({times}) for: {reason}. Mend it, then "
        "run the same command with --retry-failed"
    )
