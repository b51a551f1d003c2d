"""Folds fitted again from their record: the same configuration, seed, rows and folds; are the numbers the same?

For `biomass refit` (one trial, with what may explain a difference) and `biomass audit --refit` (a sample).
"""

from __future__ import annotations

import functools
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biomass_models.backbones.weights import WeightsSource, fingerprint
from biomass_models.counted import counted
from biomass_models.data.folds import fold_hash
from biomass_models.data.table import read_train
from biomass_models.features.inputs import ImageSet
from biomass_models.interrupt import ShouldStop, StopRequested
from biomass_models.targets import TARGETS
from orchestration.study.data_changes import data_changes
from orchestration.study.environment import differences, environment
from orchestration.study.ledger import Ledger, LedgerError, folds_of
from orchestration.study.records import RestoredModel, TrialRecord
from orchestration.study.storage import Storage
from orchestration.workers.jobs import FoldJob, Outcome
from orchestration.workers.weights_here import searched_source


@dataclass(frozen=True, kw_only=True)
class FoldAgain:
    """One fold, fitted again."""

    trial_id: str
    fold: int
    same: bool  # out-of-fold rows bit for bit
    largest_difference_g: float | None  # of any mass of any row; None where it cannot be said
    problem: str | None  # why it could not be fitted or compared

    def __str__(self) -> str:
        if self.problem is not None:
            return f"fold {self.fold} {self.problem}"
        if self.same:
            return f"fold {self.fold} has the same rows, bit for bit"
        return f"fold {self.fold} has other rows, up to {self.largest_difference_g:.3g} g apart"


@dataclass(frozen=True, kw_only=True)
class Refit:
    """A trial, fitted again."""

    trial_id: str
    folds: tuple[FoldAgain, ...]
    different_here: tuple[str, ...]  # what is not as it was recorded: where to look if rows differ

    @property
    def same(self) -> bool:
        return all(fold.same for fold in self.folds)

    def __str__(self) -> str:
        verdict = "the same rows" if self.same else "OTHER ROWS"
        lines = [f"trial {self.trial_id}: {verdict} in {counted(len(self.folds), 'fold')} fitted again"]
        lines += [f"  {fold}" for fold in self.folds]
        if self.different_here:
            lines.append("Not as recorded:" if self.same else "What is not as recorded, and may be why:")
            lines += [f"  {difference}" for difference in self.different_here]
        elif not self.same:
            lines.append("All that was recorded is the same here.")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {"same": self.same, **asdict(self)}


def refit_trial(
    ledger: Ledger, trial_id: str, data_dir: Path, *, cache_dir: Path | None, weights: WeightsSource | None = None
) -> Refit:
    """Fit all finished folds of a trial again, and compare what it was made with.

    cache_dir: a feature store to take features from; None computes them afresh. weights: None takes them from where
    the search had them. Raises LedgerError for an unknown trial, one without finished folds, or a data directory
    without its images; DataError for one that cannot be read; WeightsError where the backbone's weights are not here.
    """
    record = ledger.trial(trial_id)
    metrics = {fold: one for fold in _folds(ledger) if (one := ledger.fold_metrics(trial_id, fold)) is not None}
    if not metrics:
        raise LedgerError(
            f"a refit compares with finished folds, trial {trial_id} has none; `biomass search` finishes open trials, "
            "and failed ones with --retry-failed"
        )
    weights = weights or searched_source(ledger)
    different = [*_data("a trial is fitted again", ledger, data_dir), *_weights(record, weights)]
    with tempfile.TemporaryDirectory() as folder:
        folds = tuple(Refitter(ledger, data_dir, Path(folder), cache_dir, weights).folds(trial_id, list(metrics)))
    for one in metrics.values():
        then = one.environment
        now = environment(record.family, _device_then(then), record.config)
        different += differences(then, now | {"threads": then.get("threads")})  # as many as then
    hosts = sorted({one.host for one in metrics.values()} - {socket.gethostname()})
    if hosts:
        different.append(f"fitted on {', '.join(hosts)}, this is {socket.gethostname()}")
    return Refit(trial_id=trial_id, folds=folds, different_here=tuple(dict.fromkeys(different)))


