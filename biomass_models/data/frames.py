"""The frame that views are cut from: what becomes of a photograph that is not twice as long as high.

stretch   the whole photograph, whatever its shape (published, for photographs of 2000 x 1000 px)
crop      its largest centred part of 2 : 1
pad       all of it, centred in the smallest frame of 2 : 1; the rest is the photograph's own mean colour

Under crop and pad a portrait lies on its left side first (its top is the left half): a sward seen from above has no up,
and every view is squeezed along the longer side. A photograph of 2 : 1 is the same under all three, to the byte.
Sizes are (width, height) in px of the upright photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from biomass_models.data.images import View

Fit = Literal["stretch", "crop", "pad"]
FITS: tuple[Fit, ...] = get_args(Fit)
SHAPE = 2  # long side over short side of a frame
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")  # views of native size, at the photograph's corners


def is_turned(size: tuple[int, int], fit: Fit) -> bool:
    """Whether the photograph is turned by a quarter: a portrait, unless it is stretched."""
    return fit != "stretch" and size[1] > size[0]


def frame_size(size: tuple[int, int], fit: Fit) -> tuple[float, float]:
    """Width and height in px of the photograph's frame."""
    if fit == "stretch":
        return size
    width, height = max(size), min(size)
    longer = min(width, SHAPE * height) if fit == "crop" else max(width, SHAPE * height)
    return longer, longer / SHAPE


def hidden_share(size: tuple[int, int], fit: Fit) -> float:
    """Share of the photograph's area that no view shows."""
    if fit != "crop":
        return 0.0
    width, height = frame_size(size, fit)
    return 1 - width * height / (size[0] * size[1])


def decoded_size(size: tuple[int, int], fit: Fit, width: float, height: float) -> tuple[float, float]:
    """Width and height in px that the upright photograph needs, for its frame to have width x height px."""
    own = (max(size), min(size)) if fit != "stretch" else size
    framed = frame_size(size, fit)
    needed = (width * (own[0] / framed[0]), height * (own[1] / framed[1]))  # to the bit, where the two are equal
    return (needed[1], needed[0]) if is_turned(size, fit) else needed


def framed(image: Image, size: tuple[int, int], fit: Fit) -> Image:
    """The frame of an upright RGB photograph; size: of the file, of which `image` may be a smaller draft."""
    from PIL import Image as pillow  # here, because every command loads the names of the fits

    if is_turned(size, fit):
        image = image.transpose(pillow.Transpose.ROTATE_90)
    own, (width, height) = (max(size), min(size)), frame_size(size, fit)
    if fit == "stretch" or (width, height) == own:
        return image
    scaled = (round(width * image.width / own[0]), round(height * image.height / own[1]))
    left, top = (image.width - scaled[0]) // 2, (image.height - scaled[1]) // 2
    if fit == "crop":
        return image.crop((left, top, left + scaled[0], top + scaled[1]))
    red, green, blue = np.asarray(image, dtype=np.float64).mean(axis=(0, 1)).round().astype(int).tolist()
    canvas = pillow.new("RGB", scaled, (red, green, blue))
    canvas.paste(image, (-left, -top))
    return canvas


def placed(views: Sequence[View], size: tuple[int, int], fit: Fit) -> list[View]:
    """The views where they lie in the photograph's frame.

    Padding has no corners: those of the photograph count, and its own long side as the 2000 px of native views.
    """
    width, height = frame_size(size, fit)
    own = (max(size), min(size))
    if fit != "pad" or (width, height) == own:
        return list(views)
    across, down = own[0] / width, own[1] / height  # of the frame that the photograph covers

    def corner(view: View) -> View:
        shown = [min((view.box[2] - view.box[0]) * across, across), min((view.box[3] - view.box[1]) * across, down)]
        vertical, horizontal = view.name.split("-")
        left = (1 - across) / 2 if horizontal == "left" else (1 + across) / 2 - shown[0]
        top = (1 - down) / 2 if vertical == "top" else (1 + down) / 2 - shown[1]
        return replace(view, box=(max(left, 0.0), max(top, 0.0), min(left + shown[0], 1.0), min(top + shown[1], 1.0)))

    return [corner(view) if view.name in CORNERS else view for view in views]
