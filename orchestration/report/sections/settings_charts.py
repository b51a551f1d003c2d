"""What the hyper-parameters did: importance, parallel coordinates and slices, one family at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from orchestration.report.charts import GRID, RAMP, data, panel
from orchestration.report.data.context import ReportContext
from orchestration.report.data.importance import FEW, is_continuous, is_logarithmic, space_of_family, varied
from orchestration.report.html import Figure, Panel
from orchestration.report.words import count, number, percent, setting
from orchestration.study.data import Trial

MOST_AXES = 8  # parameters of the parallel coordinates
LEAST_SHARE = 0.005  # of the importance that is drawn
MOST_SLICES = 6  # of a family
MOST_LINES = 300  # trials drawn, the best


def settings_figures(context: ReportContext) -> list[Figure]:
    """Importance of all families, then parallel coordinates and slices of each that varied anything."""
    figures = [figure] if (figure := _importance(context)) else []
    for family in context.study.families:
        scored = [
            trial for trial in context.study.trials if trial.family == family and trial.reported_value is not None
        ]
        scored.sort(key=lambda trial: -(trial.reported_value or 0.0))
        shown = scored[:MOST_LINES]
        names = _by_importance(context, family, varied(shown))
        if len(shown) < 3 or not names:
            continue
        left = f"Drawn are the {MOST_LINES} best of {count(len(scored), 'trial')}." if len(scored) > MOST_LINES else ""
        figures.append(_parallel(context, family, shown, names, left))
        figures.append(_slices(context, family, shown, names, left))
    return figures


def _by_importance(context: ReportContext, family: str, values: dict[str, list[Any]]) -> list[str]:
    shares = context.importances[family].shares
    return sorted(values, key=lambda name: (-shares.get(name, 0.0), name))


def _importance(context: ReportContext) -> Figure | None:
    known = [importance for importance in context.importances.values() if importance.shares]
    without = [one for one in context.importances.values() if one.missing is not None]
    if not known:
        return None
    panels, firsts = [], []
    for one in known:
        shares = [(name, share) for name, share in one.shares.items() if share >= LEAST_SHARE][:MOST_AXES]
        rows: list[dict[str, Any]] = [{"name": name, "share": share, "text": percent(share)} for name, share in shares]
        firsts.append(f"{rows[0]['name']} in {one.family}")
        base = alt.Chart(data(rows)).encode(
            y=alt.Y("name:N", sort=[row["name"] for row in rows], title=None),
            x=alt.X("share:Q", title="share of the differences between trials", axis=alt.Axis(format="%", tickCount=5),
                    scale=alt.Scale(domain=[0, max(0.2, 1.15 * rows[0]["share"])], nice=False)),
        )  # fmt: skip
        index = context.study.families.index(one.family)
        bars = base.mark_bar(color=f"var(--c{index % 6 + 1})", height={"band": 0.7})
        chart = alt.layer(bars, base.mark_text(align="left", dx=5).encode(text="text:N"))
        few = f", a hint: only {count(one.trials, 'trial')}" if one.trials < FEW else f", {count(one.trials, 'trial')}"
        panels.append(panel(chart, height=24 * len(rows) + 10, caption=f"{one.family}{few}"))
    return Figure(
        title=f"What mattered most: {', '.join(firsts)}",
        how="How much of the differences between a family's trials (of their ranks) a setting explains by itself; one "
        "that exists only under a condition, among the trials that have it. It does not say which value is good: the "
        "slices below do.",
        panels=tuple(panels),
        note=" ".join(f"No importance for {one.family}: {one.missing}." for one in without),
        across=min(len(panels), 3),
    )


def _parallel(context: ReportContext, family: str, trials: Sequence[Trial], names: list[str], left: str) -> Figure:
    """Each trial a line through its settings, ending at its score."""
    space = space_of_family(context.study, family)
    names = names[:MOST_AXES]
    places = {name: _place(context, family, name, trials) for name in names}
    worths = [trial.reported_value or 0.0 for trial in trials]
    low, high = min(worths), max(worths)
    axes = [*names, "score"]
    lines, ticks = [], []
    for rank, trial in enumerate(trials):
        worth = trial.reported_value or 0.0
        marks = {name: places[name](trial.record.params.get(name)) for name in names}
        marks["score"] = (worth - low) / (high - low) if high > low else 0.5
        lines += [
            {"trial": trial.trial_id, "score": worth, "axis": axis, "y": y, "best": rank < 3,
             "value": setting(trial.record.params.get(axis)) if axis != "score" else number(worth)}
            for axis, y in marks.items() if y is not None
        ]  # fmt: skip
    for name in names:
        values = varied(trials)[name]
        if is_continuous(space, name, values):
            values = [values[0], values[-1]]
        ticks += [{"axis": name, "y": places[name](value), "text": _clipped(setting(value), 14)} for value in values]
    ticks += [{"axis": "score", "y": 0.0, "text": number(low)}, {"axis": "score", "y": 1.0, "text": number(high)}]
    x = alt.X("axis:N", sort=axes, title=None, axis=alt.Axis(labelAngle=0, domain=False, ticks=False, orient="top",
              grid=True,
              gridColor=GRID, labelLimit=112, labelOverlap=False),
              scale=alt.Scale(type="point", padding=0.45))  # fmt: skip
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.06, 1.12], nice=False))
    ramp = alt.Color("score:Q", title="weighted R²", legend=alt.Legend(gradientLength=160, format=".2f"),
                     scale=alt.Scale(range=list(RAMP), interpolate="rgb"))  # fmt: skip
    line = (
        alt.Chart(data(lines))
        .mark_line(interpolate="monotone")
        .encode(
            x=x, y=y, color=ramp, detail="trial:N",
            strokeWidth=alt.condition("datum.best", alt.value(3), alt.value(1.1)),
            opacity=alt.condition("datum.best", alt.value(1), alt.value(0.6)),
            tooltip=["trial:N", alt.Tooltip("score:Q", format=".4f")],
        )
    )  # fmt: skip
    text = (
        alt.Chart(data(ticks))
        .mark_text(align="left", dx=4, dy=-8, fontSize=11, stroke="var(--paper)", strokeWidth=3)
        .encode(x=x, y=y, text="text:N")
    )
    ink = alt.Chart(data(ticks)).mark_text(align="left", dx=4, dy=-8, fontSize=11).encode(x=x, y=y, text="text:N")
    best = trials[0]
    shown = ", ".join(f"{name} {setting(best.record.params[name])}" for name in names[:3] if name in best.record.params)
    some = f"; of {count(len(varied(trials)), 'setting')} that varied, the {MOST_AXES} most important" if len(
        varied(trials)) > MOST_AXES else ""  # fmt: skip
    return Figure(
        title=f"{family}: the best trial has {shown}",
        how=f"A line is a trial; it crosses each axis at its setting and ends at its score. The three best are drawn "
        f"thick. Where blue lines meet on an axis and orange ones do not, that value pays{some}.",
        panels=(panel(alt.layer(line, text, ink), height=260, least_width=min(1000, 112 * len(axes))),),
        note=left,
    )


def _place(context: ReportContext, family: str, name: str, trials: Sequence[Trial]) -> Callable[[Any], float | None]:
    """Where a value lies on a parameter's axis, 0 .. 1; None for a trial without the parameter."""
    values = varied(trials)[name]
    space = space_of_family(context.study, family)
    if not is_continuous(space, name, values):
        order = [setting(value) for value in values]
        return lambda value: order.index(setting(value)) / (len(order) - 1) if setting(value) in order else None
    by_factors = is_logarithmic(space, name, values)
    turn: Callable[[float], float] = math.log if by_factors else float
    low, high = turn(values[0]), turn(values[-1])
    return lambda value: None if value is None else (turn(value) - low) / (high - low)


