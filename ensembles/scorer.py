"""Scores with their errors, of any predictions of a table's images.

N images, T = 5 targets, C cells (images of one group in one fold, see gram.py); masses in grams.
A group is a sampling date in a state. Images of one day share their errors: every standard error is one over units
(honest.py), which are groups or hold whole groups.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from biomass_models.data.cell_weights import cell_weights
from biomass_models.targets import TARGETS, FloatArray, project_coherent, squared_error
from ensembles.gram import cells_of, error_gram
from ensembles.honest import Estimate, interval_for_new, paired_difference, score_estimate, units_of


class Scorer:
    """Scores predictions against measured masses."""

    def __init__(self, truth: pd.DataFrame) -> None:
        """truth: quadrats with fold, group, unit; NaN where a mass was not measured. Raises UserError for masses
        without any spread: they have no R2."""
        self.truth_NT: FloatArray = truth[list(TARGETS)].to_numpy(dtype=np.float64)
        self.weight: FloatArray = cell_weights(truth)
        fold_N, group_N = truth["fold"], truth["group"]
        self._rows_of_cell = cells_of(fold_N, group_N)[0]
        # of this Gram only the cells and their moments count; who the member is plays no part
        member_NT = project_coherent(self.truth_NT) if self.weight.ndim == 1 else self.truth_NT
        self._cells = error_gram(member_NT[None], self.truth_NT, fold_N, group_N, truth["unit"], self.weight)
        self.units = units_of(self._cells)

    def loss_N(self, pred_NT: FloatArray) -> FloatArray:
        """Weighted squared error of each image, [N] g^2, of rows [N, 5] or as a mean over partitions [R, N, 5]."""
        return mean_loss(self.truth_NT, pred_NT, self.weight)

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


def mean_loss(truth_NT: FloatArray, pred_NT: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """Weighted squared error of each image, [N] g^2; a mean over what stands before the images.

    weight: of the cells, by default weights_of(truth_NT).
    """
    loss_N = squared_error(truth_NT, pred_NT, weight)
    return loss_N.reshape(-1, len(truth_NT)).mean(0)
