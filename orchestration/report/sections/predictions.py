"""Measured against predicted, and what the errors depend on."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import numpy as np

from orchestration.report.charts import SOFT, colour, data, legend, panel, shape
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Cell, Column, Figure, Html, Section, Table, paragraph
from orchestration.report.sections.photographs import Photographs
from orchestration.report.sections.residual_charts import (
    drawn_rows,
    further_figure,
    left_note,
    residual_figure,
    state_of,
)
from orchestration.report.sections.worst import worst_images
from orchestration.report.words import SHORT, mass, number, percent


def predictions_section(context: ReportContext, photographs: Photographs) -> Section:
    if context.shown is None:
        blocks: tuple[Html | Table | Figure, ...] = (
            paragraph("No trial is complete, so there are no predictions to show."),
        )
    else:
        honest = "Each image was predicted by models that had not seen it"
        how = ""
        if context.blend is not None:
            how = ", and blended by weights that were chosen without it"
            if context.blend.card.flips > 1:
                how += ". Its photographs were not flipped for these pictures, as they were for its scores"
        lead = paragraph(f"The pictures show {context.shown.name}. {honest}{how}.")
        found: list[Html | Figure | Table | None] = [
            lead,
            _scatter(context),
            _errors(context),
            residual_figure(context),
            further_figure(context),
            worst_images(context, photographs),
        ]
        blocks = tuple(block for block in found if block is not None)
    return Section(anchor="predictions", title="Predictions, and where they fail", short="Predictions", blocks=blocks)


def _scatter(context: ReportContext) -> Figure:
    assert context.shown is not None
    truth_NT, pred_NT = context.in_unit(context.scorer.truth_NT), context.in_unit(context.shown.pred_NT)
    state_N, unit = state_of(context), context.unit
    states = sorted(state_N.unique())
    ids, rows = context.study.quadrats["image_id"], drawn_rows(context)
    panels, r2 = [], {}
    for target, name in context.measured:
        truth_N, pred_N = truth_NT[:, target], pred_NT[:, target]
        error = context.error(target)
        r2[name] = error.r2
        top = float(max(np.nanmax(truth_N), np.nanmax(pred_N), 1.0))
        points = [
            {"image": str(ids.iloc[row]), "measured": float(truth_N[row]), "predicted": float(pred_N[row]),
             "state": state_N.iloc[row]}
            for row in rows
            if not np.isnan(truth_N[row])
        ]  # fmt: skip
        across = alt.Scale(domain=[0, top], nice=True)
        dots = (
            alt.Chart(data(points))
            .mark_point(filled=True, size=32, opacity=0.7)
            .encode(
                x=alt.X("measured:Q", title=f"measured [{unit}]", scale=across, axis=alt.Axis(tickCount=5)),
                y=alt.Y("predicted:Q", title=f"predicted [{unit}]", scale=across, axis=alt.Axis(tickCount=5)),
                color=colour("state", states, None, legend=False),
                shape=shape("state", states),
                tooltip=[
                    "image:N",
                    "state:N",
                    alt.Tooltip("measured:Q", format=".1f"),
                    alt.Tooltip("predicted:Q", format=".1f"),
                ],
            )
        )
        line = alt.Chart(data([{"x": 0.0, "y": 0.0}, {"x": top, "y": top}])).mark_line(
            color=SOFT, strokeDash=[4, 3], strokeWidth=1
        )
        diagonal = line.encode(x=alt.X("x:Q", scale=across), y=alt.Y("y:Q", scale=across))
        few = "" if error.images == len(truth_N) else f", measured in {error.images} of {len(truth_N)}"
        caption = f"{SHORT[name]} · R² {number(error.r2, 2)}, typical error {mass(error.rmse, unit)}{few}"
        panels.append(panel(alt.layer(diagonal, dots), height=270, caption=caption[0].upper() + caption[1:]))
    mixed = "; the score mixes all five" if len(r2) == 5 else "; the score mixes them" if len(r2) > 1 else ""
    return Figure(
        title=f"Measured against predicted: {_best_and_worst(r2)}",
        how="Each mark is a photograph that the models had not seen; on the dashed line the prediction would be "
        f"exact, below it too low. The R² here is of one target around its own mean{mixed}.",
        panels=tuple(panels),
        note=left_note(context),
        across=3,
        legend=legend("state", states),
    )


def _best_and_worst(r2: Mapping[str, float]) -> str:
    """Which targets are read best and worst; a target without spread has no R2."""
    known = {name: value for name, value in r2.items() if not np.isnan(value)}
    if not known:
        return "no target varies, so none has an R²"
    best, worst = max(known, key=lambda name: known[name]), min(known, key=lambda name: known[name])
    if best == worst:
        return f"{SHORT[best]} has an R² of {number(known[best], 2)}"
    return f"{SHORT[best]} is read best (R² {number(known[best], 2)}), {SHORT[worst]} worst ({number(known[worst], 2)})"


def _errors(context: ReportContext) -> Table:
    """Each measured target's error beside its mean."""
    unit, rows = context.unit, list[list[Cell | str]]()
    for target, name in context.measured:
        error = context.error(target)
        rows.append(
            [
                Cell(SHORT[name], name),
                Cell(str(error.images), error.images),
                Cell(mass(error.mean, unit), error.mean),
                Cell(mass(error.rmse, unit), error.rmse),
                Cell(percent(error.relative), error.relative),
                Cell(mass(error.bias, unit, sign=True), error.bias),
                Cell(number(error.r2, 2), error.r2),
            ]
        )
    return Table(
        title="Errors beside the mean masses",
        columns=(
            Column(name="mass"),
            Column(name="images", gloss="in which it was measured", numeric=True),
            Column(name="mean", gloss="measured", numeric=True),
            Column(name="error", gloss="root of the mean squared error", numeric=True),
            Column(name="% of mean", gloss="error as a share of the mean", numeric=True),
            Column(name="bias", gloss="mean of predicted minus measured", numeric=True),
            Column(name="R²", gloss="around the target's own mean", numeric=True),
        ),
        rows=rows,
        how="An error says most beside the mean mass that it is of: 10 g of 20 g is little use, 10 g of 100 g is.",
    )
