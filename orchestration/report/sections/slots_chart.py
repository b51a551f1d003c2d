"""Which slot did which fold when."""

from __future__ import annotations

from typing import Any

import altair as alt

from orchestration.report.charts import SOFT, colour, data, panel
from orchestration.report.data.context import MOST_TIMED, ReportContext
from orchestration.report.data.timeline import Clock, busy_share, lanes_of
from orchestration.report.html import Figure
from orchestration.report.words import count, duration, percent

MOST_BARS = 2000


def slots_figure(context: ReportContext) -> Figure | None:
    """Which slot did which fold when."""
    work = context.work[-MOST_BARS:]
    if not work:
        return None
    lanes, clock = lanes_of(work), Clock([(one.start, one.end) for one in work])
    unit, scale = time_unit(clock.seconds)
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
            color=colour("family", context.study.families, "family"),
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
    if len(context.study.trials) > MOST_TIMED or len(context.work) > MOST_BARS:
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


def time_unit(seconds: float) -> tuple[str, float]:
    """Name and length of the unit that suits a duration."""
    if seconds < 300:
        return "s", 1.0
    return ("min", 60.0) if seconds < 10_800 else ("h", 3600.0)
