"""What the errors depend on: predicted minus measured total against what is known of each quadrat.

N images; residual_N in the user's unit, NaN where the mass was not measured.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from biomass_models.data.quadrats import further_columns
from biomass_models.targets import TARGETS, FloatArray
from orchestration.report.charts import SOFT, colour, data, legend, panel, shape
from orchestration.report.data.context import ReportContext
from orchestration.report.data.scorer import binned_mean
from orchestration.report.html import Figure, Panel
from orchestration.report.words import SHORT, count, listed, mass

MOST_IMAGES = 3000  # drawn one by one
MOST_VALUES = 20  # different texts of a column
MOST_COLUMNS = 8  # of a user's table that are drawn
LONGEST = 60  # characters of a column's name
BLANK = "(blank)"


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
        panels.append(_by_value(residual_N[known], species, unit, "Species"))
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


def _by_value(residual_N: FloatArray, value_N: pd.Series, unit: str, caption: str) -> Panel:
    """Residuals beside each text that a column holds: a tick an image, and their mean."""
    bias = pd.Series(residual_N).groupby(value_N.to_numpy()).agg(["mean", "std", "size"])
    order = list(bias.sort_values("size", ascending=False).index[:MOST_VALUES])
    order.sort(key=lambda name: float(bias["mean"][name]))
    rows = [
        {"value": name, "residual": float(residual)}
        for name, residual in zip(value_N, residual_N, strict=True)
        if name in order
    ][:MOST_IMAGES]
    means = [
        {
            "value": name,
            "residual": float(bias["mean"][name]),
            "sd": float(bias["std"][name]),
            "images": int(bias["size"][name]),
        }
        for name in order
    ]
    y = alt.Y("value:N", sort=order, title=None, axis=alt.Axis(labelLimit=280))
    x = alt.X("residual:Q", title=f"predicted − measured [{unit}]")
    ticks = alt.Chart(data(rows)).mark_tick(thickness=1.5, color="var(--c1)", opacity=0.5).encode(x=x, y=y)
    dots = alt.Chart(data(means)).mark_point(filled=True, size=60, shape="diamond", color="var(--ink)", opacity=1)
    shown = ["value:N", "images:Q", alt.Tooltip("residual:Q", format="+.1f"), alt.Tooltip("sd:Q", format=".1f")]
    zero = alt.Chart(data([{"residual": 0.0}])).mark_rule(color=SOFT, strokeDash=[4, 3]).encode(x=x)
    left = f", {MOST_VALUES} most frequent" if len(bias) > MOST_VALUES else ""
    return panel(
        alt.layer(zero, ticks, dots.encode(x=x, y=y, tooltip=shown)),
        height=max(80, 22 * len(order)),
        caption=f"{caption}, diamonds: mean{left}",
        least_width=560,
        wide=True,
    )


def further_figure(context: ReportContext) -> Figure | None:
    """Predicted minus measured total against the columns that a user's table has beside those that it has to have."""
    assert context.shown is not None
    quadrats, unit = context.study.quadrats, context.unit
    residual_N = (context.in_unit(context.shown.pred_NT) - context.in_unit(context.scorer.truth_NT))[:, context.main]
    known_N = np.isfinite(residual_N)
    panels, left_out = list[Panel](), list[str]()
    for column in further_columns(quadrats):
        cells, name = quadrats[column], column if len(column) <= LONGEST else f"{column[:LONGEST]}..."
        known = cells[known_N].dropna()
        if len(panels) == MOST_COLUMNS or known.nunique() < 2:
            left_out.append(name)
        elif pd.api.types.is_numeric_dtype(cells):
            panels.append(_trend(context, residual_N, cells, name, name))
        elif known.nunique() <= MOST_VALUES:
            panels.append(_by_value(residual_N[known_N], cells[known_N].replace("", BLANK), unit, name))
        else:
            left_out.append(name)
    if not panels:
        return None
    note = f"Not drawn: {listed(left_out, MOST_COLUMNS)}. " if left_out else ""
    rule = f"Drawn are the first {MOST_COLUMNS} columns of numbers, or of 2 to {MOST_VALUES} different texts. "
    return Figure(
        title=f"Errors of the {SHORT[TARGETS[context.main]]} against further columns of the table",
        how="As above, against what the table holds beside what models and folds use: a column that the errors follow "
        "says where another measurement or model could help. With many columns one or another looks related by chance.",
        panels=tuple(panels),
        note=(note + rule if left_out else "") + left_note(context),
        across=2,
        legend=legend("state", sorted(state_of(context).unique())),
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
