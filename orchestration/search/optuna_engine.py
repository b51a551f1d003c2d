"""Optuna's samplers as engines: TPE, the default, and a Gaussian process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import optuna
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial

from orchestration.study.records import Params
from search_spaces.domain import SearchSpace
from search_spaces.to_optuna import STARTUP_TRIALS, encode, finished_trial, running_trial, suggest


class OptunaEngine(ABC):
    """A sampler of Optuna over an in-memory study, which holds the observations in the order of their trial ids."""

    uses_pending: ClassVar[bool]

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._observed: dict[str, FrozenTrial] = {}

    @abstractmethod
    def _sampler(self, seed: int) -> BaseSampler: ...

    def observe(self, trial_id: str, params: Params, value: float | None) -> bool:
        trial = finished_trial(self._space, params, value)
        if trial is not None:
            self._observed[trial_id] = trial
        return trial is not None

    def ask(self, pending: Mapping[str, Params], seed: int, fixed: Params | None = None) -> Params | None:
        study = optuna.create_study(direction="maximize", sampler=self._sampler(seed))
        study.add_trials(self._observed[trial_id] for trial_id in sorted(self._observed))
        if self.uses_pending:
            running = (running_trial(self._space, pending[trial_id]) for trial_id in sorted(pending))
            study.add_trials(trial for trial in running if trial is not None)
        if fixed:
            study.enqueue_trial(encode(self._space, fixed))
        return suggest(study.ask(), self._space)


class TpeEngine(OptunaEngine):
    """Tree-structured Parzen estimator over all fields jointly; pending trials count as bad ones (constant liar).

    Source: Bergstra et al. 2011; Watanabe 2023 for the settings of Optuna.
    """

    uses_pending: ClassVar[bool] = True

    def _sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True)


class GpEngine(OptunaEngine):
    """Gaussian process with expected improvement; needs torch. Slower than TPE, and better with few trials.

    Fields that exist only under a condition are drawn at random.
    """

    uses_pending: ClassVar[bool] = True

    def _sampler(self, seed: int) -> BaseSampler:
        return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False)
