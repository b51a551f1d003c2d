"""What a fold will cost on a slot: measured once there, then counted for each proposal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from biomass_models.backbones.devices import threads
from biomass_models.families import registry
from biomass_models.families.base import Config
from biomass_models.families.costs import all_feature_seconds, measure
from biomass_models.families.speed import Speed
from biomass_models.fold_rows import folds_in, training_rows
from orchestration.progress import Say
from orchestration.search.trial import BlockedError
from orchestration.study.ledger import Ledger
from orchestration.study.settings import StudyError, StudySettings
from orchestration.workers.address import is_cluster
from orchestration.workers.jobs import MeasureJob, Outcome
from orchestration.workers.resources import Resources
from search_spaces.domain import Choice, SearchSpace, When


class FoldCosts:
    """Seconds of a fold by family and configuration, its features apart."""

    def __init__(self, n_train: int, backbones: tuple[str, ...], speed: Speed | None = None) -> None:
        """n_train: training rows of a fold; backbones: that may train; speed: of a slot, where known."""
        self._n_train, self._backbones, self._speed = n_train, backbones, speed
        self._poll: Callable[[], Outcome | None] | None = None
        self.unknown: str | None = None  # why nothing can be estimated

    @property
    def measure_job(self) -> MeasureJob | None:
        """The job that measures a slot before any fold runs on it; None where the speed is known."""
        return None if self._speed is not None else MeasureJob(backbones=self._backbones)

    def set_poll(self, poll: Callable[[], Outcome | None]) -> None:
        """Take the outcome of `measure_job` when it is there. poll() -> the outcome, or None until it is known."""
        self._poll = poll

    @property
    def is_ready(self) -> bool:
        """Whether an estimate can be given at once. Raises BlockedError where the pool has no slot to measure."""
        if self._speed is not None or self.unknown is not None:
            return True
        if self._poll is None or (outcome := self._poll()) is None:
            return False
        if outcome.status == "blocked":
            raise BlockedError(f"{outcome.reason}, then run the same command again")
        if outcome.speed is None:
            self.unknown = outcome.reason or "the search is being stopped"
        self._speed = outcome.speed
        return True

    def seconds(self, family: str, config: Config) -> float | None:
        """Of a fold; None where nothing is known of the slots."""
        if self._speed is None:
            return None
        return registry.model(family).fold_seconds(config, self._n_train, self._speed)


def fold_costs_here(
    ledger: Ledger,
    spaces: Mapping[str, SearchSpace],
    here: Mapping[str, str],
    resources: Resources,
    say: Say,
    *,
    labelled: int = 0,
) -> FoldCosts:
    """What folds cost on a slot: of this machine, measured now while nothing else runs; of a cluster, measured there.

    Here it prints what a fold of each family's first trial will cost; StudyError where that is above the limit
    in a family that has no trial yet. here: backbones whose weights are here. labelled: photographs that models have
    labelled, which are training rows of each fold.
    """
    settings, quadrats = ledger.study().settings, ledger.quadrats()
    images, n_train = len(quadrats) + labelled, _training_rows_of_a_fold(quadrats, settings) + labelled
    backbones = trained_backbones(spaces, here)
    if is_cluster(resources.address):  # this machine says nothing about the workers
        say("The first slot is measured, and trials whose folds would take above --max-fold-seconds are refused")
        return FoldCosts(n_train, backbones)
    device = "cpu" if resources.gpus_per_fold == 0 else "auto"
    with threads(max(1, int(resources.cpus_per_fold))):  # as a slot has: more than there are free cores crawl
        speed = measure(backbones, device)
        costs, begun = FoldCosts(n_train, backbones, speed), {record.family for record in ledger.trials()}
        for name, space in spaces.items():
            first = [config for params in space.first_trials if (config := space.config(params)).backbone in here]
            if not first:
                continue
            fold = costs.seconds(name, first[0]) or 0.0
            bank = all_feature_seconds(registry.model(name).feature_specs(first[0]), images, device)
            once = f", and {bank:.0f} s once for its features" if bank else ""
            say(f"Estimated cost of a {name} fold here (first trial): {fold:.1f} s{once}")
            if fold > settings.max_fold_seconds and name not in begun:
                raise StudyError(
                    f"a fold may take {settings.max_fold_seconds:.0f} s, the first {name} trial is estimated at "
                    f"{fold:.0f} s here; use --scale cpu, or raise --max-fold-seconds"
                )
    return costs


def _training_rows_of_a_fold(quadrats: pd.DataFrame, settings: StudySettings) -> int:
    """Of the last and largest where folds are ordered, else of the mean one."""
    fold_N = quadrats["fold"].to_numpy()
    if settings.ordered:
        return int(training_rows(fold_N, folds_in(fold_N)[-1], ordered=True).sum())
    scored = int((fold_N >= 0).sum())
    return len(fold_N) - scored + round(scored * (1 - 1 / settings.folds))


def trained_backbones(spaces: Mapping[str, SearchSpace], here: Mapping[str, str]) -> tuple[str, ...]:
    """Backbones of which some proposal may train blocks: their passes are timed.

    here: those whose weights are here.
    """
    names = set()
    for space in spaces.values():
        if any(_options(space, "trained_blocks")):
            names |= {str(name) for name in _options(space, "backbone")} & set(here)
    return tuple(sorted(names))


def _options(space: SearchSpace, name: str) -> tuple[Any, ...]:
    domain = space.domains.get(name)
    domain = domain.domain if isinstance(domain, When) else domain
    return domain.options if isinstance(domain, Choice) else (space.fixed[name],) if name in space.fixed else ()
