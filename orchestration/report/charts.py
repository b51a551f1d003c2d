"""What all charts share: colours, scales, and the way from an altair chart to a panel.

Colours are the page's CSS variables, so that light, dark and print need no second drawing. Where a scale has to mix
colours the variables cannot be used: RAMP is dark enough for a white page and light enough for a dark one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from orchestration.report.html import Html, Panel, tag

RAMP = ("#b9500f", "#94826f", "#2a83d4")  # low, middle, high: orange to blue, told apart by colour-blind eyes
COLOURS = tuple(f"var(--c{number})" for number in range(1, 7))
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
INK, SOFT, GRID = "var(--ink)", "var(--soft)", "var(--grid)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

CONFIG: dict[str, Any] = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT, "titleColor": SOFT, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500,
        "gridColor": GRID, "domainColor": GRID, "tickColor": GRID, "labelLimit": 220, "titlePadding": 8,
    },
    "legend": {
        "labelColor": SOFT, "titleColor": SOFT, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500,
        "orient": "top", "symbolSize": 90, "labelLimit": 220, "titleLimit": 300, "columns": 4,
    },
    "axisX": {"labelOverlap": "greedy", "labelSeparation": 6},
    "text": {"color": INK, "fontSize": 12},
    "rule": {"color": SOFT},
    "range": {"category": list(COLOURS), "symbol": list(SHAPES)},
}  # fmt: skip


def data(records: Sequence[dict[str, Any]]) -> alt.Data:
    """Inline values, floats with the digits that a drawing can show."""
    return alt.Data(values=[{key: _short(value) for key, value in record.items()} for record in records])


def panel(
    chart: alt.TopLevelMixin, *, height: int, caption: object = "", least_width: int = 0, wide: bool = False
) -> Panel:
    """A chart as wide as its place on the page."""
    sized = chart.properties(width="container", height=height)
    spec = sized.to_dict(validate=False)  # checked by a test: it takes as long as all else together
    for key in ("$schema", "config"):
        spec.pop(key, None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return Panel(spec=spec, caption=caption, least_width=least_width, wide=wide)


def colour(field: str, names: Sequence[str], title: str | None, *, legend: bool = True) -> alt.Color:
    """Colour of a category; the same names in the same order have the same colours in every chart."""
    return alt.Color(f"{field}:N", scale=_cycle(names, COLOURS), legend=alt.Legend(title=title) if legend else None)


def shape(field: str, names: Sequence[str]) -> alt.Shape:
    """Shape of a category, beside its colour: nobody should have to rely on hue."""
    return alt.Shape(f"{field}:N", scale=_cycle(names, SHAPES), legend=None)


def legend(title: str, names: Sequence[str]) -> Html:
    """One legend for all panels of a figure, of `colour` and `shape` with the same names."""
    entries = [
        tag("li", tag("svg", _symbol(index), viewBox="-8 -8 16 16", aria_hidden="true"), name)
        for index, name in enumerate(names)
    ]
    return tag("ul", tag("li", f"{title}:"), *entries, class_="legend")


def _cycle(names: Sequence[str], over: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[over[index % len(over)] for index in range(len(names))])


def _symbol(index: int) -> Html:
    paths = {
        "circle": "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0",
        "square": "M-4.5,-4.5h9v9h-9z",
        "triangle-up": "M0,-5.5L5.5,4.5H-5.5z",
        "diamond": "M0,-6L4.5,0L0,6L-4.5,0z",
        "cross": "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
        "triangle-down": "M0,5.5L5.5,-4.5H-5.5z",
    }
    return tag("path", d=paths[SHAPES[index % len(SHAPES)]], style=f"fill:{COLOURS[index % len(COLOURS)]}")


def ramp_colour(share: float) -> str:
    """The colour of RAMP at 0 .. 1, mixed in RGB as Vega does with `interpolate: rgb`."""
    place = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    pairs = zip(_rgb(RAMP[low]), _rgb(RAMP[low + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - low)):02x}" for a, b in pairs)


def ink_on(background: str) -> str:
    """Black or white, whichever is easier to read on a colour."""
    light = luminance(background)
    return "#000000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#ffffff"


def luminance(hexadecimal: str) -> float:
    """Relative luminance of a colour `#rrggbb` as WCAG 2 defines it, 0 .. 1."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in map(_unit, _rgb(hexadecimal))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _unit(channel: int) -> float:
    return channel / 255


def _rgb(hexadecimal: str) -> tuple[int, int, int]:
    return int(hexadecimal[1:3], 16), int(hexadecimal[3:5], 16), int(hexadecimal[5:7], 16)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
