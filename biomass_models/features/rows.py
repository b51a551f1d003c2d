"""Rows of a bank for some photographs, wherever they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomass_models.errors import UserError
from biomass_models.features.chunks import Array

STACKED_BYTES = 32 << 20  # arrays up to this size are stacked in memory when a batch is taken


class CacheError(UserError):
    """The feature store's folder cannot hold what is to be computed; nothing is wrong with what is computed."""


@dataclass(frozen=True)
class Rows:
    """One array [N, ...] of a bank for the N photographs of an image set, wherever its rows lie. Read-only."""

    parts: tuple[Array, ...]  # arrays of chunks, memory-mapped
    part_N: NDArray[np.int64]  # which part holds each row
    row_N: NDArray[np.int64]  # and at which place
    paths: tuple[Path, ...] = ()  # of the parts' chunks

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.row_N), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.row_N)

    def take(self, row_B: NDArray[np.int64]) -> Array:
        """Some rows, in the given order: [B, ...]."""
        return self._stacked[row_B] if self.nbytes <= STACKED_BYTES else self._gather(row_B)

    def read(self) -> Array:
        """All rows, as a new array in memory."""
        return self._gather(np.arange(len(self)))

    @cached_property
    def _stacked(self) -> Array:
        return self.read()

    def _gather(self, row_B: NDArray[np.int64]) -> Array:
        out = np.empty((len(row_B), *self.shape[1:]), dtype=self.dtype)
        part_B, place_B = self.part_N[row_B], self.row_N[row_B]
        for part in np.unique(part_B).tolist():
            chosen = part_B == part
            out[chosen] = self.parts[part][place_B[chosen]]
        return out


def nbytes_of(batches: Sequence[Mapping[str, Array]]) -> int:
    return sum(array.nbytes for batch in batches for array in batch.values())
