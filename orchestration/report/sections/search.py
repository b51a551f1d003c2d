"""How the search went: scores over time, slots over time, and what was stopped or broke."""

from __future__ import annotations

from typing import Any

import altair as alt

from orchestration.report.charts import SOFT, colour, data, panel
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Figure, Html, Section, Table, paragraph
from orchestration.report.sections.ended_tables import failed_table, pruned_table
from orchestration.report.sections.settings_charts import settings_figures
from orchestration.report.sections.slots_chart import slots_figure, time_unit
from orchestration.report.words import count
from orchestration.study.data import COLOUR_RIDGE, Trial

MOST_POINTS = 2000  # trials drawn one by one


def search_section(context: ReportContext) -> Section:
    blocks: list[Html | Table | Figure | None] = [_progress(context), *settings_figures(context), slots_figure(context)]
    blocks += [pruned_table(context), failed_table(context)]
    found = tuple(block for block in blocks if block is not None)
    return Section(
        anchor="search",
        title="How the search went",
        short="Search",
        blocks=found or (paragraph("No trial has ended yet."),),
    )


def _progress(context: ReportContext) -> Figure | None:
    """Score of each trial at the moment of its end, and the best so far."""
    ended = [trial for trial in context.study.trials if trial.reported_value is not None and trial.ended_at is not None]
    timed = [trial for trial in ended if trial.ended_at]
    if len(timed) < 2:
        return None
    timed.sort(key=lambda trial: trial.ended_at or 0.0)
    unit, scale = time_unit(context.clock.at(timed[-1].ended_at or 0.0))
    families = context.study.families
    points = [_point(context, trial, scale) for trial in timed]
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
    x = alt.X("at:Q", title=f"search time [{unit}], pauses cut out")
    y = alt.Y("score:Q", title="weighted R²", scale=alt.Scale(zero=False, clamp=True, domain=_span(points)))
    statuses, step = ["complete", "pruned"], -(-len(points) // MOST_POINTS)
    dots = (
        alt.Chart(data(points[::step]))
        .mark_point(size=55, opacity=0.85, filled=True)
        .encode(
            x=x,
            y=y,
            color=colour("family", families, "family"),
            shape=alt.Shape(
                "status:N",
                scale=alt.Scale(domain=statuses, range=["circle", "cross"]),
                title="trial",
                legend=alt.Legend(title="trial") if context.study.of("pruned") else None,
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
    if (ridge := context.scores.get(COLOUR_RIDGE)) and _span(points)[0] < ridge.value < _span(points)[1]:
        rule = alt.Chart(data([{"score": ridge.value, "text": COLOUR_RIDGE}]))
        layers.append(rule.mark_rule(color=SOFT, strokeDash=[4, 3]).encode(y=y))
        layers.append(rule.mark_text(align="left", dy=-6, x=4, color=SOFT).encode(y=y, text="text:N"))
    best = max(
        (trial for trial in timed if trial.status == "complete"), key=lambda trial: trial.score or 0.0, default=None
    )
    place = timed.index(best) + 1 if best else 0
    late = "" if best is None else f": the best came as number {place} of {len(timed)}"
    note = f"Drawn is one in {step} of {count(len(points), 'trial')}." if step > 1 else ""
    return Figure(
        title=f"Score over time{late}",
        how="Each mark is a trial at the moment when it ended; the line is the best of its family so far. A line that "
        "still climbs at the right edge says that a longer search may pay. Marks at the lower edge may lie below it.",
        panels=(panel(alt.layer(*layers), height=300),),
        note=note,
    )


def _point(context: ReportContext, trial: Trial, scale: float) -> dict[str, Any]:
    return {
        "trial": trial.trial_id,
        "family": trial.family,
        "status": trial.status,
        "score": trial.reported_value or 0.0,
        "at": context.clock.at(trial.ended_at or 0.0) / scale,
    }


def _span(points: list[dict[str, Any]]) -> list[float]:
    """The axis: down to the lower fence of a box plot, because a few broken trials must not flatten the others."""
    scores = sorted(point["score"] for point in points)
    quarter, high = scores[len(scores) // 4], scores[-1]
    low = max(scores[0], quarter - 1.5 * (scores[3 * len(scores) // 4] - quarter))
    margin = max(0.02, 0.06 * (high - low))
    return [round(low - margin, 3), round(high + margin, 3)]