def dropped_folds(ledger: Ledger, trial_id: str) -> list[int]:
    """Folds of a trial whose model was deleted to keep --weights-gb."""
    return [fold for fold in _folds(ledger) if ledger.dropped_model(trial_id, fold) is not None]


def restore_models(
    ledger: Ledger,
    trial_id: str,
    data_dir: Path,
    *,
    cache_dir: Path,
    weights: WeightsSource | None = None,
    device: str = "auto",
    should_stop: ShouldStop | None = None,
) -> list[FoldAgain]:
    """Fit the folds of a trial again whose models were dropped, from its record and under the same seeds.

    device: of this slot; cpu where it has no GPU. Raises LedgerError for an unknown trial, one that lacks no model,
    other data or weights than the study's, and a fold that cannot be fitted; DataError and WeightsError as
    `refit_trial`; StopRequested.
    """
    record, folds = ledger.trial(trial_id), dropped_folds(ledger, trial_id)
    if not folds:
        raise LedgerError(f"a model is restored that was dropped, trial {trial_id} has all its models; leave --restore")
    weights = weights or searched_source(ledger)
    require_same("a model is restored", ledger, record, data_dir, weights)
    with tempfile.TemporaryDirectory() as folder:
        restored = list(
            Refitter(ledger, data_dir, Path(folder), cache_dir, weights, device, should_stop).restore(trial_id, folds)
        )
    if broken := [str(again) for again in restored if again.largest_difference_g is None]:
        raise LedgerError(f"trial {trial_id}: {'; '.join(broken)}; mend that, then run the same command again")
    return restored


def require_same(
    what: str, ledger: Ledger, record: TrialRecord, data_dir: Path, weights: WeightsSource, *, data: bool = True
) -> None:
    """Raise LedgerError where photographs, labels (data: unless they were compared before) or weights are not those
    that a trial was made with. what: is done, for the message."""
    _refuse(what, [*(_data(what, ledger, data_dir) if data else ()), *_weights(record, weights)])


def require_searched(what: str, ledger: Ledger, data_dir: Path) -> None:
    """Raise LedgerError where a directory has other photographs or labels than the search had. what: as above."""
    _refuse(what, list(_data(what, ledger, data_dir)))


def _refuse(what: str, different: Sequence[str]) -> None:
    if different:
        raise LedgerError(f"{what} from what it was made of; {'; '.join(different)}; give those")


