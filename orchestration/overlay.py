"""What a model says of places in a photograph, in colours over the grey photograph, with the scale below.

Pixels are uint8 RGB [height, width, 3]. A map has a box in the photograph: left, top, right, bottom as fractions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from biomass_models.data.images import views_for
from biomass_models.targets import FloatArray

Pixels = NDArray[np.uint8]
G_PER_M2 = "g/m2"
WHOLE = (0.0, 0.0, 1.0, 1.0)
# Ten steps of viridis (Smith and van der Walt, CC0): even steps look even, also in grey and to the colour-blind
VIRIDIS = np.array(
    [[68, 1, 84], [72, 40, 120], [62, 73, 137], [49, 104, 142], [38, 130, 142],
     [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]],
    dtype=np.float64,
)  # fmt: skip
FAINT, STRONG = 0.45, 0.7  # how much of a place is colour where the map is 0, and where it is at the end of the scale
GREY = np.array([0.299, 0.587, 0.114])  # luminance of RGB
GREYS = (50.0, 210.0)  # darkest and brightest luminance
BAR = 26  # px, height of the scale below a picture


class Placed(NamedTuple):
    """A map and its place in the photograph."""

    box: tuple[float, float, float, float]
    map_HW: FloatArray
    label: str = ""  # written into its corner, and the box is outlined


def tile_boxes(names: Collection[str]) -> dict[str, tuple[float, float, float, float]]:
    """Boxes of views that tile the photograph, by the names that data.images.views_for gives them: halves or tiles.

    Empty for other views.
    """
    places = [re.fullmatch(r"tile-r(\d+)-c(\d+)", name) for name in names]
    tiles = [(int(place[1]) + 1, int(place[2]) + 1) for place in places if place]
    layout = "halves" if set(names) == {"left", "right"} else "whole"
    if tiles:
        rows, columns = (max(sides) for sides in zip(*tiles, strict=True))
        layout = f"tiles-{rows}x{columns}"
    return {view.name: view.box for view in views_for(layout, 1) if view.name in names}


def scale_end(largest: float) -> float:
    """End of a scale that begins at 0: the first of 1, 1.5, 2, 3, 4, 5, 6, 8, 10, ... not below the largest value."""
    if not largest > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= largest * (1 - 1e-9))


def colours(share: FloatArray) -> FloatArray:
    """RGB [..., 3] of numbers from 0 to 1."""
    place = np.clip(share, 0.0, 1.0) * (len(VIRIDIS) - 1)
    steps = np.arange(len(VIRIDIS))
    return np.stack([np.interp(place, steps, channel) for channel in VIRIDIS.T], axis=-1)


def overlaid(photograph: Pixels, places: Sequence[Placed], end: float) -> Pixels:
    """The photograph in grey, and colours of the maps over it; end: the value of the last colour. Where no map lies the
    photograph stays grey."""
    height, width = photograph.shape[:2]
    grey_HW1 = _grey(photograph)[..., None]
    out = np.repeat(grey_HW1, 3, axis=-1)
    edges = []
    for one in places:
        left, top, right, bottom = one.box
        x0, x1 = round(left * width), round(right * width)
        y0, y1 = round(top * height), round(bottom * height)
        small = Image.fromarray((one.map_HW / end).astype(np.float32))
        share_HW = np.asarray(small.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)).astype(np.float64).clip(0, 1)
        part = (FAINT + (STRONG - FAINT) * share_HW)[..., None]
        out[y0:y1, x0:x1] = (1 - part) * grey_HW1[y0:y1, x0:x1] + part * colours(share_HW)
        edges.append((x0, y0, x1 - 1, y1 - 1))
    picture = Image.fromarray(out.clip(0, 255).astype(np.uint8))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for one, edge in zip(places, edges, strict=True):
        if one.label:
            pen.rectangle(edge, outline="white", width=2)
            where = (edge[0] + 5, edge[1] + 3)
            pen.text(where, one.label, fill="white", font=font, stroke_width=2, stroke_fill="black")
    return np.asarray(picture)


def _grey(photograph: Pixels) -> FloatArray:
    """Luminance [height, width], always in the range GREYS: colours neither hide a photograph nor drown in it."""
    grey_HW: FloatArray = photograph @ GREY
    low, high = np.percentile(grey_HW, (1, 99))
    share_HW = (grey_HW - low) / (high - low) if high > low else np.full_like(grey_HW, 0.5)
    return GREYS[0] + share_HW.clip(0, 1) * (GREYS[1] - GREYS[0])


def with_scale(picture: Pixels, title: str, end: float, unit: str) -> Pixels:
    """The picture, and below it a title and the colours from 0 to `end` with their unit."""
    width = picture.shape[1]
    strip = Image.new("RGB", (width, BAR), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    text = f"{end:g} {unit}"
    right = width - round(pen.textlength(text, font=font)) - 2
    bar = max(10, min(160, width // 3))
    left = right - 6 - bar
    zero = left - 6 - round(pen.textlength("0", font=font))
    pen.text((2, 5), title, fill="black", font=font)
    pen.text((zero, 5), "0", fill="black", font=font)
    pen.text((right, 5), text, fill="black", font=font)
    steps = colours(np.linspace(0, 1, bar)).astype(np.uint8)
    strip.paste(Image.fromarray(np.repeat(steps[None], BAR - 12, axis=0)), (left, 6))
    return np.concatenate([picture, np.asarray(strip)])
