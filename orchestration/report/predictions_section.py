"""Measured against predicted, and what the errors depend on."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from biomass_models.targets import TARGETS, TOTAL, FloatArray
from orchestration.report.charts import SOFT, colour, data, legend, panel, shape
from orchestration.report.html import Figure, Html, Panel, Section, Table, paragraph
from orchestration.report.judge import binned_mean
from orchestration.report.photographs import Photographs
from orchestration.report.story import Story
from orchestration.report.words import GAP, SHORT, count, number
from orchestration.report.worst import worst_images

MOST_IMAGES = 3000  # drawn one by one
MOST_SPECIES = 20


def predictions_section(story: Story, photographs: Photographs) -> Section:
    if story.shown is None:
        blocks: tuple[Html | Table | Figure, ...] = (
            paragraph("No trial is complete, so there are no predictions to show."),
        )
    else:
        honest = "Each image was predicted by models that had not seen it"
        how = ", and blended by weights that were chosen without it" if story.blend is not None else ""
        lead = paragraph(f"The pictures show {story.shown.name}. {honest}{how}.")
        found: list[Html | Figure | None] = [lead, _scatter(story), _residuals(story), worst_images(story, photographs)]
        blocks = tuple(block for block in found if block is not None)
    return Section(anchor="predictions", title="Predictions, and where they fail", short="Predictions", blocks=blocks)


def _rows(story: Story) -> list[int]:
    """Rows that are drawn: all of them, or as many as a page can hold, evenly chosen."""
    images = len(story.judge.truth_NT)
    return list(range(0, images, -(-images // MOST_IMAGES)))


def _state_of(story: Story) -> pd.Series:
    quadrats = story.evidence.quadrats
    return quadrats["State"].astype(str) if "State" in quadrats else pd.Series(["all"] * len(quadrats))


def _scatter(story: Story) -> Figure:
    assert story.shown is not None
    truth_NT, pred_NT, state_N = story.judge.truth_NT, story.shown.pred_NT, _state_of(story)
    states = sorted(state_N.unique())
    ids, rows = story.evidence.quadrats["image_id"], _rows(story)
    panels, r2 = [], {}
    for target, name in sorted(enumerate(TARGETS), key=lambda pair: pair[0] != TOTAL):
        truth_N, pred_N = truth_NT[:, target], pred_NT[:, target]
        spread = float(((truth_N - truth_N.mean()) ** 2).sum())
        r2[name] = 1 - float(((truth_N - pred_N) ** 2).sum()) / spread if spread else float("nan")
        error = float(np.sqrt(((truth_N - pred_N) ** 2).mean()))
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
        note=_left(story),
        across=3,
        legend=legend("state", states),
    )


def _left(story: Story) -> str:
    drawn, images = len(_rows(story)), len(story.judge.truth_NT)
    return f"Drawn are {drawn} of {count(images, 'image')}." if drawn < images else ""


def _residuals(story: Story) -> Figure | None:
    """Predicted minus measured total against what is known of each quadrat."""
    assert story.shown is not None
    quadrats = story.evidence.quadrats
    residual_N = story.shown.pred_NT[:, TOTAL] - story.judge.truth_NT[:, TOTAL]
    panels: list[Panel] = [
        _trend(story, residual_N, story.judge.truth_NT[:, TOTAL], "measured total [g]", "Measured total")
    ]
    findings = []
    if "Sampling_Date" in quadrats and quadrats["Sampling_Date"].notna().any():
        panels.append(_trend(story, residual_N, quadrats["Sampling_Date"], "sampling date", "Date"))
    for column, title, caption in (
        ("Height_Ave_cm", "mean sward height [cm]", "Height"),
        ("Pre_GSHH_NDVI", "NDVI (greenness seen by a sensor, 0 to 1)", "NDVI"),
    ):
        if column in quadrats and quadrats[column].notna().sum() > 1:
            panels.append(_trend(story, residual_N, quadrats[column], title, caption))
    if "Species" in quadrats and quadrats["Species"].notna().any():
        bias = pd.Series(residual_N).groupby(quadrats["Species"].astype(str).to_numpy()).agg(["mean", "size"])
        enough = bias[bias["size"] >= 5]
        if len(enough):
            worst = str(enough["mean"].abs().idxmax())
            off = number(float(enough["mean"].loc[worst]), 1, sign=True)
            findings.append(f"{worst} is off most, {off} g on average")
        panels.append(_species(residual_N, quadrats["Species"].astype(str), bias))
    absent = [name for name in ("Sampling_Date", "Height_Ave_cm", "Pre_GSHH_NDVI", "Species") if name not in quadrats]
    note = f"This study has no {', '.join(absent)}. " if absent else ""
    return Figure(
        title="Errors of the total" + (f": {findings[0]}" if findings else " against what is known of each quadrat"),
        how="Up is predicted too high, down too low. The line is the mean of neighbouring quadrats: where it leaves "
        "zero, the error is systematic and more data or another model could remove it. No model reads these columns; "
        "they only explain its errors.",
        panels=tuple(panels),
        note=note + _left(story),
        across=2,
        legend=legend("state", sorted(_state_of(story).unique())),
    )


def _trend(story: Story, residual_N: FloatArray, values: Any, title: str, caption: str) -> Panel:
    """Residuals over a number or a date, with the mean of eight bins."""
    series = pd.Series(np.asarray(values))
    dates = pd.api.types.is_datetime64_any_dtype(series)
    states, state_N = sorted(_state_of(story).unique()), _state_of(story)
    ids = story.evidence.quadrats["image_id"]
    known = series.notna().to_numpy()
    shown = [row for row in _rows(story) if known[row]]

    def place(value: Any) -> Any:
        return value.strftime("%Y-%m-%d") if dates else float(value)

    rows = [
        {
            "image": str(ids.iloc[row]),
            "x": place(series.iloc[row]),
            "residual": float(residual_N[row]),
            "state": state_N.iloc[row],
        }
        for row in shown
    ]
    line_rows: list[dict[str, Any]] = []
    if dates:
        means = pd.Series(residual_N[known]).groupby(series[known].to_numpy()).mean()
        line_rows = [
            {"x": place(pd.Timestamp(day)), "residual": float(mean)}
            for day, mean in zip(means.index, means, strict=True)
        ]
    else:
        numbers = series[known].to_numpy(dtype=np.float64)
        line_rows = [{"x": x, "residual": y} for x, y, _ in binned_mean(numbers, residual_N[known])]
    kind = "T" if dates else "Q"
    axis = alt.Axis(format="%b %Y", tickCount=6, labelOverlap=True) if dates else alt.Axis(tickCount=6)
    x = alt.X(f"x:{kind}", title=title, axis=axis, scale=alt.Scale(nice=False) if dates else alt.Scale(zero=False))
    y = alt.Y("residual:Q", title="predicted − measured [g]")
    dots = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=30, opacity=0.6)
        .encode(
            x=x, y=y, color=colour("state", states, None, legend=False), shape=shape("state", states),
            tooltip=["image:N", "state:N", f"x:{kind}", alt.Tooltip("residual:Q", format="+.1f")],
        )
    )  # fmt: skip
    zero = alt.Chart(data([{"residual": 0.0}])).mark_rule(color=SOFT, strokeDash=[4, 3]).encode(y=y)
    means_mark = alt.Chart(data(line_rows)).mark_point(
        filled=True, color="var(--ink)", size=60, shape="diamond", opacity=1
    )
    line = alt.Chart(data(line_rows)).mark_line(color="var(--ink)", strokeWidth=2)
    mean_layer = means_mark if dates else line
    return panel(
        alt.layer(zero, dots, mean_layer.encode(x=x, y=y)),
        height=230,
        caption=f"{caption}{', diamonds: mean of a day' if dates else ''}",
    )


def _species(residual_N: FloatArray, species_N: pd.Series, bias: pd.DataFrame) -> Panel:
    order = list(bias.sort_values("size", ascending=False).index[:MOST_SPECIES])
    order.sort(key=lambda name: float(bias["mean"][name]))
    rows = [
        {"species": name, "residual": float(residual)}
        for name, residual in zip(species_N, residual_N, strict=True)
        if name in order
    ][:MOST_IMAGES]
    means = [
        {"species": name, "residual": float(bias["mean"][name]), "images": int(bias["size"][name])} for name in order
    ]
    y = alt.Y("species:N", sort=order, title=None, axis=alt.Axis(labelLimit=280))
    x = alt.X("residual:Q", title="predicted − measured [g]")
    ticks = alt.Chart(data(rows)).mark_tick(thickness=1.5, color="var(--c1)", opacity=0.5).encode(x=x, y=y)
    dots = alt.Chart(data(means)).mark_point(filled=True, size=60, shape="diamond", color="var(--ink)", opacity=1)
    mean = dots.encode(x=x, y=y, tooltip=["species:N", "images:Q", alt.Tooltip("residual:Q", format="+.1f")])
    zero = alt.Chart(data([{"residual": 0.0}])).mark_rule(color=SOFT, strokeDash=[4, 3]).encode(x=x)
    left = f", {MOST_SPECIES} most frequent" if len(bias) > MOST_SPECIES else ""
    return panel(
        alt.layer(zero, ticks, mean),
        height=max(80, 22 * len(order)),
        caption=f"Species, diamonds: mean{left}",
        least_width=560,
        wide=True,
    )
