"""Predicted metadata and what they do to the embedding: feature-wise linear modulation (FiLM, arXiv 1709.07871).

Heads on the embedding predict what was noted beside the masses; the embedding is then scaled and shifted by what they
predict. Noted metadata are only read as targets of the training rows: prediction needs the photograph alone.
M training rows, B images, D features, P predicted numbers: NDVI, height, then a place for each species and each state.
target_MP   z-scored NDVI and height, 1 in the place of the row's species and state and 0 in the others; NaN where the
            row has no such note
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from biomass_models.targets import FloatArray
from biomass_models.training.fit import seed_for

NUMBERS = {"Pre_GSHH_NDVI": 1.0, "Height_Ave_cm": 1.0}  # column -> weight of its loss where the masses have MASSES
CLASSES = {"Species": 0.2, "State": 0.2}  # as in NUMBERS
MASSES = 3.0
LEAST_ROWS = {"Species": 15, "State": 1}  # of training: a class with fewer is one of the others
OTHER = "other"
SMALLEST_SD = 1e-6


@dataclass(frozen=True)
class Heads:
    """What is predicted, in the order of P: a head that has nothing to tell apart in the training rows is left out."""

    numbers: tuple[str, ...]
    classes: tuple[tuple[str, int], ...]  # column, number of classes

    @property
    def sizes(self) -> tuple[int, ...]:
        """Places of each head: the numbers' as one, then each class's."""
        return (len(self.numbers), *(count for _, count in self.classes))


def metadata_targets(table: pd.DataFrame, *, shuffled_by: int | None = None) -> tuple[Heads, FloatArray]:
    """Heads and their target_MP for training rows.

    table: their metadata; a column that it lacks is one that nobody noted. shuffled_by: a seed that deals the rows'
    metadata out anew among the rows: what is left of a gain is none of the metadata's.
    """
    z_scores = {column: _z_scores(table[column]) for column in NUMBERS if column in table}
    numbers = {column: z_M for column, z_M in z_scores.items() if z_M is not None}
    one_hot = {column: _one_hot(table[column], rare) for column, rare in LEAST_ROWS.items() if column in table}
    classes = {column: hot_MC for column, hot_MC in one_hot.items() if hot_MC.shape[1] > 1}
    heads = Heads(tuple(numbers), tuple((column, hot_MC.shape[1]) for column, hot_MC in classes.items()))
    target_MP = np.column_stack([np.empty((len(table), 0)), *numbers.values(), *classes.values()])
    if shuffled_by is not None:
        target_MP = target_MP[np.random.default_rng(seed_for(shuffled_by, "shuffled metadata")).permutation(len(table))]
    return heads, target_MP


def _z_scores(noted: pd.Series[Any]) -> FloatArray | None:
    """None where fewer than two different numbers were noted."""
    value_M = noted.to_numpy(np.float64, na_value=np.nan)
    known = value_M[np.isfinite(value_M)]
    if not len(known) or known.std() < SMALLEST_SD:
        return None
    z_M: FloatArray = np.where(np.isfinite(value_M), (value_M - known.mean()) / known.std(), np.nan)
    return z_M


def _one_hot(noted: pd.Series[Any], rare: int) -> FloatArray:
    """[M, classes], in the order of their names; rare: classes with fewer rows than this are one class."""
    known_M = noted.notna().to_numpy()
    rows = Counter(map(str, noted[known_M]))
    name_M = [OTHER if rows[name] < rare else name for name in map(str, noted)]
    places = {name: place for place, name in enumerate(sorted({name_M[row] for row in np.flatnonzero(known_M)}))}
    hot_MC = np.full((len(name_M), len(places)), np.nan)
    for row in np.flatnonzero(known_M):
        hot_MC[row] = np.arange(len(places)) == places[name_M[row]]
    return hot_MC


class PredictedMetadata(nn.Module):
    """The heads, and the modulation by what they predict, which begins as none: gain and shift are 0."""

    sizes: Tensor

    def __init__(self, features: int, sizes: tuple[int, ...]) -> None:
        """sizes: as Heads.sizes."""
        super().__init__()
        self.register_buffer("sizes", torch.tensor(sizes))
        self._sizes = list(sizes)
        self.heads = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, sum(sizes)))
        self.gain = nn.Linear(sum(sizes), features, bias=False)
        self.shift = nn.Linear(sum(sizes), features, bias=False)
        for layer in (self.gain, self.shift):
            nn.init.zeros_(layer.weight)

    @classmethod
    def stored(cls, features: int, tensors: Mapping[str, Tensor], prefix: str) -> PredictedMetadata | None:
        """Of the shape of a fit's tensors, whose names begin with `prefix`; None where the fit had none."""
        sizes = tensors.get(f"{prefix}sizes")
        return None if sizes is None else cls(features, tuple(sizes.tolist()))

    def forward(self, embedding_BD: Tensor) -> tuple[Tensor, Tensor]:
        """(1 + G p) e + B p of the embeddings e, and the heads' outputs [B, P]: numbers, and logits of the classes.

        p: these numbers and the probabilities of the classes; the gradient of what follows flows through it.
        """
        output_BP = self.heads(embedding_BD).float()
        number_B, *logits = output_BP.split(self._sizes, dim=1)
        known_BP = torch.cat([number_B, *(logit_BC.softmax(-1) for logit_BC in logits)], dim=1)
        return (1 + self.gain(known_BP)) * embedding_BD + self.shift(known_BP), output_BP


def metadata_losses(output_BP: Tensor, target_BP: Tensor, heads: Heads) -> Tensor:
    """Huber loss (delta 1) of the numbers and cross-entropy of the classes, by their weights beside masses of weight 1,
    [B]; exactly 0 where nothing was noted. Targets of mixed rows are shares of the classes."""
    known_BP = ~target_BP.isnan()
    goal_BP = torch.where(known_BP, target_BP, 0.0).float()
    parts = zip(*(value.split(heads.sizes, dim=1) for value in (output_BP.float(), goal_BP, known_BP)), strict=True)
    number_B, *classes = parts
    apart_BN = functional.huber_loss(number_B[0], number_B[1], reduction="none")
    weight_N = torch.tensor([NUMBERS[column] for column in heads.numbers], device=output_BP.device)
    loss_B = (torch.where(number_B[2], apart_BN, 0.0) * weight_N).sum(1)
    for (column, _), (logit_BC, share_BC, there_BC) in zip(heads.classes, classes, strict=True):
        entropy_B = -(share_BC * logit_BC.log_softmax(-1)).sum(1)
        loss_B = loss_B + CLASSES[column] * torch.where(there_BC.all(1), entropy_B, 0.0)
    return loss_B / MASSES
