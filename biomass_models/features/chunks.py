"""A chunk: arrays of a few photographs in one safetensors file that is named by its content.

R rows, one a photograph. A chunk appears whole or not at all and never changes. Its
header lists the photographs by content hash and the arrays [R, ...] by name, so that an index of a bank is made from
headers alone. Its name is the hash of its bytes and that of its header: a damaged header is found whenever a chunk is
opened, other damage whenever all bytes are read.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomass_models.errors import UserError

Array = NDArray[Any]

SUFFIX = ".safetensors"
VERIFIED_BYTES = 32 << 20  # chunks up to this size are hashed before they are used
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "U8": np.dtype("u1"),
    "F64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MOST_HEADER = 100 << 20  # bytes; the format's own limit


class ChunkError(UserError):
    """A file that is not the chunk that its name says."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} has other bytes than were written; delete it, and it is computed again")


@dataclass(frozen=True)
class ArrayPlace:
    """Where an array lies in a chunk's file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # rows first
    offset: int  # bytes from the beginning of the file

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape))


@dataclass(frozen=True)
class Chunk:
    """A chunk on the disk, as its header describes it."""

    path: Path
    digests: tuple[str, ...]  # content hash of each row's photograph
    arrays: Mapping[str, ArrayPlace]
    nbytes: int

    def open(self) -> dict[str, Array]:
        """All arrays, read-only, on one memory map. FileNotFoundError when another process has made room with it."""
        content = np.memmap(self.path, dtype=np.uint8, mode="r")
        return {
            name: content[place.offset : place.offset + place.nbytes].view(place.dtype).reshape(place.shape)
            for name, place in self.arrays.items()
        }

    def verify(self) -> None:
        """Raise ChunkError when the file does not have the bytes that were written."""
        with self.path.open("rb") as stream:
            found = hashlib.file_digest(stream, _hash).hexdigest()
        if found != self.path.name.partition("-")[0]:
            raise ChunkError(self.path)


def write_chunk(path: Path, digests: Sequence[str], batches: Sequence[Mapping[str, Array]]) -> str:
    """Write batches of arrays [b, ...] of some photographs to an unfinished file; returns the name that it must get.

    The arrays are written as they are: nothing is copied in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"digests": " ".join(digests)}}
    end = 0
    for name, array in sorted(batches[0].items(), key=lambda item: -item[1].itemsize):  # so that all are aligned
        begin, end = end, end + sum(batch[name].nbytes for batch in batches)
        shape = [len(digests), *array.shape[1:]]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    head = struct.pack("<Q", len(text) + -len(text) % 8) + text + b" " * (-len(text) % 8)
    content = _hash(head)
    with path.open("wb") as stream:
        stream.write(head)
        for name in list(header)[1:]:
            for batch in batches:
                part = np.ascontiguousarray(batch[name]).data.cast("B")
                content.update(part)
                stream.write(part)
    return f"{content.hexdigest()}-{_hash(head).hexdigest()}{SUFFIX}"


def read_chunk(path: Path) -> Chunk:
    """A chunk by its header. ChunkError for a file that is not whole, FileNotFoundError for one that is gone."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        text = stream.read(length) if 0 < length <= min(_MOST_HEADER, size) else b""
    if _hash(first + text).hexdigest() != path.name.removesuffix(SUFFIX).partition("-")[2]:
        raise ChunkError(path)
    header = json.loads(text)
    digests = tuple(header.pop("__metadata__")["digests"].split())
    begin = 8 + length
    arrays = {
        name: ArrayPlace(_DTYPES[entry["dtype"]], tuple(entry["shape"]), begin + entry["data_offsets"][0])
        for name, entry in header.items()
    }
    if size != max(place.offset + place.nbytes for place in arrays.values()):
        raise ChunkError(path)
    return Chunk(path, digests, arrays, size)


def _hash(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=16)
