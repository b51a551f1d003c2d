"""Photographs of a table; what a check learns from one, and which of them show the same.

N photographs. A thumbnail is float32 [16, 16, 3], the whole upright photograph; two photographs are the same when their
thumbnails, or one of them turned or mirrored, correlate above SAME in the parts that differ from place to place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from biomass_models.counted import counted
from biomass_models.data.frames import Fit, hidden_share
from biomass_models.data.images import digest_of, file_digest, header_size, open_photograph, upright_rgb, upright_size

PUBLISHED_SIZE = (2000, 1000)  # px of the competition's photographs
SIDE = 16  # px of a thumbnail
SAME = 0.96  # correlation of two thumbnails above which they show the same; other quadrats reach 0.84, turned ones too
_COARSE, _MAYBE = 8, 0.97  # px and correlation of the first pass, which compares all with all
_FLATTEST = 2.0  # grey levels of spread below which a picture shows nothing
_SHAPE = np.log(1.05)  # of width over height, beyond which a photograph counts as of another shape
_NOTED = 0.05  # share of a photograph's area
UNLIKE: dict[Fit, str] = {  # what happens to photographs of another shape, and what to do
    "stretch": "they are stretched to it; crop or turn them",
    "crop": "another share of them is cut off; crop them alike",
    "pad": "they are padded otherwise; crop them alike",
}
_BLOCK = 512  # photographs compared with all others at once
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")

Thumbnail = NDArray[np.float32]
# what of the second picture gives the first: quarter turns counter-clockwise, mirrored before
TURNS = (
    (0, False, "again"),
    (2, False, "turned by 180 degrees"),
    (0, True, "mirrored"),
    (2, True, "mirrored upside down"),
    (1, False, "turned by 90 degrees"),
    (3, False, "turned by 270 degrees"),
    (1, True, "mirrored and turned"),
    (3, True, "mirrored and turned"),
)


@dataclass(frozen=True)
class ImageSet:
    """Photographs in the row order of a table, with the hash of each file's content."""

    image_ids: tuple[str, ...]
    paths: tuple[Path, ...]
    digests: tuple[str, ...]

    @classmethod
    def from_table(cls, data_dir: Path, table: pd.DataFrame) -> ImageSet:
        """From a table with the columns image_id and image_path; reads every file once."""
        paths = tuple(Path(data_dir) / str(path) for path in table["image_path"])
        return cls(tuple(map(str, table["image_id"])), paths, tuple(map(file_digest, paths)))

    @cached_property
    def digest(self) -> str:
        """Hash of all contents in order."""
        return digest_of(self.digests)

    def take(self, row_N: NDArray[np.int64]) -> ImageSet:
        """Some of the images, in the given order."""
        parts = (self.image_ids, self.paths, self.digests)
        return ImageSet(*(tuple(part[row] for row in row_N) for part in parts))

    def and_(self, other: ImageSet) -> ImageSet:
        """These and others, in this order."""
        return ImageSet(self.image_ids + other.image_ids, self.paths + other.paths, self.digests + other.digests)

    def rows(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each image id; KeyError for one that is not in the set."""
        row_of = {image_id: row for row, image_id in enumerate(self.image_ids)}
        absent = [image_id for image_id in image_ids if image_id not in row_of]
        if absent:
            raise KeyError(f"{counted(len(absent), 'image')} of the table not in the image set, such as {absent[:3]}")
        return np.array([row_of[image_id] for image_id in image_ids], dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A decoded photograph: its size in px, a thumbnail, and what is odd about it."""

    width: int
    height: int
    thumbnail: Thumbnail
    remarks: tuple[tuple[str, str, str], ...]  # rule, what was got, remedy


def look_at(path: Path) -> Seen:
    """Decode a whole photograph. Raises ImageError."""
    with open_photograph(path) as image:
        (width, height), mode, frames = upright_size(image, path), image.mode, getattr(image, "n_frames", 1)
        image.draft(None, (4 * SIDE, 4 * SIDE))  # mostly an eighth: all of the file is read, a thumbnail needs no more
        small = upright_rgb(image, path)
        clear = _least_alpha(image) < 255
    remarks = []
    if frames > 1:
        got = f"{path.name} with {frames} pictures"
        remarks.append(("a file holds one picture", got, "the first one is used; export it alone"))
    if clear:
        remedy = "its hidden colours are used; export it without an alpha channel"
        remarks.append(("a photograph is opaque", f"{path.name} with transparent parts", remedy))
    if mode == "CMYK":
        got, remedy = f"{path.name} in CMYK", "its colours are approximated; export it as sRGB"
        remarks.append(("a photograph is RGB", got, remedy))
    if mode in _GREY:
        remarks.append(("a photograph is in colour", f"{path.name} in grey", "use the colour original"))
    pixels = np.asarray(small)
    if np.ptp(pixels.reshape(-1, 3), axis=0).max() < 3 * _FLATTEST or pixels.std() < _FLATTEST:
        low, high = int(pixels.min()), int(pixels.max())
        got = f"{path.name} whose pixels lie between {low} and {high} of 255"
        remarks.append(("a photograph shows something", got, "look at it; 10 or 12 bits in a file of 16? scale them"))
    thumbnail = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    return Seen(width=width, height=height, thumbnail=thumbnail, remarks=tuple(remarks))


def common_size(paths: Sequence[Path]) -> tuple[int, int] | None:
    """The usual width and height in px of upright photographs, from their headers; None without photographs."""
    return usual_size([header_size(path) for path in paths])


def usual_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The most common size; of those that are equally common, the one whose shape is in the middle."""
    counts = Counter(sizes)
    largest = max(counts.values(), default=0)
    most = [size for size, count in counts.items() if count == largest]
    return sorted(most, key=lambda size: size[0] / size[1])[(len(most) - 1) // 2] if most else None


def is_unlike(size: tuple[int, int], usual: tuple[int, int], fit: Fit) -> bool:
    """Whether a photograph's shape differs by more than 5 %; a portrait is like a landscape unless it is stretched."""
    return abs(_log_shape(size, fit) - _log_shape(usual, fit)) > _SHAPE


def _log_shape(size: tuple[int, int], fit: Fit) -> float:
    shape = float(np.log(size[0] / size[1]))
    return shape if fit == "stretch" else abs(shape)


def unlike_shapes(paths: Sequence[Path], trained_on: tuple[int, int], fit: Fit) -> str | None:
    """A sentence on photographs of another shape than those trained on: their views are of another scale."""
    sizes = {path: header_size(path) for path in paths}
    odd = {path: size for path, size in sizes.items() if is_unlike(size, trained_on, fit)}
    if not odd:
        return None
    first, (width, height) = next(iter(odd.items()))
    return (
        f"{len(odd)} of {len(paths)} photographs have another shape than the {trained_on[0]} x {trained_on[1]} px "
        f"trained on, such as {first.name} with {width} x {height}: {UNLIKE[fit]}"
    )


def cut_off(size: tuple[int, int], fit: Fit) -> str | None:
    """A sentence on how much of a photograph of that size no model sees; None where all of it is seen."""
    share = hidden_share(size, fit)
    if share < _NOTED:
        return None
    return (
        f"fit = {fit} cuts {share:.0%} off photographs of {size[0]} x {size[1]} px: the middle of 2 : 1 is left; "
        "pad and stretch keep all"
    )


def _least_alpha(image: Image.Image) -> int:
    """Of a decoded picture; 255 where it is opaque."""
    if image.mode in ("P", "L", "RGB", "1") and "transparency" not in image.info:
        return 255
    if not (image.mode.endswith(("A", "a")) or "transparency" in image.info):
        return 255
    return int(np.asarray(image.convert("RGBA"))[..., 3].min())


def same_pictures(thumbnails: Sequence[Thumbnail]) -> list[tuple[int, int, str]]:
    """(place, place of an earlier one that shows the same, how), each photograph at most once.

    Pictures without any detail are left out: they are alike because they are empty.
    """
    if len(thumbnails) < 2:
        return []
    whole_N = np.stack(thumbnails)
    detailed_N = whole_N.std(axis=(1, 2)).max(axis=1) > _FLATTEST
    at_N = np.flatnonzero(detailed_N)
    whole_N = whole_N[at_N]
    coarse_N = _unit(whole_N.reshape(-1, _COARSE, SIDE // _COARSE, _COARSE, SIDE // _COARSE, 3).mean(axis=(2, 4)))
    found: dict[int, tuple[int, str]] = {}
    for quarters, mirrored, how in TURNS:
        turned_N = _unit(_turned(_square(coarse_N), quarters, mirrored))
        for start in range(0, len(at_N), _BLOCK):
            likeness = coarse_N[start : start + _BLOCK] @ turned_N.T
            for row, other in zip(*np.nonzero(likeness > _MAYBE), strict=True):
                place = start + int(row)
                if other < place and at_N[place] not in found:
                    fine = _unit(whole_N[[place]]) @ _unit(_turned(whole_N[[other]], quarters, mirrored)).T
                    if fine[0, 0] > SAME:
                        found[int(at_N[place])] = int(at_N[other]), how
    return sorted((place, earlier, how) for place, (earlier, how) in found.items())


def _turned(picture_N: Thumbnail, quarters: int, mirrored: bool) -> Thumbnail:
    return np.rot90(picture_N[:, :, ::-1] if mirrored else picture_N, quarters, axes=(1, 2))


def _square(flat_NF: Thumbnail) -> Thumbnail:
    side = round((flat_NF.shape[1] / 3) ** 0.5)
    return flat_NF.reshape(len(flat_NF), side, side, 3)


def _unit(picture_N: Thumbnail) -> Thumbnail:
    """[N, F] of length 1, without each picture's mean colour."""
    centred_NF = (picture_N - picture_N.mean(axis=(1, 2), keepdims=True)).reshape(len(picture_N), -1)
    length_N = np.sqrt((centred_NF**2).sum(axis=1, keepdims=True))
    return centred_NF / np.maximum(length_N, 1e-6)
