"""Photographs to arrays: decoded once, no larger than needed, cut into views.

Pixels are uint8 RGB [height, width, 3]; x runs right and y down; boxes are (left, top, right, bottom).
Fractions of the whole upright image, or of its frame (frames.py), place a view, so one layout serves photographs of
every size.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from biomass_models.data import frames
from biomass_models.data.frames import Fit
from biomass_models.data.stamps import find_date_stamp as find_date_stamp
from biomass_models.data.stamps import paint_out_stamp as paint_out_stamp
from biomass_models.errors import UserError

RgbArray = NDArray[np.uint8]
Size = tuple[int, int]  # width and height in px of an upright photograph
Needed = Callable[[Size], Size]  # the least size at which a file of a size may be decoded
Stamp = Literal["keep", "remove"]

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")  # a closed list: PIL would hand PostScript to another program
HEIF = "HEIF"  # of phones, .heic too; read where pillow-heif is installed
_EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")  # PIL's modes
_DEEPEST = 65535  # of a channel of 16 bits
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that swap width and height
_UPRIGHT = {  # by the tag's value, what turns a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BROKEN = (  # what PIL raises for files that are torn or badly written
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, ArithmeticError),
    *(AttributeError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)
_FRAME_GROWTH = 4  # a square of as many pixels as PIL decodes, twice its MAX_IMAGE_PIXELS, has a padded frame of these
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257  # tags of a TIFF's header
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
    box: tuple[float, float, float, float]  # left, top, right, bottom as fractions of the photograph's frame
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

    crop: width and height of a corner as fractions of the image; the default is 224 px of 2000 x 1000.
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

    def __call__(
        self, path: Path, views: Sequence[View], *, stamp: Stamp = "keep", fit: Fit = "stretch"
    ) -> list[RgbArray]: ...


def load_views(path: Path, views: Sequence[View], *, stamp: Stamp = "keep", fit: Fit = "stretch") -> list[RgbArray]:
    """The views of one photograph, each uint8 [height, width, 3]; decoded once and turned upright.

    JPEGs are decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 that leaves every view twice its size, then
    resized with an antialiased bicubic filter. stamp "remove" paints an orange date stamp over first; fit: what the
    views are cut from (frames.py). Raises ImageError.
    """
    return _views_of(path, views, stamp, fit, _decode)


class DecodeOnce:
    """A `load_views` that keeps what it decodes, for many models over the same few photographs.

    A file is decoded once for each scale at which views ask for it: a smaller draft is not a larger one resized, and
    a model must see the very pixels that it was trained on. Drop the object to free its memory (6 MB a photograph of
    2000 x 1000 px at full scale).
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, tuple[int, int]], Image.Image] = {}
        self.decoded = 0  # files, times scales

    def __call__(
        self, path: Path, views: Sequence[View], *, stamp: Stamp = "keep", fit: Fit = "stretch"
    ) -> list[RgbArray]:
        """As load_views."""
        return _views_of(path, views, stamp, fit, self._decode)

    def _decode(self, path: Path, needed: Needed) -> tuple[Image.Image, Size]:
        with open_photograph(path) as image:
            size = _draft(image, path, needed)
            key = (path, image.size)
            if key not in self._kept:
                self._kept[key] = upright_rgb(image, path)
                self.decoded += 1
        return self._kept[key], size


def _views_of(
    path: Path,
    views: Sequence[View],
    stamp: Stamp,
    fit: Fit,
    decode: Callable[[Path, Needed], tuple[Image.Image, Size]],
) -> list[RgbArray]:
    if not views:
        raise ValueError("at least one view is needed, got none")

    def needed(size: Size) -> Size:
        require_frame(size, fit, path)
        parts = frames.placed(views, size, fit)
        width = max(view.width / (view.box[2] - view.box[0]) for view in parts)
        height = max(view.height / (view.box[3] - view.box[1]) for view in parts)
        width, height = frames.decoded_size(size, fit, width, height)
        if stamp == "remove":
            width = max(width, _STAMP_WIDTH / _GAP)
        return math.ceil(width * _GAP), math.ceil(height * _GAP)

    image, size = decode(path, needed)
    if stamp == "remove":
        image = Image.fromarray(paint_out_stamp(np.asarray(image)))
    frame = frames.framed(image, size, fit)
    return [_cut(frame, view) for view in frames.placed(views, size, fit)]


def shown_photograph(path: Path, width: int, height: int, *, fit: Fit = "stretch") -> RgbArray:
    """All that models see of a photograph, as large as width x height px allow, uint8 [H, W, 3]. Raises ImageError."""
    full = frames.frame_size(probe_image(path), fit)
    scale = min(width / full[0], height / full[1])
    size = {"height": max(1, round(full[1] * scale)), "width": max(1, round(full[0] * scale))}
    return load_views(path, [View(name="whole", box=(0, 0, 1, 1), **size)], fit=fit)[0]


def probe_image(path: Path) -> tuple[int, int]:
    """Width and height in px of the upright photograph, all of which has been decoded. Raises ImageError."""
    with open_photograph(path) as image:
        size = upright_size(image, path)
        image.draft(None, (1, 1))
        upright_rgb(image, path)  # as `load_views` does: what it refuses is found here
    return size


def header_size(path: Path, fits: Iterable[Fit] = ()) -> tuple[int, int]:
    """Width and height in px of the upright photograph, from its header. fits: that it will be seen by.

    Raises ImageError, also for a frame that takes all memory.
    """
    with open_photograph(path) as image:
        size = upright_size(image, path)
    for fit in fits:
        require_frame(size, fit, path)
    return size


