"""Measured against predicted, and what the errors depend on."""

from __future__ import annotations

import altair as alt
import numpy as np

from biomass_models.targets import TARGETS, TOTAL
from orchestration.report.charts import SOFT, colour, data, legend, panel, shape
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Figure, Html, Section, Table, paragraph
from orchestration.report.sections.photographs import Photographs
from orchestration.report.sections.residual_charts import drawn_rows, left_note, residual_figure, state_of
from orchestration.report.sections.worst import worst_images
from orchestration.report.words import GAP, SHORT, number


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
        found: list[Html | Figure | None] = [
            lead,
            _scatter(context),
            residual_figure(context),
            worst_images(context, photographs),
        ]
        blocks = tuple(block for block in found if block is not None)
    return Section(anchor="predictions", title="Predictions, and where they fail", short="Predictions", blocks=blocks)


def _scatter(context: ReportContext) -> Figure:
    assert context.shown is not None
    truth_NT, pred_NT, state_N = context.scorer.truth_NT, context.shown.pred_NT, state_of(context)
    states = sorted(state_N.unique())
    ids, rows = context.study.quadrats["image_id"], drawn_rows(context)
    panels, r2 = [], {}
    for target, name in sorted(enumerate(TARGETS), key=lambda pair: pair[0] != TOTAL):
        truth_N, pred_N = truth_NT[:, target], pred_NT[:, target]
        spread = float(((truth_N - truth_N.mean()) ** 2).sum())
        square_RN = (truth_N - context.shown.pred_RNT[..., target]) ** 2
        r2[name] = 1 - float(square_RN.sum(1).mean()) / spread if spread else float("nan")
        error = float(np.sqrt(square_RN.mean()))
        top = float(max(truth_N.max(), pred_N.max(), 1.0))
        points = [
            {"image": str(ids.iloc[row]), "measured": float(truth_N[row]), "predicted": float(pred_N[row]),
             "state": state_N.iloc[row]}
            for row in rows
        ]  # fmt: skip
        across = alt.Scale(domain=[0, top], nice=True)
        dots = (
            alt.Chart(data(points))
            .mark_point(filled=True, size=32, opacity=0.7)
            .encode(
                x=alt.X("measured:Q", title="measured [g]", scale=across, axis=alt.Axis(tickCount=5)),
                y=alt.Y("predicted:Q", title="predicted [g]", scale=across, axis=alt.Axis(tickCount=5)),
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
        caption = f"{SHORT[name]} · R² {number(r2[name], 2)}, typical error {error:.1f}{GAP}g"
        panels.append(panel(alt.layer(diagonal, dots), height=270, caption=caption[0].upper() + caption[1:]))
    known = {name: value for name, value in r2.items() if not np.isnan(value)}
    best, worst = max(known, key=lambda name: known[name]), min(known, key=lambda name: known[name])
    return Figure(
        title=f"Measured against predicted: {SHORT[best]} is read best (R² {number(known[best], 2)}), {SHORT[worst]} "
        f"worst ({number(known[worst], 2)})",
        how="Each mark is a photograph that the models had not seen; on the dashed line the prediction would be "
        "exact, below it too low. The R² here is of one target around its own mean; the score mixes all five.",
        panels=tuple(panels),
        note=left_note(context),
        across=3,
        legend=legend("state", states),
    )
