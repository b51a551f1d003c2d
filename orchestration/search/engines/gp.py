"""Gaussian process: Optuna's, over a study in memory that is made anew for each proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from orchestration.search.engines.base import Observation
from orchestration.search.engines.tpe import STARTUP_TRIALS
from orchestration.study.records import Params
from search_spaces.domain import SearchSpace
from search_spaces.to_optuna import distributions_of, encode, finished_trial, running_trial, suggest

Joint = dict[str, BaseDistribution]  # the fields that a model draws together, sorted by name


class GpEngine:
    """Gaussian process with expected improvement; needs torch. Slower than TPE, and better with few trials.

    Pending trials lower what is expected beside them. A refused trial counts as the worst that was observed. Fields
    that exist only under a condition are drawn at random.
    """

    uses_pending: ClassVar[bool] = True

    def __init__(self, space: SearchSpace) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it remarks is no user's to mend
        self._space = space
        self._modelled = {name: one for name, one in sorted(distributions_of(space).items()) if not one.single()}
        self._observed: dict[str, _Observed] = {}  # by trial id

    def observe(self, observation: Observation) -> bool:
        trial = finished_trial(self._space, observation.params, observation.value, refused=observation.refused)
        self._observed.pop(observation.trial_id, None)
        if trial is not None and (observation.refused or observation.value is not None):  # a failure teaches nothing
            domains, params = self._space.domains, observation.params
            inside = frozenset(name for name in trial.params if domains[name].contains(params[name]))
            self._observed[observation.trial_id] = _Observed(observation, _Kept(trial), inside)
        return trial is not None

    def ask(self, pending: Mapping[str, Params], seed: int, fixed: Params | None = None) -> Params | None:
        observed = self._seen(sorted(self._observed.values(), key=lambda one: one.observation.place))
        running = (running_trial(self._space, pending[trial_id]) for trial_id in sorted(pending))
        storage = InMemoryStorage()
        sampler = _Gp(
            self._joint(observed), seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False
        )
        study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler)
        study_id = storage.get_study_id_from_name(study.study_name)
        for trial in (*(one.trial for one in observed), *filter(None, running)):
            storage.create_new_trial(study_id, template_trial=trial)  # as add_trial, which would check each one again
        if fixed:
            study.enqueue_trial(encode(self._space, fixed))
        return suggest(study.ask(), self._space)

    def _seen(self, observed: Sequence[_Observed]) -> Sequence[_Observed]:
        """The observations as the sampler gets them."""
        worst = min((one.observation.value for one in observed if one.observation.value is not None), default=None)
        if worst is None:
            return []
        return [one.valued(self._space, worst) if one.observation.refused else one for one in observed]

    def _joint(self, observed: Sequence[_Observed]) -> Joint:
        """Fields that every observation has, within the range of today.

        Optuna finds the same by comparing each distribution of each trial at each proposal, which takes longer than all
        the rest of it.
        """
        if not observed:
            return {}
        common = frozenset.intersection(*(one.inside for one in observed))
        return {name: one for name, one in self._modelled.items() if name in common}


@dataclass(frozen=True, slots=True)
class _Observed:
    """An observation that a sampler learns from."""

    observation: Observation
    trial: _Kept
    inside: frozenset[str]  # fields that lie within the range of today

    def valued(self, space: SearchSpace, value: float) -> _Observed:
        """A refused one with a value."""
        trial = finished_trial(space, self.observation.params, value)
        assert trial is not None
        return _Observed(self.observation, _Kept(trial), self.inside)


class _Kept(FrozenTrial):
    """A trial that the studies of many proposals share.

    A study in memory takes a deep copy of each trial that it is given, and writes only to copies of a trial's parts: a
    shallow copy does.
    """

    def __init__(self, trial: FrozenTrial) -> None:
        self.__dict__.update(trial.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        shallow = _Kept.__new__(_Kept)
        shallow.__dict__.update(self.__dict__)
        return shallow


class _Gp(GPSampler):
    def __init__(self, joint: Joint, **settings: Any) -> None:
        super().__init__(**settings)
        self._joint = joint

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Joint:
        return self._joint
