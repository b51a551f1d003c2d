"""Files that Pillow opens and models cannot use, or that only look so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

_SMALL = Image.fromarray(np.random.default_rng(0).integers(0, 255, (3, 6, 3), dtype=np.uint8))
PIXELS = np.asarray(_SMALL.resize((120, 60), Image.Resampling.BICUBIC))


def without_an_8_bit_form(folder: Path) -> list[Path]:
    """Fractions, whole numbers beyond 16 bits, LAB: headers are those of photographs."""
    grey = PIXELS[..., 0]
    Image.fromarray(grey.astype(np.float32) / 255).save(folder / "fractions.tif")
    Image.fromarray(grey.astype(np.int32) + 70_000).save(folder / "deep.tif")
    Image.fromarray(PIXELS).convert("LAB").save(folder / "lab.tif")
    return [folder / name for name in ("fractions.tif", "deep.tif", "lab.tif")]


def turned_with_a_wrong_tag(path: Path) -> Path:
    """A JPEG that lies on its side, whose EXIF has a resolution that is a text."""

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little") + value

    entries = entry(0x0112, 3, 1, bytes([6, 0, 0, 0])) + entry(0x011A, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0" + (8).to_bytes(4, "little") + (2).to_bytes(2, "little") + entries + bytes(4)
    Image.fromarray(PIXELS).transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", quality=95, exif=exif)
    return path


def strip(path: Path) -> Path:
    """A PNG of few bytes, 60000 x 1 px: padded to 2 : 1 it would take gigabytes."""
    Image.new("RGB", (60_000, 1)).save(path, "PNG")
    return path
