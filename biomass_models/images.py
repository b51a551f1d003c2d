"""Photographs to arrays: decoded once, no larger than needed, cut into views.

Pixels are uint8 RGB [height, width, 3]; x runs right and y down; boxes are (left, top, right, bottom).
Fractions of the whole upright image place a view, so one layout serves photographs of every size.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from biomass_models.errors import UserError
from biomass_models.stamps import find_date_stamp as find_date_stamp
from biomass_models.stamps import paint_out_stamp as paint_out_stamp

RgbArray = NDArray[np.uint8]
Stamp = Literal["keep", "remove"]

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")  # a closed list: PIL would hand PostScript to another program
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that swap width and height
_GAP = 2.0  # a draft keeps this many times the pixels asked for, so that the resize filter sets the result
_STAMP_WIDTH = 1000  # px; strokes of a date stamp are lost in smaller drafts


class ImageError(UserError):
    """A file that is not a whole photograph; `args` are the rule, what was got, and the remedy."""

    def __str__(self) -> str:
        rule, got, remedy = self.args
        return f"{rule}; got {got}; {remedy}"


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A part of the photograph and the size at which a network sees it."""

    name: str  # where the part lies: whole, left, top-right, tile-r0-c1
    box: tuple[float, float, float, float]  # left, top, right, bottom as fractions of the whole image
    height: int  # px, output
    width: int  # px, output

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(f"a view's box is left < right and top < bottom within [0, 1], got {self.box}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a view is at least 1 x 1 px, got {self.width} x {self.height}")


def views_for(layout: str, size: int, *, crop: tuple[float, float] = (0.112, 0.224)) -> tuple[View, ...]:
    """Square views of size x size px: `whole`, `halves` (left, right), `corners4` (whole, four corners), `tiles-RxC`.

    crop: width and height of a corner as fractions of the image; the default is 224 px of 2000 x 1000 (SPEC 5).
    """
    tiles = re.fullmatch(r"tiles-([1-9]\d?)x([1-9]\d?)", layout)
    boxes: dict[str, tuple[float, float, float, float]]
    if layout == "whole":
        boxes = {"whole": (0, 0, 1, 1)}
    elif layout == "halves":
        boxes = {"left": (0, 0, 0.5, 1), "right": (0.5, 0, 1, 1)}
    elif layout == "corners4":
        across, down = crop
        boxes = {
            "whole": (0, 0, 1, 1),
            "top-left": (0, 0, across, down),
            "top-right": (1 - across, 0, 1, down),
            "bottom-left": (0, 1 - down, across, 1),
            "bottom-right": (1 - across, 1 - down, 1, 1),
        }
    elif tiles:
        rows, columns = int(tiles[1]), int(tiles[2])
        boxes = {
            f"tile-r{r}-c{c}": (c / columns, r / rows, (c + 1) / columns, (r + 1) / rows)
            for r in range(rows)
            for c in range(columns)
        }
    else:
        raise UserError(f"a layout is whole, halves, corners4 or tiles-RxC (such as tiles-2x4), got {layout!r}")
    return tuple(View(name=name, box=box, height=size, width=size) for name, box in boxes.items())


class Load(Protocol):
    """What `load_views` does."""

    def __call__(self, path: Path, views: Sequence[View], *, stamp: Stamp = "keep") -> list[RgbArray]: ...


def load_views(path: Path, views: Sequence[View], *, stamp: Stamp = "keep") -> list[RgbArray]:
    """The views of one photograph, each uint8 [height, width, 3]; decoded once and turned upright.

    JPEGs are decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 that leaves every view twice its size, then
    resized with an antialiased bicubic filter. stamp "remove" paints an orange date stamp over first.
    Raises ImageError.
    """
    return _views_of(path, views, stamp, _decode)


class DecodeOnce:
    """A `load_views` that keeps what it decodes, for many models over the same few photographs.

    A file is decoded once for each scale at which views ask for it: a smaller draft is not a larger one resized, and
    a model must see the very pixels that it was trained on. Drop the object to free its memory (6 MB a photograph of
    2000 x 1000 px at full scale).
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, tuple[int, int]], Image.Image] = {}
        self.decoded = 0  # files, times scales

    def __call__(self, path: Path, views: Sequence[View], *, stamp: Stamp = "keep") -> list[RgbArray]:
        """As load_views."""
        return _views_of(path, views, stamp, self._decode)

    def _decode(self, path: Path, width: int, height: int) -> Image.Image:
        with _open(path) as image:
            _draft(image, width, height)
            key = (path, image.size)
            if key not in self._kept:
                self._kept[key] = _loaded(image, path)
                self.decoded += 1
        return self._kept[key]


def _views_of(
    path: Path, views: Sequence[View], stamp: Stamp, decode: Callable[[Path, int, int], Image.Image]
) -> list[RgbArray]:
    if not views:
        raise ValueError("at least one view is needed, got none")
    needed_width = max(view.width / (view.box[2] - view.box[0]) for view in views)
    needed_height = max(view.height / (view.box[3] - view.box[1]) for view in views)
    if stamp == "remove":
        needed_width = max(needed_width, _STAMP_WIDTH / _GAP)
    image = decode(path, math.ceil(needed_width * _GAP), math.ceil(needed_height * _GAP))
    if stamp == "remove":
        image = Image.fromarray(paint_out_stamp(np.asarray(image)))
    return [_cut(image, view) for view in views]


def probe_image(path: Path) -> tuple[int, int]:
    """Width and height in px of the upright photograph, all of which has been decoded. Raises ImageError."""
    with _open(path) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION) in _TURNED
        image.draft(None, (1, 1))
        _load(image, path)
    return (height, width) if turned else (width, height)


def file_digest(path: Path) -> str:
    """Hash of a file's content: 32 hex digits of BLAKE2b."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _decode(path: Path, width: int, height: int) -> Image.Image:
    """The upright RGB photograph, at least width x height px where the file has as many."""
    with _open(path) as image:
        _draft(image, width, height)
        return _loaded(image, path)


def _draft(image: Image.Image, width: int, height: int) -> None:
    """Ask a JPEG for the smallest scale that is at least width x height px when upright."""
    turned = image.getexif().get(_ORIENTATION) in _TURNED
    image.draft(None, (height, width) if turned else (width, height))


def _loaded(image: Image.Image, path: Path) -> Image.Image:
    _load(image, path)
    return ImageOps.exif_transpose(image).convert("RGB")


def _open(path: Path) -> Image.Image:
    try:
        if not Path(path).is_file():  # opening a pipe or a device would wait for ever
            raise ImageError("a photograph is needed", f"no file {path}", "check image_path and the folder")
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as reason:
        raise ImageError(
            f"a photograph is one of {', '.join(FORMATS)}", f"another file {path}", "export it"
        ) from reason
    except (OSError, SyntaxError, Image.DecompressionBombError) as reason:
        raise ImageError("a photograph can be opened", f"{path} ({reason})", "copy or export it again") from reason


def _load(image: Image.Image, path: Path) -> None:
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as reason:
        raise ImageError("a photograph is whole", f"{path} ({reason})", "copy it again") from reason


def _cut(image: Image.Image, view: View) -> RgbArray:
    left, top, right, bottom = view.box
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    # no reducing_gap: its pre-reduction aliases patterns as fine as a pixel
    resized = image.resize((view.width, view.height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized)