def require_frame(size: Size, fit: Fit, path: Path) -> None:
    """Raise ImageError for a photograph so much longer than wide that its frame takes all memory."""
    width, height = frames.frame_size(size, fit)
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and width * height > _FRAME_GROWTH * most:
        rule = f"the frame of a photograph has at most {_FRAME_GROWTH * most / 1e6:.0f} million pixels"
        got = f"{path} of {size[0]} x {size[1]} px, whose frame with fit = {fit} is {width:.0f} x {height:.0f}"
        raise ImageError(rule, got, "cut it to the quadrat")


def upright_size(image: Image.Image, path: Path) -> Size:
    """Width and height in px of an opened file as it is seen, from its header. Raises ImageError."""
    with _whole(path):  # a PNG is decoded for what may stand behind its pixels
        turned = image.getexif().get(_ORIENTATION) in _TURNED
        width, height = image.size
        if image.format == "TIFF":  # Pillow turns its size as it opens it, as its pixels when they are decoded
            tags = image.tag_v2  # type: ignore[attr-defined]
            width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
    return (height, width) if turned else (width, height)


def file_digest(path: Path) -> str:
    """Hash of a file's content: 32 hex digits of BLAKE2b."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest_of(digests: Sequence[str]) -> str:
    """Hash of many files' contents in order: 32 hex digits."""
    return hashlib.blake2b("\n".join(digests).encode(), digest_size=16).hexdigest()


def load_photograph(path: Path, width: int, height: int) -> Image.Image:
    """The upright RGB photograph, at least width x height px where the file has as many. Raises ImageError."""
    return _decode(path, lambda _: (width, height))[0]


def _decode(path: Path, needed: Needed) -> tuple[Image.Image, Size]:
    """The upright RGB photograph at a scale that is large enough, and the size that the file has."""
    with open_photograph(path) as image:
        size = _draft(image, path, needed)
        return upright_rgb(image, path), size


def _draft(image: Image.Image, path: Path, needed: Needed) -> Size:
    """Ask a JPEG for the smallest scale that is as large as needed; returns the size that the file has, upright."""
    size = upright_size(image, path)
    width, height = needed(size)
    image.draft(None, (width, height) if size == image.size else (height, width))
    return size


def upright_rgb(image: Image.Image, path: Path) -> Image.Image:
    """An opened file decoded, turned upright, as 8-bit RGB. Raises ImageError.

    Pixels alone are turned: ImageOps.exif_transpose writes the other EXIF tags again, and fails where one is wrong.
    """
    _load(image, path)
    with _whole(path):  # once its pixels are there: a PNG's EXIF may stand behind them, a TIFF is upright by then
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        upright = image if turn is None else image.transpose(turn)
    return as_rgb(upright, path)


def as_rgb(image: Image.Image, path: Path) -> Image.Image:
    """A decoded picture as 8-bit RGB, not turned. Raises ImageError for what has no such form.

    Channels of 16 bits are scaled by their range (65535 becomes 255): PIL would cut them off at 255. Transparent pixels
    keep the colour that the file gives them.
    """
    if image.mode in _EIGHT_BIT:
        with _whole(path):
            return image.convert("RGB")
    rule = "a photograph has 8 or 16 bits a channel"
    deep = np.asarray(image) if image.mode.startswith("I") else None
    if deep is None or deep.min() < 0 or deep.max() > _DEEPEST:
        got = f"{path} with PIL's mode {image.mode}" + ("" if deep is None else f" and values up to {deep.max()}")
        raise ImageError(rule, got, "export it as 8-bit JPEG or PNG in sRGB")
    return Image.fromarray(np.rint(deep * (255 / _DEEPEST)).astype(np.uint8)).convert("RGB")


def open_photograph(path: Path) -> Image.Image:
    """A file of one of FORMATS, its header read. Raises ImageError."""
    try:
        if not Path(path).is_file():  # opening a pipe or a device would wait for ever
            raise ImageError("a photograph is needed", f"no file {path}", "check image_path and the folder")
        return Image.open(path, formats=_formats())
    except ImageError:
        raise
    except UnidentifiedImageError as reason:
        formats = ", ".join(_formats())
        remedy = "export it as 8-bit JPEG or PNG"
        if HEIF not in _formats() and Path(path).suffix.lower() in (".heic", ".heif"):
            remedy = "pip install pillow-heif, or export it as JPEG"
        raise ImageError(f"a photograph is one of {formats}", f"another file {path}", remedy) from reason
    except _BROKEN as reason:
        raise ImageError("a photograph can be opened", f"{path} ({reason})", "copy or export it again") from reason


@cache
def _formats() -> tuple[str, ...]:
    """FORMATS, and HEIF where pillow-heif is installed; its pictures are upright as they are opened."""
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, HEIF)


def _load(image: Image.Image, path: Path) -> None:
    with _whole(path):
        image.load()


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """ImageError for what PIL raises where a file ends too early, or was badly written."""
    try:
        yield
    except _BROKEN as reason:
        raise ImageError("a photograph is whole", f"{path} ({reason})", "copy it again") from reason


def _cut(image: Image.Image, view: View) -> RgbArray:
    left, top, right, bottom = view.box
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    # no reducing_gap: its pre-reduction aliases patterns as fine as a pixel
    resized = image.resize((view.width, view.height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized)
