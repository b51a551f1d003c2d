"""What more weighed photographs would bring, and which to weigh next: where the study was asked."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import altair as alt

from orchestration.advice.curve_read import CurveReading
from orchestration.report.charts import colour, data, panel
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Cell, Column, Figure, Html, Section, Table, paragraph
from orchestration.report.words import count, percent
from orchestration.study.derived.advice import LearningCurveRecord, NextRecord


def advice_sections(context: ReportContext) -> tuple[Section, ...]:
    """A section for each question that the study was asked."""
    ledger = context.study.ledger
    curve, picks = ledger.learning_curve(), ledger.next_photographs()
    found = []
    if curve is not None and curve.points:
        found.append(_curve_section(curve))
    if picks is not None and picks.picks:
        found.append(_next_section(picks))
    return tuple(found)


def _curve_section(record: LearningCurveRecord) -> Section:
    reading = CurveReading.of(record)
    blocks: list[Html | Table | Figure] = [paragraph(f"{line[0].upper()}{line[1:]}.") for line in reading.lines()]
    if len(reading.group_S):
        blocks.append(
            Figure(
                title="Scores by what was learned from",
                how=f"A ridge on frozen features ({record.features}) learned from fewer and fewer {record.noun}s, each "
                f"whole, and from as many photographs of all {record.noun}s. Lines are means over "
                f"{count(len(reading.by_groups_RS), 'order')} in which {record.noun}s were left out, dots are these.",
                panels=(panel(_lines(reading), height=260),),
                note="A forecast of what more would bring errs by 0.05 at least.",
            )
        )
    return Section(anchor="curve", title="What more photographs would bring", short="More data", blocks=tuple(blocks))


def _lines(reading: CurveReading) -> Any:
    whole, mixed = f"whole {reading.noun}s", f"of all {reading.noun}s"
    records = [
        {"images": float(images), "groups": float(groups), "from": name, "score": float(score)}
        for name, score_RS in ((whole, reading.by_groups_RS), (mixed, reading.by_images_RS))
        for score_S in score_RS
        for groups, images, score in zip(reading.group_S, reading.image_S, score_S, strict=True)
    ]
    base = alt.Chart(data(records)).encode(
        x=alt.X("images:Q", title="photographs that a fold learns from", scale=alt.Scale(zero=False)),
        color=colour("from", [whole, mixed], None),
    )
    y = alt.Y("score:Q", title="score (weighted R²)", scale=alt.Scale(zero=False))
    mean = alt.Y("mean(score):Q", title="score (weighted R²)", scale=alt.Scale(zero=False))
    tooltip = [alt.Tooltip("groups:Q", title=f"{reading.noun}s", format=".1f"), alt.Tooltip("score:Q", format=".3f")]
    return base.mark_point(filled=True, size=24, opacity=0.35).encode(y=y, tooltip=tooltip) + base.mark_line().encode(
        y=mean
    )


def _next_section(record: NextRecord) -> Section:
    rows: list[list[Cell | str]] = []
    settled = 0.0
    for rank, pick in enumerate(record.picks, start=1):
        settled += pick.settles
        rows.append(
            [
                Cell(f"{rank}", rank),
                pick.photograph,
                Cell(percent(pick.settles, 1), pick.settles),
                Cell(percent(settled, 1), settled),
                Cell(f"{pick.covers}", pick.covers),
                ", ".join(PurePath(path).name for path in pick.nearest),
            ]
        )
    table = Table(
        title="Photographs to weigh, in this order",
        columns=(
            Column(name="", numeric=True),
            Column(name="photograph"),
            Column(name="settles", gloss="share of what was open about those to be predicted", numeric=True),
            Column(name="in all", gloss="with those before it", numeric=True),
            Column(name="covers", gloss="of how many it is the nearest of this list", numeric=True),
            Column(name="nearest", gloss="those to be predicted that are most like it"),
        ),
        rows=rows,
        how=f"Chosen from {count(record.pool, 'photograph')} for {record.targets} that shall be predicted, by frozen "
        f"features ({record.features}).",
    )
    return Section(anchor="next", title="What to weigh next", short="Weigh next", blocks=(table,))
