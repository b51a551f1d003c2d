"""What each family's trials bring the blend, from the errors of complete trials.

M trials, K folds, F families, B sets of trials.
gram_KMM       Gram matrix of errors on each fold's rows, over the study's SST (fold_errors.py)
family_M       number of each trial's family; half_M which half of its family's trials it is in, 0 or 1

The gain of a family is the score of the blend of all less that without one half of the family's trials, the mean over
both halves: what as many trials again were worth. A family that another one can replace, or whose trials are all
alike, has little to gain; so has one that is bad. A blend is chosen on all folds but one and scored on that one, fold
by fold: a family of noise that only fits the measured masses by chance gains nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import FloatArray, IntArray
from ensembles.rules import greedy_bags

HALVES = 2
STEPS = 12  # of the greedy selection of a blend


def family_gains(gram_KMM: FloatArray, family_M: IntArray, half_M: IntArray, families: int) -> FloatArray:
    """Gain in R2 of each family, [F], not below 0; all 0 without trials, and with a single fold."""
    if len(family_M) == 0 or len(gram_KMM) < 2:
        return np.zeros(families)
    left_out = [(family_M == family) & (half_M == half) for family in range(families) for half in range(HALVES)]
    without_B = blend_losses(gram_KMM, ~np.array([np.zeros(len(family_M), dtype=bool), *left_out]))
    gain_FH = without_B[1:].reshape(families, HALVES) - without_B[0]
    return np.maximum(gain_FH.mean(axis=1), 0.0)


def blend_losses(gram_KMM: FloatArray, allowed_BM: NDArray[np.bool_]) -> FloatArray:
    """1 - R2 of the greedy blend of each set of trials, chosen without the fold that it is scored on: [B].

    An empty set predicts the mean of the masses: its loss is 1.
    """
    loss_B = np.ones(len(allowed_BM))
    some_B = allowed_BM.any(axis=1)
    total_MM = gram_KMM.sum(axis=0)
    loss_B[some_B] = 0.0
    for held_MM in gram_KMM:
        weight_BM = greedy_bags(total_MM - held_MM, allowed_BM[some_B], STEPS)
        loss_B[some_B] += np.einsum("bm,mn,bn->b", weight_BM, held_MM, weight_BM)
    return loss_B
