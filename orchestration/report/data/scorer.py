"""Scores with their errors, of any predictions of a study's images.

N images, T = 5 targets, C cells (images of one group in one fold, see ensembles.gram); masses in grams.
A group is a sampling date in a state. Images of one day share their errors: every standard error is one over units
(ensembles.honest), which are groups or hold whole groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from biomass_models.targets import TARGETS, FloatArray, project_coherent, squared_error, weighted_sst
from ensembles.gram import cells_of, error_gram
from ensembles.honest import Estimate, interval_for_new, paired_difference, score_estimate, units_of


class Scorer:
    """Scores predictions against a study's measured masses."""

    def __init__(self, truth: pd.DataFrame) -> None:
        """truth: quadrats with fold, group, unit. Raises ValueError for masses without any spread: they have no R2."""
        self.truth_NT: FloatArray = truth[list(TARGETS)].to_numpy(dtype=np.float64)
        fold_N, group_N = truth["fold"], truth["group"]
        self._rows_of_cell = cells_of(fold_N, group_N)[0]
        # of this Gram only the cells and their moments count; who the member is plays no part
        self._cells = error_gram(project_coherent(self.truth_NT)[None], self.truth_NT, fold_N, group_N, truth["unit"])
        self.units = units_of(self._cells)

    def loss_N(self, pred_NT: FloatArray) -> FloatArray:
        """Weighted squared error of each image, [N] g^2, of rows [N, 5] or as a mean over partitions [R, N, 5]."""
        return _mean_loss(self.truth_NT, pred_NT)

    def score(self, pred_NT: FloatArray) -> Estimate:
        """The weighted R2 with its standard error."""
        return score_estimate(self._cells, self._loss_C(pred_NT))

    def gain(self, pred_NT: FloatArray, against_NT: FloatArray) -> Estimate:
        """Score of the first minus score of the second, paired over units."""
        return paired_difference(self._cells, self._loss_C(pred_NT), self._loss_C(against_NT))

    def interval_for_new(self, score: Estimate) -> tuple[float, float]:
        """95 % interval of a score on as many other units."""
        return interval_for_new(score, self.units, self.units)

    def _loss_C(self, pred_NT: FloatArray) -> FloatArray:
        loss_N = self.loss_N(pred_NT)
        return np.array([loss_N[rows].sum() for rows in self._rows_of_cell])


@dataclass(frozen=True, kw_only=True)
class Part:
    """How predictions do on some of the images, such as those of one day."""

    name: str
    images: int
    r2: float | None  # within the part, around its own mean; None without spread
    error: float  # root of the mean weighted squared error, g
    share: float  # of the whole study's squared error
    bias: float  # mean of predicted minus measured total, g


def parts(truth_NT: FloatArray, pred_NT: FloatArray, key_N: ArrayLike) -> list[Part]:
    """One entry for each value of the key, in the order of the values; the score of [R, N, 5] is a mean."""
    key = np.asarray(key_N).astype(str)
    loss_N = _mean_loss(truth_NT, pred_NT)
    found = []
    for name in np.unique(key):
        rows = key == name
        sst = weighted_sst(truth_NT[rows])
        found.append(
            Part(
                name=str(name),
                images=int(rows.sum()),
                r2=float(1 - loss_N[rows].sum() / sst) if sst > 0 else None,
                error=float(np.sqrt(loss_N[rows].mean())),
                share=float(loss_N[rows].sum() / loss_N.sum()) if loss_N.any() else 0.0,
                bias=float((pred_NT[..., rows, -1] - truth_NT[rows, -1]).mean()),
            )
        )
    return found


def _mean_loss(truth_NT: FloatArray, pred_NT: FloatArray) -> FloatArray:
    """Weighted squared error of each image, [N] g^2; a mean over what stands before the images."""
    loss_N = squared_error(truth_NT, pred_NT)
    return loss_N.reshape(-1, len(truth_NT)).mean(0)


def binned_mean(x_N: FloatArray, y_N: FloatArray, bins: int = 8) -> list[tuple[float, float, int]]:
    """(median x, mean y, count) of bins that hold equally many values of x; equal values never part.

    The line that shows a trend in a cloud of residuals. Empty for fewer than 2 different values.
    """
    order = np.argsort(x_N, kind="stable")
    x, y = x_N[order], y_N[order]
    if len(x) == 0 or x[0] == x[-1]:
        return []
    edges = np.unique(np.searchsorted(x, np.quantile(x, np.arange(1, bins) / bins), side="right"))
    pieces = [piece for piece in zip(np.split(x, edges), np.split(y, edges), strict=True) if len(piece[0])]
    return [(float(np.median(xs)), float(ys.mean()), len(xs)) for xs, ys in pieces]
