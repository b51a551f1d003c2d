"""A chunk: arrays of a few photographs in one safetensors file that is named by its content.

R rows, one a photograph. A chunk appears whole or not at all (written aside, then renamed) and never changes. Its
header lists the photographs by content hash and the arrays [R, ...] by name, so that an index of a bank is made from
headers alone, and its name is the hash of its bytes, so that a changed one can be told from a sound one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

Array = NDArray[Any]

SUFFIX = ".safetensors"
VERIFIED_BYTES = 32 << 20  # chunks up to this size are hashed when they are opened: they are read whole anyway
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "U8": np.dtype("u1"),
    "F64": np.dtype("<f8"),
}
_MOST_HEADER = 100 << 20  # bytes; the format's own limit


class ChunkError(ValueError):
    """A file that is not a whole chunk, or not the one that its name says."""


@dataclass(frozen=True)
class ArraySpec:
    """Where an array lies in a chunk's file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # rows first
    offset: int  # bytes from the beginning of the file


@dataclass(frozen=True)
class Chunk:
    """A chunk on the disk, as its header describes it."""

    path: Path
    digests: tuple[str, ...]  # content hash of each row's photograph
    arrays: Mapping[str, ArraySpec]
    nbytes: int

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    def array(self, name: str) -> Array:
        """An array, memory-mapped and read-only. FileNotFoundError when another process has made room with it."""
        spec = self.arrays[name]
        size = spec.dtype.itemsize * int(np.prod(spec.shape))
        array: Array = self._bytes[spec.offset : spec.offset + size].view(spec.dtype).reshape(spec.shape)
        return array

    def verify(self) -> None:
        """Raise ChunkError when the file is not the one that its name says."""
        with self.path.open("rb") as stream:
            found = hashlib.file_digest(stream, _hash).hexdigest()
        if found != self.path.name.removesuffix(SUFFIX):
            raise ChunkError(f"{self.path} has other bytes than were written; delete it, and it is computed again")


def write_chunk(folder: Path, digests: Sequence[str], arrays: Mapping[str, Array], temporary: str) -> Chunk:
    """Write arrays [R, ...] of R photographs; temporary: name of the file until it is whole."""
    content = save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"digests": " ".join(digests)}
    )
    folder.mkdir(parents=True, exist_ok=True)
    aside, path = folder / temporary, folder / f"{_hash(content).hexdigest()}{SUFFIX}"
    try:
        with aside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
    return read_chunk(path)


def read_chunk(path: Path) -> Chunk:
    """A chunk by its header. ChunkError for a file that is not whole, FileNotFoundError for one that is gone."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        text = stream.read(length) if 0 < length <= min(_MOST_HEADER, size) else b""
    try:
        header = json.loads(text)
        digests = tuple(header.pop("__metadata__")["digests"].split())
        arrays = {
            name: ArraySpec(_DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
        }
        ends = [8 + length + entry["data_offsets"][1] for entry in header.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChunkError(f"{path} is no whole chunk of features; delete it, and it is computed again") from error
    if not arrays or max(ends) != size or any(spec.shape[0] != len(digests) for spec in arrays.values()):
        raise ChunkError(f"{path} is no whole chunk of features; delete it, and it is computed again")
    return Chunk(path, digests, arrays, size)


def _hash(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=16)
