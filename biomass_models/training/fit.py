"""What every family's fit begins with and returns: rows, seeds, results. No ray, no files.

A fit sees the rows of its fold's training side only; `row_N` and `fold_N` index the rows of the quadrats table.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomass_models.data.cell_weights import measured_masses, row_weights
from biomass_models.errors import UserError
from biomass_models.fold_rows import labelled_rows
from biomass_models.targets import (
    FloatArray,
    IntArray,
    weight_T,
    weighted_r2_score,
    weighted_sst,
    weights_in,
)


class FitError(UserError):
    """A fit that cannot succeed: loss that is not finite, folds without rows."""


@dataclass(frozen=True)
class FoldResult:
    """One fold of one trial."""

    row_N: IntArray  # validation rows of the quadrats table
    pred_NT: FloatArray  # grams, [len(row_N), 5], all >= 0
    tensors: dict[str, Tensor]  # trained tensors only; with the config enough to predict
    epochs: list[dict[str, float]]  # one entry an epoch
    info: dict[str, Any] = field(default_factory=dict)  # JSON-able facts for the record
    maps: pd.DataFrame | None = None  # where the model looked (maps.MAP_COLUMNS), of the validation rows


@dataclass(frozen=True)
class FoldRows:
    """Which rows of a table of N quadrats train and which are held out.

    Training rows that models have labelled (families/pseudo_rows.py) count by their weight, and only in what predicts:
    scalers, penalties and whatever else is fitted beside comes from the labelled rows alone.
    """

    train_M: IntArray  # rows of the table
    valid_M: IntArray
    image_N: IntArray  # row of the image set, for each row of the table
    mass_NT: FloatArray  # grams, NaN where not measured
    weight: FloatArray = field(default_factory=weight_T.copy)  # of the cells, [5] or [N, 5] (targets.weights_of)
    labelled_N: NDArray[np.bool_] | None = None  # False where models have labelled a row; None: nowhere

    @classmethod
    def of(cls, quadrats: pd.DataFrame, fold_N: NDArray[Any], fold: int, image_N: IntArray) -> FoldRows:
        """FitError if either side of the fold is empty. A row that models have labelled and that counts nothing is no
        training row."""
        train_M, valid_M = split_rows(fold_N, fold)
        mass_NT, weight = measured_masses(quadrats)
        labelled_N = labelled_rows(quadrats)
        if labelled_N.all():
            return cls(train_M, valid_M, image_N, mass_NT, weight)
        counts_N = labelled_N | (np.broadcast_to(weight, mass_NT.shape) > 0).any(axis=1)
        return cls(train_M[counts_N[train_M]], valid_M, image_N, mass_NT, weight, labelled_N)

    @property
    def train_mass_MT(self) -> FloatArray:
        return self.mass_NT[self.train_M]

    @property
    def train_weight(self) -> FloatArray:
        """Of the cells of the training rows, [5] or [M, 5]."""
        return weights_in(self.weight, self.train_M)

    @property
    def train_row_weight_M(self) -> FloatArray:
        """Of the training rows: photographs of one quadrat count as one."""
        return row_weights(self.weight, len(self.mass_NT))[self.train_M]

    @property
    def is_labelled_M(self) -> NDArray[np.bool_]:
        """Which of the training rows were weighed."""
        return np.ones(len(self.train_M), np.bool_) if self.labelled_N is None else self.labelled_N[self.train_M]

    @property
    def labelled_M(self) -> IntArray:
        """The training rows that were weighed, as rows of the table."""
        return self.train_M if self.labelled_N is None else self.train_M[self.is_labelled_M]

    @property
    def labelled_mass_MT(self) -> FloatArray:
        """Of the training rows that were weighed."""
        return self.mass_NT[self.labelled_M]

    @property
    def labelled_weight(self) -> FloatArray:
        """Of the cells of the training rows that were weighed, [5] or [M, 5]."""
        return weights_in(self.weight, self.labelled_M)

    def of_training(self, value_L: FloatArray) -> FloatArray:
        """What is known of the training rows that were weighed [L, ...], of all [M, ...]: NaN in the others."""
        if self.labelled_N is None:
            return value_L
        value_M = np.full((len(self.train_M), *value_L.shape[1:]), np.nan)
        value_M[self.is_labelled_M] = value_L
        return value_M

    @property
    def held_out_mass_NT(self) -> FloatArray:
        return self.mass_NT[self.valid_M]

    def held_out_score(self, pred_NT: FloatArray) -> float:
        """score_or_nan of predictions of the held-out rows."""
        return score_or_nan(self.held_out_mass_NT, pred_NT, weights_in(self.weight, self.valid_M))

    @property
    def held_out_images(self) -> IntArray:
        """Rows of the image set."""
        return self.image_N[self.valid_M]


def split_rows(fold_N: NDArray[Any], fold: int) -> tuple[IntArray, IntArray]:
    """Training and validation rows of a fold; FitError if either side is empty."""
    held_out = np.asarray(fold_N) == fold
    if held_out.all() or not held_out.any():
        raise FitError(f"fold {fold} needs rows on both sides, got {held_out.sum()} of {len(held_out)} held out")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def inner_folds(group_M: NDArray[Any], most: int, seed: int) -> IntArray:
    """Inner fold of each training row, 0 .. K-1 with K at most `most`: rows of one group lie in one.

    FitError for fewer than two groups.
    """
    groups = len(set(group_M))
    if groups < 2:
        raise FitError(
            f"inner folds need training rows of at least 2 groups (sampling dates), got {groups}; "
            "use another fold scheme or more data"
        )
    from sklearn.model_selection import GroupKFold  # here: not every worker has fits with inner folds

    fold_M = np.empty(len(group_M), dtype=np.int64)
    folds = GroupKFold(min(most, groups), shuffle=True, random_state=seed % 2**32)
    for fold, (_, held) in enumerate(folds.split(group_M, groups=group_M)):
        fold_M[held] = fold
    return fold_M


def seed_for(seed: int, purpose: str) -> int:
    """A seed with an address: independent streams for initial weights, order, augmentation, dropout."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=7).digest())


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator of its own for one purpose."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))


@contextmanager
def seeded(seed: int, purpose: str, device: torch.device) -> Iterator[None]:
    """Layers that draw from torch's global generators (initial weights, dropout) draw from this seed inside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_for(seed, purpose))
        yield


def score_or_nan(truth_NT: FloatArray, pred_NT: FloatArray, weight: FloatArray | None = None) -> float:
    """The metric on one fold's rows; NaN where a tiny fold has no spread, so that a log never fails a fit.

    weight: of the cells, by default targets.weights_of(truth_NT).
    """
    if weighted_sst(truth_NT, weight) <= 0:
        return math.nan
    return weighted_r2_score(truth_NT, pred_NT, weight)


def as_tensors(arrays: dict[str, FloatArray]) -> dict[str, Tensor]:
    """float64 arrays -> tensors that safetensors stores."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def as_arrays(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, FloatArray]:
    """Inverse of `as_tensors`, for the tensors whose names begin with `prefix`."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items() if name.startswith(prefix)}
