"""What each trial brings the blend of all others, from the errors of complete trials.

M trials, K folds.
gram_KMM       Gram matrix of errors on each fold's rows, over the study's SST (fold_errors.py)

With a the error of the blend of all other trials and e that of the trial, mixing a share s of the trial in changes the
loss by -2 s d + s^2 D, d = a (a - e), D = |a - e|^2. The best share brings d^2 / D; where d < 0 mixing it in only
harms, and the gain is -d^2 / D. Blends are chosen on all folds but one and looked at on that one; d and D are sums over
the folds.
"""

from __future__ import annotations

import numpy as np

from biomass_models.targets import FloatArray
from ensembles.rules import greedy_bags
from orchestration.search.gains.family_gains import STEPS


def trial_gains(gram_KMM: FloatArray) -> FloatArray:
    """Gain in R2 of each trial for the blend of the others, [M], negative where it harms; 0 for one that is alone."""
    trials = gram_KMM.shape[1]
    if trials < 2 or len(gram_KMM) < 2:
        return np.zeros(trials)
    fall_M, apart_M = np.zeros(trials), np.zeros(trials)  # d, D
    total_MM = gram_KMM.sum(axis=0)
    for held_MM in gram_KMM:
        train_MM = total_MM - held_MM
        weight_M = greedy_bags(train_MM, np.ones((1, trials), dtype=bool), STEPS)[0]
        product_M = held_MM @ weight_M  # of each trial's error with the blend's
        square_M = np.full(trials, weight_M @ product_M)  # of the blend's own
        in_it = np.flatnonzero(weight_M)
        without_bM = np.ones((len(in_it), trials), dtype=bool)
        without_bM[np.arange(len(in_it)), in_it] = False
        weight_bM = greedy_bags(train_MM, without_bM, STEPS)
        product_bM = weight_bM @ held_MM
        product_M[in_it] = product_bM[np.arange(len(in_it)), in_it]
        square_M[in_it] = (product_bM * weight_bM).sum(axis=1)
        fall_M += square_M - product_M
        apart_M += square_M - 2 * product_M + held_MM.diagonal()
    known_M = apart_M > 1e-12
    gain_M: FloatArray = np.divide(fall_M * np.abs(fall_M), apart_M, out=np.zeros(trials), where=known_M)
    return gain_M
