"""How sure masses of new photographs are: intervals of the blend, and how often they held on dates that were left out.

G units (dates, or what the folds keep whole), T = 5 targets.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from biomass_models.targets import TARGETS
from ensembles.intervals.coverage import BADLY, Coverage, coverage
from ensembles.intervals.levels import LEVELS, Intervals
from ensembles.intervals.rows import IntervalRows
from orchestration.report.charts import SOFT, colour, data, panel
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Cell, Column, Figure, Html, Section, Table, paragraph, tag
from orchestration.report.words import NONE, SHORT, count, day_name, listed, mass, percent

MASSES = 25  # at which widths are drawn
LEVEL = LEVELS[0]  # that is drawn


def intervals_section(context: ReportContext) -> Section:
    return Section(
        anchor="sure", title="How sure masses of new photographs are", short="Intervals", blocks=_blocks(context)
    )


def _blocks(context: ReportContext) -> tuple[Html | Table | Figure, ...]:
    if context.blend is None:
        return (paragraph(f"There is no blend, and so no interval: {context.no_blend}."),)
    rows = context.blend.card.intervals
    if rows is None:
        return (
            paragraph(
                "The blend has no intervals: it was made before there were any, or all masses that differ lie in one "
                "fold. ", tag("code", "biomass ensemble"), " blends again.",
            ),
        )  # fmt: skip
    held = [coverage(rows, level) for level in LEVELS]
    intervals = Intervals(rows.calibration)
    shortages = [line for line in map(intervals.shortage, LEVELS) if line is not None]
    blocks: list[Html | Table | Figure] = [_promise(rows, held[0])]
    blocks += [paragraph(f"{line[0].upper()}{line[1:]}.") for line in shortages]
    if context.study.cut_groups:
        blocks.append(paragraph("The folds cut sampling days: on new days less is covered than is shown here."))
    blocks.append(_table(context, intervals, held))
    drawn = [_by_unit(rows, held[0]), _widths(context, intervals)]
    if panels := tuple(one for one in drawn if one is not None):
        blocks.append(
            Figure(
                title="Coverage by day, and width against mass" if rows.unit == "date" else "Coverage and width",
                how=f"On the left each dot is a {rows.unit} that was left out: how much of it its {LEVEL:.0%} interval "
                f"held, from the other {rows.unit}s alone; the line is what was promised on average. On the right: how "
                f"far an interval reaches to each side of a mass (below, no further than 0).",
                panels=panels,
                across=2,
            )
        )
    return tuple(blocks)


def _promise(rows: IntervalRows, held: Coverage) -> Html:
    text = (
        f"An interval of a level holds that share of the photographs of new {rows.unit}s, on average over {rows.unit}s "
        "at known sites. "
    )
    if held.worst is not None:
        name, share = held.worst
        badly = [
            day_name(unit)
            for unit, part in zip(held.units, held.share_GT[:, TARGETS.index(name)], strict=True)
            if part <= BADLY
        ]
        text += (
            f"It does not hold within each: on {percent(share)} of the {rows.unit}s {BADLY:.0%} or less of the "
            f"{SHORT[name]} was in its {LEVEL:.0%} interval"
        )
        text += f" ({listed(badly)})." if badly else "."
    return paragraph(text)


def _table(context: ReportContext, intervals: Intervals, held: list[Coverage]) -> Table:
    unit, per_gram = _unit(context)
    calibration = intervals.calibration
    table: list[list[Cell | str]] = []
    for column, name in context.measured:
        mean = float(np.nanmean(calibration.pred_NT[:, column]))
        row: list[Cell | str] = [SHORT[name], Cell(mass(mean * per_gram, unit), mean)]
        for found in held:
            low_NT, high_NT = intervals.of_photographs(np.full((1, len(TARGETS)), mean), found.level)
            low, high = low_NT[0, column] * per_gram, high_NT[0, column] * per_gram
            row.append(NONE if np.isnan(high) else Cell(f"{mass(low, unit)} to {mass(high, unit)}", high - low))
            row.append(Cell(percent(found.mean_T[column]), float(found.mean_T[column])))
        table.append(row)
    table.append(["all at once", Cell(NONE)])
    for found in held:
        table[-1] += [NONE, Cell(percent(found.joint), found.joint)]
    columns = [Column(name="mass"), Column(name="at its mean", numeric=True)]
    for found in held:
        columns.append(Column(name=f"{found.level:.0%} interval", numeric=True))
        columns.append(Column(name="held", gloss=f"mean over {calibration.unit}s that were left out", numeric=True))
    return Table(
        title="Intervals at each mean mass, and how often they held",
        columns=tuple(columns),
        rows=table,
        how=f"Held: each of {count(len(held[0].units), calibration.unit)} was left out in turn. All at once: one box "
        "for all masses of a photograph, within the identities; it is wider.",
    )


def _by_unit(rows: IntervalRows, held: Coverage) -> Any:
    targets = [name for name in rows.calibration.targets if not np.isnan(held.mean_T[TARGETS.index(name)])]
    if not targets:
        return None
    names = [SHORT[name] for name in targets]
    records = [
        {"unit": day_name(unit), "target": SHORT[name], "held": float(share)}
        for name in targets
        for unit, share in zip(held.units, held.share_GT[:, TARGETS.index(name)], strict=True)
        if not np.isnan(share)
    ]
    x = alt.X("held:Q", title=f"in their {held.level:.0%} interval", axis=alt.Axis(format="%"))
    dots = (
        alt.Chart(data(records))
        .mark_point(filled=True, size=40, opacity=0.6)
        .encode(
            x=x,
            y=alt.Y("target:N", title=None, sort=names),
            color=colour("target", names, None, legend=False),
            tooltip=[alt.Tooltip("unit:N", title=rows.unit), alt.Tooltip("held:Q", format=".0%")],
        )
    )
    line = alt.Chart(data([{"held": held.level}])).mark_rule(color=SOFT, strokeDash=[4, 3]).encode(x="held:Q")
    return panel(dots + line, height=220, caption=f"Share of each {rows.unit}'s photographs")


def _widths(context: ReportContext, intervals: Intervals) -> Any:
    unit, per_gram = _unit(context)
    calibration, q_T = intervals.calibration, intervals.quantiles(LEVEL)
    names = [SHORT[name] for column, name in context.measured if np.isfinite(q_T[column])]
    if not names:
        return None
    records = []
    for column, name in context.measured:
        if SHORT[name] in names:
            for at in np.linspace(0, float(np.nanmax(calibration.pred_NT[:, column])), MASSES):
                reach = q_T[column] * np.sqrt(at + calibration.offset_T[column])
                records.append({"target": SHORT[name], "mass": float(at * per_gram), "reach": float(reach * per_gram)})
    lines = (
        alt.Chart(data(records))
        .mark_line()
        .encode(
            x=alt.X("mass:Q", title=f"predicted mass [{unit}]"),
            y=alt.Y("reach:Q", title=f"± at {LEVEL:.0%} [{unit}]"),
            color=colour("target", names, None),
        )
    )
    return panel(lines, height=220, caption="Width against mass")


def _unit(context: ReportContext) -> tuple[str, float]:
    """The user's unit where one number converts grams into it, else grams."""
    return (context.unit, float(context.per_gram[0, 0])) if context.per_gram.size == 1 else ("g", 1.0)
