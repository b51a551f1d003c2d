"""Tree-structured Parzen estimator: Optuna's, over observations that are kept as arrays between proposals.

N observations in the order of proposal, R pending trials, P fields that have more than one value.
field_NP       what each trial drew, as Optuna holds it (search_spaces.to_optuna.Encoding); NaN in what it lacks
value_N        larger is better; NaN of a refused trial, which ranks behind all others

Optuna's sampler walks through all trials in Python for each field that it draws, and a study in memory copies each
trial that it is given: 70 ms a proposal after 1000 trials of 25 fields. What it computes from them is its own.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import default_gamma
from optuna.study import Study
from optuna.trial import FrozenTrial

from biomass_models.targets import FloatArray
from orchestration.search.engines.base import Observation
from orchestration.study.records import Params
from search_spaces.domain import SearchSpace
from search_spaces.to_optuna import Encoding, encode, suggest

STARTUP_TRIALS = 10  # random draws before a sampler models anything; Optuna's default, stated for it decides proposals
Joint = Mapping[str, BaseDistribution]  # fields that a model draws together, sorted by name


class TpeEngine:
    """Pending trials count as bad ones (constant liar), refused ones rank last.

    Fields that every trial has are drawn together (multivariate). One that exists only under a condition is drawn by an
    estimator of its own, from the trials that have it. Optuna's `group` would draw together what has one condition: it
    is experimental, most conditions of our spaces have one field, and on these it has found nothing better.

    Source: Bergstra et al. 2011; Watanabe 2023 for the settings of Optuna.
    """

    uses_pending: ClassVar[bool] = True

    def __init__(self, space: SearchSpace) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it remarks is no user's to mend
        self._space, self._encoding = space, Encoding(space)
        self._observed: dict[str, _Observed] = {}  # by trial id
        self._in_order: list[_Observed] = []  # of proposal

    def observe(self, observation: Observation) -> bool:
        known = self._observed.pop(observation.trial_id, None)
        if known is not None:
            self._in_order.remove(known)
        if known is not None and known.params == observation.params:  # another value of the same trial
            found: tuple[FloatArray, NDArray[np.bool_]] | None = (known.field_P, known.inside_P)
        else:
            found = self._encoding.row(observation.params)
        if found is not None and (observation.refused or observation.value is not None):  # a failure teaches nothing
            value = np.nan if observation.refused or observation.value is None else observation.value
            one = _Observed(observation.place, observation.params, value, *found)
            self._observed[observation.trial_id] = one
            insort(self._in_order, one)
        return found is not None

    def ask(self, pending: Mapping[str, Params], seed: int, fixed: Params | None = None) -> Params | None:
        running = (self._encoding.row(pending[trial_id]) for trial_id in sorted(pending))
        running_RP = np.array([row[0] for row in running if row is not None]).reshape(-1, len(self._encoding.column))
        sampler = _Tpe(self._in_order, running_RP, self._encoding, seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        if fixed:
            study.enqueue_trial(encode(self._space, fixed))
        return suggest(study.ask(), self._space)


@dataclass(frozen=True, order=True, slots=True)
class _Observed:
    """An observation that the sampler learns from."""

    place: tuple[int, str]
    params: Params = field(compare=False)
    value: float = field(compare=False)
    field_P: FloatArray = field(compare=False)
    inside_P: NDArray[np.bool_] = field(compare=False)  # what lies within the ranges of today


class _Tpe(TPESampler):
    """Optuna's sampler for one proposal. It reads no trial of the study, which has none."""

    def __init__(self, observed: list[_Observed], running_RP: FloatArray, encoding: Encoding, *, seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, group=False, constant_liar=True)
        self._models = len(observed) >= STARTUP_TRIALS
        self._column = encoding.column
        self._joint: dict[str, BaseDistribution] = {}
        if not self._models:
            return
        field_NP = np.array([one.field_P for one in observed])
        common = set(np.flatnonzero(np.array([one.inside_P for one in observed]).all(axis=0)).tolist())
        self._joint = {name: one for name, one in encoding.distributions.items() if self._column[name] in common}
        below_N = _are_best(np.array([one.value for one in observed]), default_gamma(len(observed)))
        self._below_NP = field_NP[below_N]
        self._above_NP = np.concatenate([field_NP[~below_N], running_RP])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._joint

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._drawn(search_space) if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if not self._models:
            return super().sample_independent(study, trial, param_name, param_distribution)  # at random
        return self._drawn({param_name: param_distribution})[param_name]

    def _drawn(self, joint: Joint) -> dict[str, Any]:
        """The most promising of some candidates, as TPESampler._sample draws them."""
        below, above = (
            self._parzen_estimator_cls(self._columns(row_NP, joint), dict(joint), self._parzen_estimator_parameters)
            for row_NP in (self._below_NP, self._above_NP)
        )
        candidates = below.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(candidates, self._compute_acquisition_func(candidates, below, above))
        return {name: one.to_external_repr(best[name]) for name, one in joint.items()}

    def _columns(self, row_NP: FloatArray, joint: Joint) -> dict[str, FloatArray]:
        """Values by field, of the trials that have all of these fields."""
        own_NJ = row_NP[:, [self._column[name] for name in joint]]
        own_NJ = own_NJ[np.flatnonzero(~np.isnan(own_NJ).any(axis=1))]
        return dict(zip(joint, own_NJ.T, strict=True))


def _are_best(value_N: FloatArray, count: int) -> NDArray[np.bool_]:
    """Which trials are the `count` best; the earlier of equal ones, and of refused ones where there are too few."""
    best_N = np.zeros(len(value_N), dtype=bool)
    best_N[np.argsort(-value_N, kind="stable")[:count]] = True  # NaN comes last
    return best_N
