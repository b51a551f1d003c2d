"""Photographs as if a camera had printed a date on them, and somebody had marked spots: drawn on copies to learn from.

B pictures [B, 3, H, W] in [0, 1]. Places are fractions of the frame's height; a frame is 2 wide and 1 high, and a view
shows the part of it that lies in the view's box.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

FRAME = (2.0, 1.0)  # width and height
ORANGE = (1.0, 0.54, 0.12)
RED = (0.86, 0.08, 0.08)
DATE = "88 88 8888"  # 8 stands for any digit
STROKE, WIDTH, STEP, BLANK = (
    0.14,
    0.6,
    0.85,
    0.5,
)  # in heights of the line: a digit, the next, a blank
MOST_DOTS = 8
# strokes of a seven-segment digit in the order: top, upper left, upper right, middle, lower left, lower right, bottom
_STROKES = (
    "1110111",
    "0010010",
    "1011101",
    "1011011",
    "0111010",
    "1101011",
    "1101111",
    "1010010",
    "1111111",
    "1111011",
)
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


def stamped(image_BCHW: Tensor, box: tuple[float, ...], draws: torch.Generator) -> Tensor:
    """The pictures with one drawn date at the bottom right of the frame, in orange, and some red dots.

    box: what the pictures show, as fractions of the frame. The same draws give the same marks on every view.
    """
    height, width = image_BCHW.shape[2:]
    left, top, right, bottom = (side * FRAME[place % 2] for place, side in enumerate(box))
    pixel_x, pixel_y = (right - left) / width, (bottom - top) / height
    x_W = left + pixel_x * torch.arange(width, dtype=torch.float64)  # left edges of the pixels
    y_H = top + pixel_y * torch.arange(height, dtype=torch.float64)

    ink_HW = torch.zeros(height, width, dtype=torch.float64)
    for rectangle in _date(draws):
        ink_HW += _covered(y_H, pixel_y, rectangle[1::2])[:, None] * _covered(x_W, pixel_x, rectangle[0::2])
    painted = _painted(image_BCHW, ink_HW, ORANGE)

    dot_HW = torch.zeros(height, width, dtype=torch.float64)
    for _ in range(int(torch.randint(1, MOST_DOTS + 1, (), generator=draws))):
        x, y, radius = (_uniform(draws, *ends) for ends in ((0, FRAME[0]), (0, FRAME[1]), (0.006, 0.018)))
        apart_HW = torch.hypot(y_H[:, None] + pixel_y / 2 - y, x_W + pixel_x / 2 - x)
        dot_HW = torch.maximum(dot_HW, ((radius - apart_HW) / max(pixel_x, pixel_y) + 0.5).clamp(0, 1))
    return _painted(painted, dot_HW, RED)


def _date(draws: torch.Generator) -> list[Rectangle]:
    """The strokes of a date of drawn size, place and digits; none lies over another."""
    line = _uniform(draws, 0.03, 0.06)
    bottom, end = _uniform(draws, 0.92, 0.97), _uniform(draws, 1.86, 1.96)
    place_N = list(accumulate((BLANK if sign == " " else STEP for sign in DATE[:-1]), initial=0.0))
    start = end - line * (place_N[-1] + WIDTH)
    found = []
    for place, sign in zip(place_N, DATE, strict=True):
        if sign == " ":
            continue
        shown = _STROKES[int(torch.randint(10, (), generator=draws))]
        found += [
            (start + line * (place + left), bottom - line * (1 - top),
             start + line * (place + right), bottom - line * (1 - low))
            for (left, top, right, low), drawn in zip(_segments(), shown, strict=True) if drawn == "1"
        ]  # fmt: skip
    return found


def _segments() -> list[Rectangle]:
    """The seven strokes in a digit that is WIDTH wide and 1 high."""
    far, middle = WIDTH - STROKE, (1 - STROKE) / 2
    upper, lower = (STROKE, middle), (middle + STROKE, 1 - STROKE)
    return [
        (0, 0, WIDTH, STROKE),
        *((side, upper[0], side + STROKE, upper[1]) for side in (0, far)),
        (0, middle, WIDTH, middle + STROKE),
        *((side, lower[0], side + STROKE, lower[1]) for side in (0, far)),
        (0, 1 - STROKE, WIDTH, 1),
    ]


def _covered(edge_N: Tensor, pixel: float, ends: tuple[float, ...]) -> Tensor:
    """Share of each pixel that lies between two ends."""
    return ((edge_N + pixel).clamp(max=ends[1]) - edge_N.clamp(min=ends[0])).clamp(min=0) / pixel


def _painted(image_BCHW: Tensor, ink_HW: Tensor, colour: tuple[float, float, float]) -> Tensor:
    return torch.lerp(image_BCHW, torch.tensor(colour).to(image_BCHW)[:, None, None], ink_HW.clamp(0, 1).to(image_BCHW))


def _uniform(draws: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=draws, dtype=torch.float64))
