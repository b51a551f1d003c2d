"""A model on every row of a table, with the settings that its folds chose: it predicts, and has no score of its own.

A fit wants rows on both sides of a fold. Here the held-out side is one row more, a copy of the table's first: nothing
is fitted on it, and what is predicted of it is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from biomass_models.features.inputs import Inputs
from biomass_models.interrupt import ShouldStop
from biomass_models.training.config import NetworkConfig
from biomass_models.training.fit import FoldResult

TRAINED_ON, COPY = 0, 1  # folds of the rows and of the copy


class TrainedFold(NamedTuple):
    """What a fold came to."""

    rows: int  # that it was trained on
    epoch: int | None  # whose weights it kept; None where the model has none


def config_for_all_rows(config: Any, folds: Sequence[TrainedFold], rows: int) -> Any:
    """The configuration for all `rows`: a network makes as many steps as its folds did on average, to the next epoch.

    Where folds kept their best epoch, it counts as their last one, since no row is left to choose by. What else a fit
    chooses inside its training rows, such as a penalty, it chooses again.
    """
    if not isinstance(config, NetworkConfig):
        return config
    steps = [math.ceil(fold.rows / config.batch_size) * (fold.epoch or config.epochs) for fold in folds]
    epochs = float(np.mean(steps)) / math.ceil(rows / config.batch_size)
    return replace(config, epochs=max(1, round(epochs)), select_best_epoch=False)


def fit_all_rows(
    fit: Callable[..., FoldResult],
    config: Any,
    quadrats: pd.DataFrame,
    inputs: Inputs,
    *,
    seed: int,
    should_stop: ShouldStop | None = None,
) -> FoldResult:
    """The fit of a family (families.base.Model.fit) on all rows of `quadrats`; its predictions and score mean nothing.

    What a family shares between trials it makes here itself. Raises FitError, StopRequested.
    """
    table = pd.concat([quadrats, quadrats.iloc[:1]], ignore_index=True)
    fold_N = np.full(len(table), TRAINED_ON)
    fold_N[-1] = COPY
    return fit(config, table.assign(fold=fold_N), fold_N, COPY, inputs, seed=seed, should_stop=should_stop)
