"""Trials that were stopped early and trials that failed, with their reasons."""

from __future__ import annotations

from collections import Counter

from orchestration.report.data.context import ReportContext
from orchestration.report.html import Cell, Column, Table, join, tag
from orchestration.report.words import NONE, count, number, percent

MOST_ROWS = 100  # of the tables of pruned and failed trials


def pruned_table(context: ReportContext) -> Table | None:
    trials = context.study.of("pruned")
    if not trials:
        return None
    folds = len(context.study.folds)
    rows: list[list[Cell | str]] = []
    for trial in trials[:MOST_ROWS]:
        assert trial.result is not None
        done = trial.result.folds_done
        last = trial.result.decisions[-1] if trial.result.decisions else None
        rows.append(
            [
                Cell(tag("code", trial.trial_id), trial.trial_id), trial.family,
                Cell(f"{done} of {folds}", done),
                Cell(NONE if last is None else f"{last.p:.2g}", None if last is None else last.p),
                Cell(percent(None if last is None else last.gain, 2), None if last is None else last.gain),
                Cell(number(trial.reported_value), trial.reported_value),
                Cell(tag("code", NONE if last is None else ", ".join(last.compared or (last.against,)))),
            ]
        )  # fmt: skip
    saved = folds * len(trials) - sum(trial.result.folds_done for trial in trials if trial.result is not None)
    more = f" Shown are {MOST_ROWS} of them." if len(trials) > MOST_ROWS else ""
    return Table(
        title=f"{count(len(trials), 'trial')} stopped early (pruned), which saved {count(saved, 'fold')}",
        columns=(
            Column(name="trial"),
            Column(name="family"),
            Column(name="after folds", numeric=True),
            Column(name="p", gloss="chance of such a disadvantage, were it as good as the best ones", numeric=True),
            Column(name="blend gain", gloss="how much the best mixture with it lowers the blend's error", numeric=True),
            Column(name="estimated score", numeric=True),
            Column(name="compared with"),
        ),
        rows=rows,
        how="A trial is stopped when it is both clearly worse than the best ones on the same images (small p) and of "
        f"no use to the blend (small gain). Its score is an estimate.{more}",
    )


def failed_table(context: ReportContext) -> Table | None:
    trials = context.study.of("failed")
    if not trials:
        return None
    reasons = Counter(trial.reason for trial in trials)
    rows: list[list[Cell | str]] = [
        [
            Cell(tag("code", trial.trial_id), trial.trial_id),
            trial.family,
            Cell(f"{0 if trial.result is None else trial.result.folds_done}"),
            trial.reason,
        ]
        for trial in trials[:MOST_ROWS]
    ]
    more = f" Shown are {MOST_ROWS} of them." if len(trials) > MOST_ROWS else ""
    return Table(
        title=f"{count(len(trials), 'trial')} failed, for {count(len(reasons), 'reason')}",
        columns=(
            Column(name="trial"),
            Column(name="family"),
            Column(name="folds done", numeric=True),
            Column(name="reason"),
        ),
        rows=rows,
        how=join(
            "A trial that fails is recorded and the search goes on; the same search with ",
            tag("code", "--retry-failed"),
            f" takes them up again.{more}",
        ),
    )
