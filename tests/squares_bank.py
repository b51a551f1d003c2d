"""A bank whose rows follow from the photographs' hashes, for tests of the feature store."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomass_models.features.rows import Rows
from biomass_models.features.store import SPAN_ROWS, FeatureStore

SPAWN = multiprocessing.get_context("spawn")
WHAT = {"what": "squares"}
BATCH = 7  # rows; does not divide a span
ROWS = 4 * SPAN_ROWS + 5


def digests_of(rows: int, first: int = 0) -> list[str]:
    return [f"{number:06d}" for number in range(first, first + rows)]


def squares(
    digests: Sequence[str], *, names: Sequence[str] = ("square",), on_row: Callable[[int], None] = lambda row: None
) -> Any:
    """A `produce` whose rows follow from the photograph's hash; on_row: called before a photograph is computed."""

    def produce(rows: Sequence[int], asked: Sequence[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
        for first in range(0, len(rows), BATCH):
            numbers = [int(digests[row]) for row in rows[first : first + BATCH]]
            for number in numbers:
                on_row(number)
            value = np.array(numbers, dtype=np.float64)[:, None] ** 2 * np.ones(3)
            yield {name: value + names.index(name) for name in names if name in asked}

    return produce


def require_squares(rows: Rows, digests: Sequence[str], plus: float = 0.0) -> None:
    expected = np.array([int(digest) for digest in digests], dtype=np.float64)[:, None] ** 2 * np.ones(3) + plus
    np.testing.assert_array_equal(rows.read(), expected)


def fill(root: Path, digests: Sequence[str], on_row: Callable[[int], None] = lambda row: None, **store: Any) -> Rows:
    """The bank of squares for these photographs."""
    return FeatureStore(root, **store).bank(WHAT, ["square"], digests, squares(digests, on_row=on_row))["square"]


def log_of(path: str, seconds: float) -> Callable[[int], None]:
    def on_row(number: int) -> None:
        with Path(path).open("a") as lines:
            lines.write(f"{os.getpid()} {number}\n")
        time.sleep(seconds)

    return on_row


def logged(log: Path) -> list[tuple[int, int]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(pid), int(row)) for pid, row in (line.split() for line in lines)]
