"""What the errors depend on: predicted minus measured total against what is known of each quadrat."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from biomass_models.targets import TARGETS, FloatArray
from orchestration.report.charts import SOFT, colour, data, legend, panel, shape
from orchestration.report.data.context import ReportContext
from orchestration.report.data.scorer import binned_mean
from orchestration.report.html import Figure, Panel
from orchestration.report.words import SHORT, count, mass

MOST_IMAGES = 3000  # drawn one by one
MOST_SPECIES = 20


def residual_figure(context: ReportContext) -> Figure | None:
    """Predicted minus measured total against what is known of each quadrat."""
    assert context.shown is not None
    quadrats = context.study.quadrats
    target, unit = SHORT[TARGETS[context.main]], context.unit
    truth_N = context.in_unit(context.scorer.truth_NT)[:, context.main]
    residual_N = context.in_unit(context.shown.pred_NT)[:, context.main] - truth_N
    panels: list[Panel] = [_trend(context, residual_N, truth_N, f"measured {target} [{unit}]", f"Measured {target}")]
    findings = []
    if "Sampling_Date" in quadrats and quadrats["Sampling_Date"].notna().any():
        panels.append(_trend(context, residual_N, quadrats["Sampling_Date"], "sampling date", "Date"))
    for column, title, caption in (
        ("Height_Ave_cm", "mean sward height [cm]", "Height"),
        ("Pre_GSHH_NDVI", "NDVI (greenness seen by a sensor, 0 to 1)", "NDVI"),
    ):
        if column in quadrats and quadrats[column].notna().sum() > 1:
            panels.append(_trend(context, residual_N, quadrats[column], title, caption))
    if "Species" in quadrats and quadrats["Species"].notna().any():
        known = np.isfinite(residual_N)
        species = quadrats["Species"].astype(str)[known]
        bias = pd.Series(residual_N[known]).groupby(species.to_numpy()).agg(["mean", "size"])
        enough = bias[bias["size"] >= 5]
        if len(enough):
            worst = str(enough["mean"].abs().idxmax())
            off = mass(float(enough["mean"].loc[worst]), unit, sign=True)
            findings.append(f"{worst} is off most, {off} on average")
        panels.append(_species(residual_N[known], species, bias, unit))
    absent = [name for name in ("Sampling_Date", "Height_Ave_cm", "Pre_GSHH_NDVI", "Species") if name not in quadrats]
    note = f"This study has no {', '.join(absent)}. " if absent else ""
    return Figure(
        title=f"Errors of the {target}"
        + (f": {findings[0]}" if findings else " against what is known of each quadrat"),
        how="Up is predicted too high, down too low. The line is the mean of neighbouring quadrats: where it leaves "
        "zero, the error is systematic and more data or another model could remove it. No model reads these columns; "
        "they only explain its errors.",
        panels=tuple(panels),
        note=note + left_note(context),
        across=2,
        legend=legend("state", sorted(state_of(context).unique())),
    )


def _trend(context: ReportContext, residual_N: FloatArray, values: Any, title: str, caption: str) -> Panel:
    """Residuals over a number or a date, with the mean of eight bins."""
    series = pd.Series(np.asarray(values))
    dates = pd.api.types.is_datetime64_any_dtype(series)
    states, state_N = sorted(state_of(context).unique()), state_of(context)
    ids = context.study.quadrats["image_id"]
    known = series.notna().to_numpy() & np.isfinite(residual_N)
    shown = [row for row in drawn_rows(context) if known[row]]

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
    y = alt.Y("residual:Q", title=f"predicted − measured [{context.unit}]")
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


def _species(residual_N: FloatArray, species_N: pd.Series, bias: pd.DataFrame, unit: str) -> Panel:
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
    x = alt.X("residual:Q", title=f"predicted − measured [{unit}]")
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


def drawn_rows(context: ReportContext) -> list[int]:
    """Rows that are drawn: all of them, or as many as a page can hold, evenly chosen."""
    images = len(context.scorer.truth_NT)
    return list(range(0, images, -(-images // MOST_IMAGES)))


def state_of(context: ReportContext) -> pd.Series:
    quadrats = context.study.quadrats
    return quadrats["State"].astype(str) if "State" in quadrats else pd.Series(["all"] * len(quadrats))


def left_note(context: ReportContext) -> str:
    drawn, images = len(drawn_rows(context)), len(context.scorer.truth_NT)
    return f"Drawn are {drawn} of {count(images, 'image')}." if drawn < images else ""
