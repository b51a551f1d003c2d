"""`biomass status`: how a search stands, from the study's files: the ledger, and the driver's owner.json."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from biomass_models.counted import counted
from orchestration.blending.shown import BlendScore, blend_score, notices_of
from orchestration.study.data import OPEN, StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.lock import is_alive, read_owner, who
from orchestration.study.records import COMPLETE, FAILED, PRUNED, REFUSED, SearchFacts
from orchestration.study.settings import AIMS, EQUAL, SCORE, SHARINGS


class Best(NamedTuple):
    trial: str
    score: float


class Pruned(NamedTuple):
    trial: str
    reason: str


class Failure(NamedTuple):
    reason: str
    trials: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """Counts and scores of one moment."""

    driver: str  # who drives the search, or that nobody does
    running: bool  # whether a driver is alive
    trials: dict[str, int]  # by status: complete, pruned, failed, refused, open
    max_trials: int | None
    shares: str  # of the families: one of settings.SHARINGS
    aim: str  # of proposals: one of settings.AIMS
    folds_done: int
    folds_running: int
    folds_queued: int
    slots: int | None
    busy: float | None  # share of the slots' time spent working, 0 .. 1
    best: Best | None
    blend: BlendScore | None  # the numbers of its card
    no_blend: str | None  # why there is none
    seconds_left: float | None
    reasons: tuple[Failure, ...]  # of failed trials, the most common ones
    pruned: tuple[Pruned, ...]  # the latest decisions
    notices: tuple[str, ...] = ()  # trials whose files are torn, and what to do
    cannot_start: int = 0  # slots whose worker does not come up
    start_failure: str | None = None  # why


def status_of(ledger: Ledger) -> Status:
    """Read the ledger once."""
    data = StudyData(ledger)
    results = {trial.trial_id: trial.result for trial in data.trials if trial.result is not None}
    owner = read_owner(ledger.storage)
    alive = owner is not None and is_alive(owner, ledger.storage)
    facts = owner.facts if owner is not None and alive else SearchFacts()
    done, begun = 0, 0
    for trial in data.trials:
        if trial.result is not None:
            done += trial.result.folds_done - len(data.lost.get(trial.trial_id, ()))
            continue
        for fold in data.folds:
            if fold in data.fold_metrics(trial.trial_id):
                done += 1
            elif owner is not None and alive:
                starts = ledger.fold_starts(trial.trial_id, fold)
                begun += any(start.started_at >= owner.since for start in starts)
    best = Best(data.ranked[0].trial_id, data.ranked[0].score or 0.0) if data.ranked else None
    trials = Counter(result.status for result in results.values())
    reasons = Counter(result.reason or "" for result in results.values() if result.status == FAILED)
    pruned = sorted(data.of(PRUNED), key=lambda trial: trial.ended_at or 0.0)
    if owner is None:
        driver = "no search is running"
    elif alive:
        driver = f"driven by {who(owner)}"
    else:
        driver = f"no search is running; {who(owner)} was killed; run the same command again to resume"
    blend, no_blend = blend_score(data)
    left_out = [f"trial {name} is left out of the blend: {reason}" for name, reason in data.unread.items()]
    return Status(
        driver=driver,
        running=alive,
        trials={
            **{kind: trials[kind] for kind in (COMPLETE, PRUNED, FAILED, REFUSED)},
            OPEN: len(data.trials) - len(results),
        },
        max_trials=facts.max_trials,
        shares=data.settings.sharing,
        aim=data.settings.aim,
        folds_done=done,
        folds_running=begun,
        folds_queued=facts.queued,
        slots=facts.slots,
        busy=facts.busy,
        best=best,
        blend=blend,
        no_blend=no_blend,
        seconds_left=facts.seconds_left,
        reasons=tuple(Failure(*pair) for pair in reasons.most_common(3)),
        pruned=tuple(Pruned(trial.trial_id, trial.reason) for trial in pruned[-3:]),
        notices=(*notices_of(data), *left_out),
        cannot_start=facts.cannot_start,
        start_failure=facts.start_failure,
    )


def render_status(status: Status) -> str:
    """As lines for a terminal."""
    total = "" if status.max_trials is None else f" of {status.max_trials}"
    ended = sum(count for kind, count in status.trials.items() if kind not in (REFUSED, "open"))
    kinds = ", ".join(f"{count} {kind}" for kind, count in status.trials.items() if count or kind != REFUSED)
    lines = [
        status.driver,
        f"trials  {ended}{total} ended: {kinds}",
        f"folds   {status.folds_done} done, {status.folds_running} running, {status.folds_queued} queued",
    ]
    if status.shares != EQUAL:
        lines.append(f"shares  {status.shares}: {SHARINGS.get(status.shares, 'as a later version has it')}")
    if status.aim != SCORE:
        lines.append(f"aim     {status.aim}: {AIMS.get(status.aim, 'as a later version has it')}")
    if status.slots is not None:
        busy = "" if status.busy is None else f", busy {100 * status.busy:.0f} % of their time"
        lines.append(f"slots   {status.slots}{busy}")
    if status.cannot_start:
        more = counted(status.cannot_start, "more has", "more have")
        lines.append(f"        {more} no worker, it does not start: {status.start_failure}")
    if status.best is not None:
        lines.append(f"score   best {status.best.score:.4f} ({status.best.trial})")
        blend = str(status.blend or f"no blend: {status.no_blend}").splitlines()
        lines += [f"        {line}" for line in blend]
    if status.seconds_left is not None:
        minutes = status.seconds_left / 60
        lines.append(f"left    about {minutes / 60:.1f} h" if minutes > 90 else f"left    about {minutes:.0f} min")
    lines += [f"{name}  {text}" for name, text in status.pruned]
    lines += [f"failed {counted(count, 'time')}: {reason}" for reason, count in status.reasons]
    lines += [f"note: {notice}" for notice in status.notices]
    return "\n".join(lines)
