"""What a fold will cost on a slot: measured once there, then counted for each proposal. Needs no torch itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING

import pandas as pd

from biomass_models.families.base import Config
from biomass_models.families.configs import config_to_params
from biomass_models.families.speed import Speed
from biomass_models.fold_rows import folds_in, training_rows
from orchestration.progress import Say
from orchestration.search.trial import BlockedError
from orchestration.study.ledger import Ledger
from orchestration.study.settings import StudyError, StudySettings
from orchestration.workers.address import is_cluster
from orchestration.workers.jobs import CountJob, MeasureJob, Outcome, Priced
from orchestration.workers.resources import Resources
from search_spaces.domain import Choice, Integer, Plain, SearchSpace, When
from search_spaces.ranges_text import default_of


class FoldCosts:
    """Seconds of a fold by family and configuration, its features apart. Counted where torch is: on a slot."""

    def __init__(
        self,
        n_train: int,
        backbones: tuple[str, ...],
        speed: Speed | None = None,
        *,
        first: Sequence[Priced] = (),
        images: int = 0,
        on_measured: Callable[[Sequence[float], Sequence[float]], None] = lambda seconds, bank_seconds: None,
    ) -> None:
        """n_train: training rows of a fold; backbones: that may train; speed: of a slot, where known.

        first: configurations for which on_measured(seconds of a fold, of its banks of so many images) is called once
        the slot is measured; it may raise UserError.
        """
        self._n_train, self._backbones, self._speed = n_train, backbones, speed
        self._first, self._images, self._on_measured = tuple(first), images, on_measured
        self._poll: Callable[[], Outcome | None] | None = None
        self._count: Callable[[CountJob], Outcome] = _counted_here
        self._counted: list[tuple[Priced, float]] = []  # of the first ones
        self.unknown: str | None = None  # why nothing can be estimated

    @property
    def measure_job(self) -> MeasureJob | None:
        """The job that measures a slot before any fold runs on it; None where the speed is known."""
        if self._speed is not None:
            return None
        return MeasureJob(backbones=self._backbones, banks=self._first, images=self._images)

    def set_poll(self, poll: Callable[[], Outcome | None]) -> None:
        """Take the outcome of `measure_job` when it is there. poll() -> the outcome, or None until it is known."""
        self._poll = poll

    def set_counter(self, count: Callable[[CountJob], Outcome]) -> None:
        """Have folds counted by a slot, not by this process."""
        self._count = count

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
            return True
        self.take(outcome)
        return True

    def take(self, outcome: Outcome) -> None:
        """Take the speed of a slot that was measured, and have it heard what the first configurations cost there."""
        assert outcome.speed is not None
        self._speed = outcome.speed
        self._counted = [(one, self._seconds(one, outcome.speed)) for one in self._first]
        self._on_measured([seconds for _, seconds in self._counted], outcome.bank_seconds)

    def seconds(self, family: str, config: Config) -> float | None:
        """Of a fold; None where nothing is known of the slots. Raises StudyError or BlockedError where none answers."""
        if self._speed is None:
            return None
        one = Priced(family=family, config=config_to_params(config))
        known = next((seconds for first, seconds in self._counted if first == one), None)
        return self._seconds(one, self._speed) if known is None else known

    def _seconds(self, one: Priced, speed: Speed) -> float:
        outcome = self._count(CountJob(of=one, n_train=self._n_train, speed=speed))
        if outcome.seconds is not None:
            return outcome.seconds
        if outcome.status == "failed":
            raise StudyError(f"what a fold of {one.family} costs must be countable, got {outcome.reason}")
        reason = outcome.reason or "the search is being stopped"
        raise BlockedError(f"what a fold costs was not counted: {reason}; run the same command again to resume")


def _counted_here(job: CountJob) -> Outcome:
    from orchestration.workers.cost import counted_fold  # it loads torch

    return counted_fold(job)


def fold_costs_here(
    ledger: Ledger,
    spaces: Mapping[str, SearchSpace],
    here: Mapping[str, str],
    resources: Resources,
    say: Say,
    *,
    labelled: int = 0,
) -> FoldCosts:
    """What folds cost on a slot: measured there, before any fold runs on it; in this process where that is the slot.

    Once measured it says what a fold of each family's first trial will cost; StudyError where that is above the limit
    in a family that has no trial yet, but for clusters, whose slots may differ. here: backbones whose weights are here.
    labelled: photographs that models have labelled, which are training rows of each fold.
    """
    settings, quadrats = ledger.study().settings, ledger.quadrats()
    begun, cluster = {record.family for record in ledger.trials()}, is_cluster(resources.address)
    first = [
        Priced(family=name, config=config_to_params(own[0]))
        for name, space in spaces.items()
        if (own := [config for params in space.first_trials if (config := space.config(params)).backbone in here])
    ]

    def on_measured(seconds: Sequence[float], bank_seconds: Sequence[float]) -> None:
        for one, fold, bank in zip(first, seconds, bank_seconds, strict=True):
            once = f", and {bank:.0f} s once for its features" if bank else ""
            where = "on a slot" if cluster else "here"
            say(f"Estimated cost of a {one.family} fold {where} (first trial): {fold:.1f} s{once}")
            if fold > settings.max_fold_seconds and one.family not in begun and not cluster:
                raise StudyError(
                    f"a fold may take {settings.max_fold_seconds:.0f} s, the first {one.family} trial is estimated at "
                    f"{fold:.0f} s here; use --scale cpu, or raise --max-fold-seconds"
                )

    costs = FoldCosts(
        _training_rows_of_a_fold(quadrats, settings) + labelled,
        trained_backbones(spaces, here),
        first=first,
        images=len(quadrats) + labelled,
        on_measured=on_measured,
    )
    if cluster:
        say("The first slot is measured, and trials whose folds would take above --max-fold-seconds are refused")
    if resources.inline and costs.measure_job is not None:
        from biomass_models.backbones.devices import threads  # these load torch
        from orchestration.workers.cost import measured_slot

        with threads(max(1, int(resources.cpus_per_fold))):  # as a slot has: more than there are free cores crawl
            costs.take(measured_slot(costs.measure_job, "cpu" if resources.gpus_per_fold == 0 else "auto"))
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
        if any(map(_may_train, _may_be(space, "trained_blocks"))):
            named = {name for one in _may_be(space, "backbone") if isinstance(one, Choice) for name in one.options}
            names |= named & set(here)
    return tuple(sorted(names))


def _may_be(space: SearchSpace, name: str) -> Iterator[Plain]:
    """Where the values of a field come from: its domain, what it is fixed to, and its default where it is not drawn in
    each point."""
    domain = space.domains.get(name)
    if domain is not None:
        yield domain.domain if isinstance(domain, When) else domain
    if name in space.fixed:
        yield Choice((space.fixed[name],))
    elif (domain is None or isinstance(domain, When)) and (default := default_of(space, name)) is not MISSING:
        yield Choice((default,))


def _may_train(blocks: Plain) -> bool:
    """Whether numbers of trained blocks that come from there are not all 0."""
    if isinstance(blocks, Integer):
        return any(range(blocks.low, blocks.high + 1, blocks.step))
    return any(blocks.options) if isinstance(blocks, Choice) else True
