"""Runs the jobs of a slot (jobs.py), one at a time. Ray-free; the pool gives it a process and a device.

A worker stays warm: backbones, feature banks and the table are loaded once and serve every later job.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import save as save_tensors

from biomass_models.backbones.devices import require_device
from biomass_models.counted import counted
from biomass_models.data.cell_weights import measured_masses
from biomass_models.data.frames import Fit
from biomass_models.data.table import read_test
from biomass_models.errors import StoreError
from biomass_models.families import registry
from biomass_models.families.base import Artefact, Shared
from biomass_models.families.introduced import config_from_stored
from biomass_models.families.pseudo_rows import with_pseudo_rows
from biomass_models.features.cache_folder import require_usable, usable_cache
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.features.rows import CacheError
from biomass_models.fold_rows import scored_rows, training_rows
from biomass_models.interrupt import OnProgress, ShouldStop, StopRequested, check_stop
from biomass_models.targets import TARGETS, FloatArray, IntArray, blank_unmeasured, norm_of, weights_in
from biomass_models.training.fit import FitError, FoldResult, score_or_nan
from orchestration.study.environment import environment
from orchestration.study.ledger import Ledger, LedgerError, folds_of
from orchestration.study.records import FoldMetrics, TrialRecord, TrialRound
from orchestration.study.seeds import derive_seed
from orchestration.study.storage import Storage
from orchestration.workers.all_rows import fit_trial_on_all_rows
from orchestration.workers.context import WorkerContext
from orchestration.workers.cost import Cost, Meter, counted_fold, measured_slot
from orchestration.workers.jobs import (
    AllRowsJob,
    CountJob,
    FlipsJob,
    FoldJob,
    Job,
    LabelJob,
    MeasureJob,
    Outcome,
    PredictJob,
    RestoreJob,
)
from orchestration.workers.shards import label_photographs, predict_out_of_fold, predict_shard, shard_inputs
from orchestration.workers.shared import artefact_id, artefact_of

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class JobRunner:
    """Runs jobs of one study in this process, one at a time."""

    def __init__(self, context: WorkerContext, on_progress: OnProgress | None = None) -> None:
        self._context, self._on_progress = context, on_progress
        self._has_cache = False  # whether the context's cache is the one that this node can use
        self._ledger = Ledger(Storage(context.study))
        self._inputs: dict[str, Inputs] = {}
        self._quadrats: pd.DataFrame | None = None
        self._new: dict[bool, ImageSet] = {}  # test images, and those of the exam

    def run(self, job: Job, should_stop: ShouldStop | None = None) -> Outcome:
        """Do one job. Never raises for what a model does, but DeviceLostError where the process can do no more."""
        try:
            self._require_cache()
            match job:
                case FoldJob():
                    return self._fold(job.trial_id, job.fold, job.together, should_stop)
                case FlipsJob():
                    return self._flips(job, should_stop)
                case PredictJob():
                    return self._predict(job, should_stop)
                case MeasureJob():
                    return measured_slot(job, self._context.device, should_stop)
                case CountJob():
                    return counted_fold(job)
                case RestoreJob():
                    return self._restore(job, should_stop)
                case AllRowsJob():
                    return self._all_rows(job, should_stop)
                case LabelJob():
                    return self._label(job, should_stop)
        except StopRequested:
            return Outcome(status="stopped")
        except (CacheError, LedgerError, StoreError) as error:  # not of the configuration: the trial stays open
            return Outcome(status="blocked", reason=f"{error}")
        except OSError as error:
            if error.errno in NO_ROOM or self._is_ours(error.filename, job):
                reason = f"the study and the feature cache must have room and answer, got {error}; make room"
                return Outcome(status="blocked", reason=reason)
            return Outcome(status="failed", reason=f"{type(error).__name__}: {error}")
        except Exception as error:
            # The boundary of a trial: whatever a model, an image or a disk does becomes the trial's recorded reason.
            require_device()
            return Outcome(status="failed", reason=f"{type(error).__name__}: {error}")

    def _require_cache(self) -> None:
        """The first job chooses the folder, for this node may lack what the driver's has; later ones stay with it."""
        if self._has_cache:
            require_usable(Path(self._context.cache))
            return
        folder, _ = usable_cache(Path(self._context.cache))
        self._context, self._has_cache = replace(self._context, cache=str(folder)), True

    def _is_ours(self, filename: object, job: Job) -> bool:
        """Whether a file lies in a study or in the feature cache: what goes wrong there is not the trial's fault."""
        roots = (self._context.study, self._context.cache, getattr(job, "study", self._context.study))
        return isinstance(filename, str) and any(Path(filename).is_relative_to(root) for root in roots)

    def _fold(self, trial_id: str, fold: int, together: bool, should_stop: ShouldStop | None) -> Outcome:
        """One fold; together: all folds of the trial in one batch, of which those that are missing are written."""
        done = self._ledger.fold_metrics(trial_id, fold)
        if done is not None:
            return Outcome(status="done", metrics=done)
        check_stop(should_stop, f"fold {fold} had not begun")
        record = self._ledger.trial(trial_id)
        # always all of them: what else is in a batch may change the rounding, and a resumed trial must not differ
        folds = folds_of(self._train_table()) if together else [fold]
        missing = [own for own in folds if self._ledger.fold_metrics(trial_id, own) is None]
        for own in missing:
            self._ledger.note_fold_start(trial_id, own)
        meter = Meter(self._context.gpus)
        results = self._fit(record, folds, together, should_stop)
        cost = meter.read()
        written = {own: self._write(record, own, results[own], cost, share=1 / len(folds)) for own in missing}
        return Outcome(status="done", metrics=written[fold])

    def _fit(
        self, record: TrialRecord, folds: list[int], together: bool, should_stop: ShouldStop | None
    ) -> dict[int, FoldResult]:
        """together: as one batch, of folds that are not ordered: they learn from one table."""
        model, inputs = registry.model(record.family), self._learned("train", self._ledger, record.second_round)
        config = config_from_stored(record.family, record.config)
        for spec in model.feature_specs(config):  # here, because a fit reports no such progress
            inputs.features(spec, on_progress=self._on_progress, should_stop=should_stop)
        seeds = [derive_seed(record.seed, record.trial_id, fold, "fit") for fold in folds]
        if together and model.fit_folds is not None:
            if self._ordered or record.second_round is not None:
                raise ValueError(
                    "folds in order of time, or of a second round, learn from different rows: fit each alone"
                )
            table = self._train_table()
            results = model.fit_folds(
                config, table, table["fold"].to_numpy(), folds, inputs, seeds=seeds, should_stop=should_stop
            )
            return dict(zip(folds, results, strict=True))
        (fold,), (seed,) = folds, seeds
        seen, place_N = self._seen(fold)
        table = self._with_pseudo_labels(seen, fold, record.second_round)
        fold_N = table["fold"].to_numpy()
        settings = None if model.shared is None else model.shared.settings(config)
        if model.shared is None or settings is None:
            result = model.fit(config, table, fold_N, fold, inputs, seed=seed, should_stop=should_stop)
        else:
            made = self._shared(model.shared, settings, seen, fold, should_stop)
            result = model.fit(config, table, fold_N, fold, inputs, seed=seed, should_stop=should_stop, shared=made)
            result.info[model.shared.name] = artefact_id(model.shared, settings)
            result.info[f"{model.shared.name}_score"] = made.score if math.isfinite(made.score) else None
        if record.second_round is not None:
            result.info["pseudo_rows"] = len(table) - len(seen)
        return {fold: replace(result, row_N=place_N[result.row_N])}

    def _with_pseudo_labels(self, seen: pd.DataFrame, fold: int, second_round: TrialRound | None) -> pd.DataFrame:
        """What a fold trains on and holds out, with the photographs of a second round as its models label them."""
        if second_round is None:
            return seen
        labels = self._ledger.pseudo_labels(second_round.round_id, [fold])
        return with_pseudo_rows(seen, *labels, second_round.weight)

    @property
    def _ordered(self) -> bool:
        return self._ledger.study().settings.ordered

    def _seen(self, fold: int) -> tuple[pd.DataFrame, IntArray]:
        """What a fold trains on and what it holds out, which is all that a family is shown; and where these rows stand
        in the table."""
        table = self._train_table()
        fold_N = table["fold"].to_numpy()
        seen_N = training_rows(fold_N, fold, ordered=self._ordered) | (fold_N == fold)
        place_N = np.flatnonzero(seen_N)
        return (table if seen_N.all() else table[seen_N].reset_index(drop=True)), place_N

    def _write(self, record: TrialRecord, fold: int, result: FoldResult, cost: Cost, share: float) -> FoldMetrics:
        """share: of the cost, where several folds were one batch."""
        rows = self._train_table().iloc[result.row_N]
        mass_NT, weight = measured_masses(self._train_table())
        pred_NT = _required_masses(record.family, result.pred_NT, norm_of(weight))
        score = score_or_nan(mass_NT[result.row_N], pred_NT, weights_in(weight, result.row_N))
        oof = rows[["image_id", "fold", "group"]].reset_index(drop=True)
        oof[list(TARGETS)] = pred_NT
        metrics = FoldMetrics(
            fold=fold,
            images=len(rows),
            # one image, or images all alike, have no spread and so no R2 of their own; the pooled score has
            score=score if math.isfinite(score) else None,
            started_at=cost.started_at,
            finished_at=cost.finished_at,
            seconds=cost.seconds * share,
            cpu_seconds=cost.cpu_seconds * share,
            gpu_seconds=cost.gpu_seconds * share,
            peak_memory_mb=cost.peak_memory_mb,
            peak_gpu_memory_mb=cost.peak_gpu_memory_mb,
            host=cost.host,
            pid=cost.pid,
            epochs=tuple(_finite(epoch) for epoch in result.epochs),
            info=result.info,
            environment=environment(record.family, self._context.device, record.config),
        )
        self._ledger.write_fold(
            record.trial_id,
            oof=oof,
            model=save_tensors(result.tensors),
            metrics=metrics,
            maps=result.maps,
        )
        return metrics

    def _shared(
        self, shared: Shared, settings: Any, seen: pd.DataFrame, fold: int, should_stop: ShouldStop | None
    ) -> Artefact:
        return artefact_of(
            self._ledger,
            shared,
            settings,
            seen,
            fold,
            study_seed=self._ledger.study().settings.seed,
            lock_dir=Path(self._context.cache),
            should_stop=should_stop,
        )

    def _predict(self, job: PredictJob, should_stop: ShouldStop | None) -> Outcome:
        """One shard of the test images, or of the exam's, with all members of a blend."""
        if job.exam not in self._new:
            folder = Path(self._context.data_dir)
            table = self._ledger.exam_quadrats() if job.exam else read_test(folder)
            if table is None:
                raise LedgerError(f"{self._context.study} keeps no exam")
            self._new[job.exam] = ImageSet.from_table(folder, table)
        inputs_of, decoder = shard_inputs(
            self._new[job.exam],
            job.span,
            cache_dir=Path(self._context.cache),
            weights=self._context.weights,
            device=self._context.device,
            cache_gb=self._context.cache_gb,
        )
        done = predict_shard(
            job.members,
            job.ensemble,
            job.span,
            inputs_of,
            flips=job.flips,
            all_rows=job.all_rows,
            should_stop=should_stop,
        )
        return Outcome(status="done", members=done, decoded=decoder.decoded)

    def _label(self, job: LabelJob, should_stop: ShouldStop | None) -> Outcome:
        """The photographs of a second round, by one model."""
        if self._ledger.member_labels(job.round_id, job.trial_id, job.fold) is None:
            if (name := f"labelled in {job.round_id}") not in self._inputs:
                images = self._round_images(self._ledger, job.round_id)
                self._inputs[name] = self._inputs_of(images, self._ledger.study().settings.fit)
            label_photographs(
                self._ledger, job.round_id, job.trial_id, job.fold, self._inputs[name], should_stop=should_stop
            )
        return Outcome(status="done")

    def _flips(self, job: FlipsJob, should_stop: ShouldStop | None) -> Outcome:
        """A member's out-of-fold rows as means over flips."""
        ledger = Ledger(Storage(job.study))
        if job.study not in self._inputs:
            images = ImageSet.from_table(Path(self._context.data_dir), scored_rows(ledger.quadrats()))
            self._inputs[job.study] = self._inputs_of(images, ledger.study().settings.fit)
        predict_out_of_fold(
            ledger,
            job.trial_id,
            job.ensemble,
            self._inputs[job.study],
            flips=job.flips,
            should_stop=should_stop,
        )
        return Outcome(status="done")

    def _restore(self, job: RestoreJob, should_stop: ShouldStop | None) -> Outcome:
        """The models of a trial that were dropped."""
        from orchestration.workers.refit import restore_models  # which fits with a runner of its own

        ledger, context = Ledger(Storage(job.study)), self._context
        restore_models(
            ledger,
            job.trial_id,
            Path(context.data_dir),
            cache_dir=Path(context.cache),
            weights=context.weights,
            device=context.device,
            should_stop=should_stop,
        )
        return Outcome(status="done")

    def _all_rows(self, job: AllRowsJob, should_stop: ShouldStop | None) -> Outcome:
        """A trial's model on all rows, from the photographs and weights that its folds were made of."""
        from orchestration.workers.refit import require_same  # which imports this module

        ledger = Ledger(Storage(job.study))
        if ledger.all_rows_model(job.trial_id) is not None:
            return Outcome(status="done")
        record, name = ledger.trial(job.trial_id), f"{job.study} as it was searched"
        known, folder = _named(name, record.second_round) in self._inputs, Path(self._context.data_dir)
        require_same("a trial is fitted on all rows", ledger, record, folder, self._context.weights, data=not known)
        inputs = self._learned(name, ledger, record.second_round)
        config = config_from_stored(record.family, record.config)
        for spec in registry.model(record.family).feature_specs(config):  # a fit reports no such progress
            inputs.features(spec, on_progress=self._on_progress, should_stop=should_stop)
        fit_trial_on_all_rows(
            ledger,
            job.trial_id,
            inputs,
            device=self._context.device,
            gpus=self._context.gpus,
            should_stop=should_stop,
        )
        return Outcome(status="done")

    def _train_table(self) -> pd.DataFrame:
        if self._quadrats is None:
            self._quadrats = self._ledger.quadrats()
        return self._quadrats

    def _learned(self, name: str, ledger: Ledger, second_round: TrialRound | None) -> Inputs:
        """Of all photographs that a trial learns from: the study's, and those of its second round."""
        if (name := _named(name, second_round)) not in self._inputs:
            images = ImageSet.from_table(Path(self._context.data_dir), ledger.quadrats())
            if second_round is not None:
                images = images.and_(self._round_images(ledger, second_round.round_id))
            self._inputs[name] = self._inputs_of(images, ledger.study().settings.fit)
        return self._inputs[name]

    def _round_images(self, ledger: Ledger, round_id: str) -> ImageSet:
        """The photographs of a second round. Raises LedgerError where they are not those that it was made of."""
        table, folder = ledger.round_photographs(round_id), Path(self._context.data_dir)
        if gone := [path for path in table["image_path"] if not (folder / str(path)).is_file()]:
            raise LedgerError(
                f"a second round learns from the test photographs that it began with, {folder} lacks "
                f"{counted(len(gone), 'photograph')} of {len(table)}, such as {gone[0]}; give the --data of that search"
            )
        images = ImageSet.from_table(folder, table)
        others = [
            name
            for name, now, then in zip(table["image_path"], images.digests, table["blake2b"], strict=True)
            if now != then
        ]
        if others:
            raise LedgerError(
                f"a second round learns from the test photographs that it began with, "
                f"{counted(len(others), 'is another', 'are others')} in {folder} (such as {others[0]}); give the "
                "--data of that search"
            )
        return images

    def _inputs_of(self, images: ImageSet, fit: Fit) -> Inputs:
        return Inputs(
            images,
            cache_dir=Path(self._context.cache),
            weights=self._context.weights,
            device=self._context.device,
            fit=fit,
            cache_gb=self._context.cache_gb,
            compile=self._context.compile,
        )


def _named(name: str, second_round: TrialRound | None) -> str:
    return name if second_round is None else f"{name}, {second_round.round_id}"


def _required_masses(family: str, pred_NT: FloatArray, norm_T: FloatArray) -> FloatArray:
    """What a family predicted of the targets that were measured, NaN in the others; FitError for what is no mass."""
    pred_NT = blank_unmeasured(np.asarray(pred_NT, dtype=np.float64), norm_T)
    wrong_NT = ~(np.isfinite(pred_NT) & (pred_NT >= 0)) & (norm_T > 0)
    if wrong_NT.any():
        row, target = np.argwhere(wrong_NT)[0]
        rows = counted(int(wrong_NT.any(1).sum()), "row")
        raise FitError(
            f"predictions are finite grams of at least 0, {family} has {rows} with others, such as "
            f"{TARGETS[target]} = {pred_NT[row, target]:g}; mend the family, or change its settings"
        )
    return pred_NT


def _finite(record: Mapping[str, float]) -> Mapping[str, float | None]:
    """JSON has no NaN: a fold without spread has no score."""
    return {name: value if math.isfinite(value) else None for name, value in record.items()}
