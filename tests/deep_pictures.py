"""Writes pictures with 16 bits for each of three channels, which PIL cannot."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np


def png_of_48_bits(path: Path, rgb: np.ndarray) -> None:
    """PIL writes none: uint16 [height, width, 3], big-endian."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in rgb)
    head = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def tiff_of_48_bits(path: Path, rgb: np.ndarray, orientation: int) -> None:
    """PIL writes none: uint16 [height, width, 3] in one strip, little-endian."""
    height, width, _ = rgb.shape
    tags = (
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14),
        (274, 3, 1, orientation), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, rgb.nbytes),
    )  # fmt: skip
    body = struct.pack("<3H", 16, 16, 16) + rgb.astype("<u2").tobytes()
    entries = b"".join(struct.pack("<HHII", *entry) for entry in tags)
    table = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(body)) + body + table)
