"""How the search went: scores over time, slots over time, and what was stopped or broke."""

from __future__ import annotations

from collections import Counter
from typing import Any

import altair as alt

from orchestration.report.charts import SOFT, colour, data, panel
from orchestration.report.evidence import MOST_TIMED, Trial
from orchestration.report.html import Cell, Column, Figure, Html, Section, Table, join, paragraph, tag
from orchestration.report.settings_charts import settings_figures
from orchestration.report.story import Story
from orchestration.report.timeline import Clock, busy_share, lanes_of
from orchestration.report.words import NONE, count, duration, number, percent

MOST_POINTS = 2000  # trials drawn one by one
MOST_ROWS = 100  # of the tables of pruned and failed trials
MOST_BARS = 2000


def search_section(story: Story) -> Section:
    blocks: list[Html | Table | Figure | None] = [_progress(story), *settings_figures(story), _slots(story)]
    blocks += [_pruned(story), _failed(story)]
    found = tuple(block for block in blocks if block is not None)
    return Section(
        anchor="search",
        title="How the search went",
        short="Search",
        blocks=found or (paragraph("No trial has ended yet."),),
    )


def _progress(story: Story) -> Figure | None:
    """Score of each trial at the moment of its end, and the best so far."""
    ended = [trial for trial in story.evidence.trials if trial.worth is not None and trial.ended_at is not None]
    timed = [trial for trial in ended if trial.ended_at]
    if len(timed) < 2:
        return None
    timed.sort(key=lambda trial: trial.ended_at or 0.0)
    unit, scale = _unit(story.clock.at(timed[-1].ended_at or 0.0))
    families = story.evidence.families
    points = [_point(story, trial, scale) for trial in timed]
    best_lines = []
    for family in families:
        so_far = None
        for point in points:
            if (
                point["family"] == family
                and point["status"] == "complete"
                and (so_far is None or point["score"] > so_far)
            ):
                so_far = point["score"]
                best_lines.append({"family": family, "at": point["at"], "score": so_far})
        if so_far is not None:
            best_lines.append({"family": family, "at": points[-1]["at"], "score": so_far})
    drawn = _thinned(points)
    x = alt.X("at:Q", title=f"search time [{unit}], pauses cut out")
    y = alt.Y("score:Q", title="weighted R²", scale=alt.Scale(zero=False, clamp=True, domain=_span(points)))
    statuses = ["complete", "pruned"]
    dots = (
        alt.Chart(data(drawn))
        .mark_point(size=55, opacity=0.85, filled=True)
        .encode(
            x=x,
            y=y,
            color=colour("family", families, "family"),
            shape=alt.Shape(
                "status:N",
                scale=alt.Scale(domain=statuses, range=["circle", "cross"]),
                title="trial",
                legend=alt.Legend(title="trial") if story.evidence.of("pruned") else None,
            ),
            tooltip=["trial:N", "family:N", "status:N", alt.Tooltip("score:Q", format=".4f"), "at:Q"],
        )
    )
    lines = (
        alt.Chart(data(best_lines))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(x=x, y=y, color=colour("family", families, "family"))
    )
    layers: list[Any] = [lines, dots] if best_lines else [dots]
    if (ridge := story.scores.get("colour ridge")) and _span(points)[0] < ridge.value < _span(points)[1]:
        rule = alt.Chart(data([{"score": ridge.value, "text": "colour ridge"}]))
        layers.append(rule.mark_rule(color=SOFT, strokeDash=[4, 3]).encode(y=y))
        layers.append(rule.mark_text(align="left", dy=-6, x=4, color=SOFT).encode(y=y, text="text:N"))
    best = max(
        (trial for trial in timed if trial.status == "complete"), key=lambda trial: trial.score or 0.0, default=None
    )
    place = timed.index(best) + 1 if best else 0
    late = "" if best is None else f": the best came as number {place} of {len(timed)}"
    note = (
        f"Drawn are {MOST_POINTS} of {count(len(points), 'trial')}, evenly chosen." if len(points) > MOST_POINTS else ""
    )
    return Figure(
        title=f"Score over time{late}",
        how="Each mark is a trial at the moment when it ended; the line is the best of its family so far. A line that "
        "still climbs at the right edge says that a longer search may pay. Marks at the lower edge may lie below it.",
        panels=(panel(alt.layer(*layers), height=300),),
        note=note,
    )


def _point(story: Story, trial: Trial, scale: float) -> dict[str, Any]:
    return {
        "trial": trial.name,
        "family": trial.family,
        "status": trial.status,
        "score": trial.worth or 0.0,
        "at": story.clock.at(trial.ended_at or 0.0) / scale,
    }


