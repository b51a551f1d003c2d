"""Trials of the family study without a study: a configuration on all folds, and its true score.

Nothing of a search takes part, so that the same configuration with and without an option is a pair.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from family_data import FOLDS, Dataset

from biomass_models.data.cell_weights import measured_masses
from biomass_models.families.registry import model
from biomass_models.targets import FloatArray, norm_of, weighted_r2_score
from orchestration.study.seeds import derive_seed


@dataclass(frozen=True)
class Fit:
    """A configuration on all folds of a data set."""

    oof_NT: FloatArray
    test_MT: FloatArray  # mean of the fold models; no rows without a test set
    cpu_seconds: float


def fit_all_folds(dataset: Dataset, family: str, config: Any, cache: Path, seed: int) -> Fit:
    """Fit each fold and predict what it holds out, and the test set."""
    begun, quadrats, inputs, new = (
        time.process_time(),
        dataset.quadrats,
        dataset.inputs(cache),
        dataset.test_inputs(cache),
    )
    mass_NT, weight = measured_masses(quadrats)
    oof_NT, fold_N = np.full(mass_NT.shape, np.nan), quadrats["fold"].to_numpy()
    tests: list[FloatArray] = []
    for fold in range(FOLDS):
        fit = model(family).fit(config, quadrats, fold_N, fold, inputs, seed=derive_seed(seed, fold))
        oof_NT[fit.row_N] = fit.pred_NT
        if new is not None:
            tests.append(model(family).predict(config, fit.tensors, new))
    oof_NT[:, norm_of(weight) == 0] = np.nan
    return Fit(oof_NT, np.mean(tests, axis=0) if tests else dataset.test_MT, time.process_time() - begun)


def scores(dataset: Dataset, fit: Fit) -> tuple[float, float]:
    """Weighted R2 of the pooled out-of-fold rows, and of the test set (NaN without one)."""
    mass_NT, weight = measured_masses(dataset.quadrats)
    true = weighted_r2_score(dataset.test_MT, fit.test_MT) if dataset.is_drawn else float("nan")
    return weighted_r2_score(mass_NT, fit.oof_NT, weight), true