def _slices(context: ReportContext, family: str, trials: Sequence[Trial], names: list[str], left: str) -> Figure:
    """Score against one setting at a time."""
    space = space_of_family(context.study, family)
    shown = names[:MOST_SLICES]
    panels = [_slice(context, family, trials, name, varied(trials)[name], space) for name in shown]
    shares = context.importances[family].shares
    order = "most important first" if shares else "by name"
    more = f"Not drawn: {count(len(names) - len(shown), 'less important setting')}. " if len(names) > len(shown) else ""
    return Figure(
        title=f"{family}: score against each setting, {order}",
        how="Each dot is a trial. A slope or a step says that the setting matters by itself; a cloud says that it does "
        "not, or only together with others. Crosses are trials that were stopped early, at their estimated score.",
        panels=tuple(panels),
        note=more + left,
        across=3,
    )


def _slice(
    context: ReportContext, family: str, trials: Sequence[Trial], name: str, values: list[Any], space: Any
) -> Panel:
    numeric = is_continuous(space, name, values)
    rows: list[dict[str, Any]] = [
        {"value": trial.record.params[name] if numeric else setting(trial.record.params[name]),
         "score": trial.reported_value or 0.0, "trial": trial.trial_id, "status": trial.status}
        for trial in trials if name in trial.record.params
    ]  # fmt: skip
    scores = sorted(row["score"] for row in rows)
    floor = scores[len(scores) // 20]
    if numeric:
        by_factors = is_logarithmic(space, name, values)
        free: dict[str, Any] = {} if by_factors else {"zero": False}  # a logarithmic scale has no zero
        kind = alt.Scale(type="log" if by_factors else "linear", nice=False, padding=8, **free)
        axis = alt.Axis(tickCount=4, format=".3~g", labelFlush=True, grid=False)
        x: Any = alt.X("value:Q", title=name, scale=kind, axis=axis)
    else:
        order = [setting(value) for value in values]
        x = alt.X("value:N", title=name, sort=order, axis=alt.Axis(labelAngle=0, labelLimit=90),
                  scale=alt.Scale(type="point", padding=0.6))  # fmt: skip
    chart = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=45, opacity=0.75)
        .encode(
            x=x,
            y=alt.Y("score:Q", title="weighted R²", axis=alt.Axis(tickCount=5),
                    scale=alt.Scale(domain=[floor - 0.02, scores[-1] + 0.02], clamp=True, nice=True)),
            color=alt.value(f"var(--c{context.study.families.index(family) % 6 + 1})"),
            shape=alt.Shape("status:N", legend=None,
                            scale=alt.Scale(domain=["complete", "pruned"], range=["circle", "cross"])),
            tooltip=["trial:N", "value:Q" if numeric else "value:N", alt.Tooltip("score:Q", format=".4f"), "status:N"],
        )
    )  # fmt: skip
    share = context.importances[family].shares.get(name)
    return panel(chart, height=180, caption=name if share is None else f"{name} · explains {percent(share)}")


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