def _span(points: list[dict[str, Any]]) -> list[float]:
    """The axis: down to the lower fence of a box plot, because a few broken trials must not flatten the others."""
    scores = sorted(point["score"] for point in points)
    quarter, high = scores[len(scores) // 4], scores[-1]
    low = max(scores[0], quarter - 1.5 * (scores[3 * len(scores) // 4] - quarter))
    margin = max(0.02, 0.06 * (high - low))
    return [round(low - margin, 3), round(high + margin, 3)]


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    step = -(-len(points) // MOST_POINTS)
    return points[::step]


def _unit(seconds: float) -> tuple[str, float]:
    """Name and length of the unit that suits a duration."""
    if seconds < 300:
        return "s", 1.0
    return ("min", 60.0) if seconds < 10_800 else ("h", 3600.0)


def _slots(story: Story) -> Figure | None:
    """Which slot did which fold when."""
    work = story.work[-MOST_BARS:]
    if not work:
        return None
    lanes, clock = lanes_of(work), Clock([(one.start, one.end) for one in work])
    unit, scale = _unit(clock.seconds)
    hosts = {one.host for one in work}
    bars: list[dict[str, Any]] = [
        {
            "slot": f"{one.host} · {lane + 1}" if len(hosts) > 1 else f"slot {lane + 1}",
            "start": clock.at(one.start) / scale,
            "end": clock.at(one.end) / scale,
            "family": one.family,
            "trial": one.trial,
            "folds": ", ".join(map(str, one.folds)),
            "seconds": round(one.end - one.start, 1),
            "score": one.score,
        }
        for one, lane in zip(work, lanes, strict=True)
    ]
    labels = {lane: bar["slot"] for lane, bar in zip(lanes, bars, strict=True)}
    x = alt.X("start:Q", title=f"search time [{unit}]", scale=alt.Scale(nice=False))
    y = alt.Y("slot:N", sort=[labels[lane] for lane in sorted(labels)], title=None)
    chart: Any = (
        alt.Chart(data(bars))
        .mark_bar(stroke="var(--paper)", strokeWidth=0.7, cornerRadius=1.5)
        .encode(
            x=x,
            x2="end:Q",
            y=y,
            color=colour("family", story.evidence.families, "family"),
            tooltip=["trial:N", "family:N", "folds:N", "seconds:Q", alt.Tooltip("score:Q", format=".3f")],
        )
    )
    cuts: list[dict[str, Any]] = [
        {"start": clock.at(start) / scale, "length": duration(end - start)} for start, end in clock.gaps
    ]
    if cuts:
        rule = alt.Chart(data(cuts)).mark_rule(strokeDash=[2, 3], color=SOFT)
        chart = alt.layer(chart, rule.encode(x=x, tooltip=[alt.Tooltip("length:N", title="nothing ran for")]))
    busy = busy_share(work, clock)
    notes = []
    if len(story.evidence.trials) > MOST_TIMED or len(story.work) > MOST_BARS:
        notes.append(f"Drawn are the folds of the last trials, {count(len(work), 'bar')}.")
    if cuts:
        listing = ", ".join(cut["length"] for cut in cuts[:5])
        notes.append(f"Dotted lines: nothing ran there for {listing}{' and more' if len(cuts) > 5 else ''}; cut out.")
    return Figure(
        title=f"{count(len(labels), 'slot')} busy for {percent(busy)} of {duration(clock.seconds)} of search",
        how="A bar is one fold of one trial on one slot (a GPU, a share of one, or CPU cores); folds trained together "
        "are one bar. White space is time in which a slot waited: for the first bars that is the start of the workers.",
        panels=(panel(chart, height=max(70, 26 * len(labels))),),
        note=" ".join(notes),
    )


def _pruned(story: Story) -> Table | None:
    trials = story.evidence.of("pruned")
    if not trials:
        return None
    folds = len(story.evidence.folds)
    rows: list[list[Cell | str]] = []
    for trial in trials[:MOST_ROWS]:
        result = trial.result or {}
        last = (result.get("decisions") or [{}])[-1]
        rows.append(
            [
                Cell(tag("code", trial.name), trial.name), trial.family,
                Cell(f"{last.get('folds_done', result.get('folds_done'))} of {folds}", last.get("folds_done")),
                Cell(f"{last['p']:.2g}" if "p" in last else NONE, last.get("p")),
                Cell(percent(last.get("gain"), 2), last.get("gain")),
                Cell(number(trial.worth), trial.worth),
                Cell(tag("code", last.get("against", NONE))),
            ]
        )  # fmt: skip
    done = sum(int((trial.result or {}).get("folds_done", 0)) for trial in trials)
    saved = folds * len(trials) - done
    more = f" Shown are {MOST_ROWS} of them." if len(trials) > MOST_ROWS else ""
    return Table(
        title=f"{count(len(trials), 'trial')} stopped early (pruned), which saved {count(saved, 'fold')}",
        columns=(
            Column(name="trial"),
            Column(name="family"),
            Column(name="after folds", numeric=True),
            Column(name="p", gloss="chance of such a disadvantage, were it as good as the best", numeric=True),
            Column(name="blend gain", gloss="how much the best mixture with it lowers the blend's error", numeric=True),
            Column(name="estimated score", numeric=True),
            Column(name="compared with"),
        ),
        rows=rows,
        how="A trial is stopped when it is both clearly worse than the best one on the same images (small p) and of no "
        f"use to the blend (small gain). Its score is an estimate.{more}",
    )


def _failed(story: Story) -> Table | None:
    trials = story.evidence.of("failed")
    if not trials:
        return None
    reasons = Counter(str((trial.result or {}).get("reason")) for trial in trials)
    rows: list[list[Cell | str]] = [
        [
            Cell(tag("code", trial.name), trial.name),
            trial.family,
            Cell(f"{(trial.result or {}).get('folds_done', 0)}"),
            str((trial.result or {}).get("reason")),
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
