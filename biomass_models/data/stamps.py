"""The orange date stamp that some cameras print at the bottom right: found and painted over.

Numpy only. Pixels are uint8 RGB [height, width, 3]; boxes are (left, top, right, bottom) px, the last two excluded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CORNER = (0.55, 0.75)  # a stamp lies right of and below these fractions of the image
_HEIGHT = (0.012, 0.09)  # of a line of digits, as a fraction of the image's height
_ASPECT = (2.5, 16.0)  # width over height of a date
_FILL = (0.08, 0.75)  # share of a date's box that is ink
_GLYPHS = 4  # at least so many runs of inked columns: a flower or an autumn leaf has one


def find_date_stamp(rgb: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """The box of an orange date at the bottom right of an image, or None when there is none."""
    height, width = rgb.shape[:2]
    x0, y0 = int(_CORNER[0] * width), int(_CORNER[1] * height)
    ink = _is_orange(rgb[y0:, x0:])
    rows = _densest_run(ink.sum(1), gap=max(1, height // 200))
    if rows is None:
        return None
    top, bottom = rows
    line_height = bottom - top
    columns = _densest_run(ink[top:bottom].sum(0), gap=int(1.5 * line_height))
    if columns is None:
        return None
    left, right = columns
    date = ink[top:bottom, left:right]
    inked = date.any(0).astype(np.int8)
    is_date = (
        _HEIGHT[0] * height <= line_height <= _HEIGHT[1] * height
        and _ASPECT[0] <= (right - left) / line_height <= _ASPECT[1]
        and _FILL[0] <= date.mean() <= _FILL[1]
        and int((np.diff(inked, prepend=0) == 1).sum()) >= _GLYPHS
    )
    return (x0 + left, y0 + top, x0 + right, y0 + bottom) if is_date else None


def paint_out_stamp(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy in which the stamp's pixels show the sward just above it; without a stamp, the very same pixels."""
    box = find_date_stamp(rgb)
    if box is None:
        return rgb.copy()
    height, width = rgb.shape[:2]
    margin = 2 + height // 250  # the glow that JPEG leaves around the strokes
    left, top = max(box[0] - margin, 0), max(box[1] - margin, 0)
    right, bottom = min(box[2] + margin, width), min(box[3] + margin, height)
    ink = _grown(_is_orange(rgb[top:bottom, left:right]), margin)
    lift = bottom - top  # the stamp lies in the lowest quarter, so there is always as much above it
    painted = rgb.copy()
    painted[top:bottom, left:right][ink] = rgb[top - lift : bottom - lift, left:right][ink]
    return painted


def _is_orange(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Glowing orange: bright red, middling green, hardly any blue. Straw has more blue, soil less red."""
    red, green, blue = (rgb[..., channel].astype(np.int16) for channel in range(3))
    return (red >= 190) & (red - blue >= 110) & (red - green >= 35) & (green - blue >= 15)


def _densest_run(count: NDArray[np.int64], gap: int) -> tuple[int, int] | None:
    """[start, end) of the heaviest stretch of entries above a tenth of the peak, bridging holes of up to `gap`."""
    if not len(count) or count.max() < 3:
        return None
    above = np.flatnonzero(count >= max(1, 0.1 * count.max()))
    stretches = np.split(above, np.flatnonzero(np.diff(above) > gap + 1) + 1)
    heaviest = max(stretches, key=lambda stretch: count[stretch].sum())
    return int(heaviest[0]), int(heaviest[-1]) + 1


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The mask widened by `by` px in the four directions and their corners."""
    padded = np.pad(mask, by)
    down = np.zeros((mask.shape[0], padded.shape[1]), dtype=bool)
    for step in range(2 * by + 1):
        down |= padded[step : step + mask.shape[0]]
    across = np.zeros_like(mask)
    for step in range(2 * by + 1):
        across |= down[:, step : step + mask.shape[1]]
    return across