class Refitter:
    """Fits folds of a study into an empty folder beside it."""

    def __init__(
        self,
        ledger: Ledger,
        data_dir: Path,
        folder: Path,
        cache_dir: Path | None,
        weights: WeightsSource,
        device: str = "auto",
        should_stop: ShouldStop | None = None,
    ) -> None:
        """folder: an empty one; cache_dir: a feature store to take features from, None computes them afresh.

        device: cpu keeps off the GPU; a fold that was fitted without one stays on the CPU in any case.
        """
        from orchestration.workers.context import WorkerContext
        from orchestration.workers.runner import JobRunner

        self._ledger, self._again, self._should_stop = ledger, Ledger(Storage(folder)), should_stop
        self._again.write_study(ledger.study(), ledger.quadrats())
        context = WorkerContext(
            study=str(folder),
            data_dir=str(data_dir.resolve()),
            cache=str(folder / "features" if cache_dir is None else cache_dir.expanduser()),
            weights=weights,
        )
        # networks that were compiled are compiled again, and what ran on a CPU does so again: they round otherwise
        self._runner = functools.cache(
            lambda compiled, where: JobRunner(replace(context, compile=compiled, device=where))
        )
        self._device = device

    def folds(self, trial_id: str, folds: Sequence[int]) -> Iterator[FoldAgain]:
        """Each as soon as it is fitted, with as many threads as it had."""
        import torch

        record = self._ledger.trial(trial_id)
        self._again.write_trial(record)
        if record.second_round is not None:
            self._again.copy_second_round(self._ledger, record.second_round.round_id)
        before = torch.get_num_threads()
        try:
            for fold in folds:
                metrics = self._ledger.fold_metrics(trial_id, fold)
                info, then = ({}, {}) if metrics is None else (metrics.info, metrics.environment)
                torch.set_num_threads(then.get("threads", before))
                job = FoldJob(trial_id=trial_id, fold=fold, together="folds_together" in info)
                device = self._device if self._device == "cpu" else _device_then(then)
                outcome = self._runner("compiled" in info, device).run(job, self._should_stop)
                if outcome.status == "stopped":
                    raise StopRequested(f"stopped on request: fold {fold} of trial {trial_id} was fitted again")
                yield self._compare(trial_id, fold, outcome)
        finally:
            torch.set_num_threads(before)

    def restore(self, trial_id: str, folds: Sequence[int]) -> Iterator[FoldAgain]:
        """Put the models of folds back that were dropped, each as soon as it is fitted."""
        for again in self.folds(trial_id, folds):
            if again.largest_difference_g is not None:
                model = self._again.fold_model(trial_id, again.fold)
                restored = RestoredModel(restored_at=time.time(), largest_difference_g=again.largest_difference_g)
                self._ledger.restore_model(trial_id, again.fold, model, restored)
            yield again

    def _compare(self, trial_id: str, fold: int, outcome: Outcome) -> FoldAgain:
        about: dict[str, Any] = {"trial_id": trial_id, "fold": fold}
        if outcome.status != "done":
            problem = f"could not be fitted again: {outcome.reason}"
            return FoldAgain(**about, same=False, largest_difference_g=None, problem=problem)
        try:
            then, now = self._ledger.fold_oof(trial_id, fold), self._again.fold_oof(trial_id, fold)
        except LedgerError as error:
            return FoldAgain(
                **about, same=False, largest_difference_g=None, problem=f"has no sound rows to compare with: {error}"
            )
        if list(then["image_id"]) != list(now["image_id"]):
            problem = f"has other images: {len(then)} then, {len(now)} here"
            return FoldAgain(**about, same=False, largest_difference_g=None, problem=problem)
        before, after = _masses(then), _masses(now)
        blank = np.isnan(before)  # targets that the study does not measure
        if (blank != np.isnan(after)).any():
            problem = "has masses where the other has none"
            return FoldAgain(**about, same=False, largest_difference_g=None, problem=problem)
        gap = float(np.abs(before - after)[~blank].max(initial=0.0))
        return FoldAgain(**about, same=same_rows(then, now), largest_difference_g=gap, problem=None)


def same_rows(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables hold the same images in the same order with the same masses, bit for bit."""
    return list(one["image_id"]) == list(other["image_id"]) and _masses(one).tobytes() == _masses(other).tobytes()


def _masses(frame: pd.DataFrame) -> np.ndarray:
    return np.ascontiguousarray(frame[list(TARGETS)].to_numpy(dtype=np.float64))


def _folds(ledger: Ledger) -> list[int]:
    return folds_of(ledger.quadrats())


def require_images(what: str, ledger: Ledger, data_dir: Path) -> pd.DataFrame:
    """The labels of a directory that has all of a study's photographs; LedgerError where one is missing."""
    recorded, here = ledger.quadrats(), read_train(data_dir)
    if absent := sorted(set(recorded["image_id"]) - set(here["image_id"])):
        raise LedgerError(
            f"{what} from the study's images, {data_dir} lacks {len(absent)} of {len(recorded)}, such as "
            f"{absent[0]}; give the --data of the search"
        )
    missing = [path for path in here["image_path"] if not (data_dir / path).is_file()]
    if missing:
        raise LedgerError(f"{what} from the study's photographs, {data_dir} lacks {missing[0]}; get it back")
    return here


def _data(what: str, ledger: Ledger, data_dir: Path) -> Iterator[str]:
    """What is not as the study recorded it, of its table and its photographs; raises as `require_images`."""
    here, study = require_images(what, ledger, data_dir), ledger.study()
    if fold_hash(ledger.quadrats(), ordered=study.settings.ordered) != study.fold_hash:
        yield "quadrats.parquet does not hold the folds that study.json names"
    yield from data_changes(ledger, here, ImageSet.from_table(data_dir, here).digests)


def _device_then(environment: Mapping[str, Any]) -> str:
    """Of a fold, from its recorded environment: cpu where it was fitted without a GPU, auto where it had one."""
    return "cpu" if environment.get("gpu", "not recorded") is None else "auto"


def _weights(record: TrialRecord, weights: WeightsSource) -> Iterator[str]:
    found = fingerprint(record.config["backbone"], weights)
    if found != record.weights:
        yield f"weights of {record.config['backbone']} {record.weights} then, {found} here"
