"""Test images through the chosen members, on the same pool that fitted them; and what flips would gain.

Work is sharded by image: a shard goes to one worker, which predicts it with every member. What is finished is kept
in the members' studies, so that a stopped command can be resumed, and a second blend needs no second inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from biomass_models.backbones.weights import WeightsSource
from biomass_models.counted import counted
from biomass_models.data.alignment import masses_of
from biomass_models.data.table import read_test
from biomass_models.features.cache_folder import usable_cache
from biomass_models.features.eviction import Area
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.features.likeness import EmbeddingBank
from biomass_models.features.states import StateBank
from biomass_models.fold_rows import INSTEAD, NONE
from biomass_models.targets import FloatArray
from orchestration.progress import progress_bar
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import TrialRef
from orchestration.study.seeds import content_id
from orchestration.study.storage import Storage
from orchestration.workers.address import is_cluster
from orchestration.workers.cluster import ray_cluster
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import AllRowsJob, FlipsJob, Job, PredictJob, RestoreJob
from orchestration.workers.pool import PREDICT, Pool
from orchestration.workers.refit import dropped_folds, require_same
from orchestration.workers.resources import Resources
from orchestration.workers.shards import spans
from orchestration.workers.slots.inline_pool import inline_slot
from orchestration.workers.slots.ray_pool import GuardedPool, RayPool, start_broker
from orchestration.workers.weights_here import searched_source, source_of_bank, source_of_trials


class Predictor:
    """Predictions of trials on one data directory; starts workers only when something is missing."""

    def __init__(self, data_dir: Path, *, resources: Resources, weights: WeightsSource | None = None) -> None:
        """weights: where backbones' weights come from; None: from where the members' searches had them."""
        self._data_dir, self._resources, self._weights = data_dir, resources, weights
        self.fingerprint: str | None = None  # of the test photographs and their ids, once they were predicted

    @property
    def on_a_cluster(self) -> bool:
        """Whether features are computed on other machines than this."""
        return is_cluster(self._resources.address)

    def test(self, members: Mapping[str, TrialRef], *, flips: int, all_rows: str = NONE) -> dict[str, FloatArray]:
        """Masses [N, 5] in grams of test.csv's images by member, each a mean over its models and flips.

        all_rows: of fold_rows.ALL_ROWS; models that are missing are fitted on this data directory first. Raises
        LedgerError when a member's weights are not those it was trained on, or a prediction fails.
        """
        images = ImageSet.from_table(self._data_dir, read_test(self._data_dir))
        self.fingerprint = test_fingerprint(images)
        return self._new(members, images, test_name(images, flips, all_rows), flips=flips, all_rows=all_rows)

    def exam(
        self, study: Ledger, members: Mapping[str, TrialRef], *, flips: int, all_rows: str = NONE
    ) -> dict[str, FloatArray]:
        """The same of the images that a study keeps for its exam; all members are its own trials."""
        table = study.exam_quadrats()
        if table is None:
            raise LedgerError(f"{study.storage.uri} keeps no exam; search with --exam SHARE")
        images = ImageSet.from_table(self._data_dir, table)
        known = study.photographs()
        then = {} if known is None else dict(zip(known["image_id"], known["blake2b"], strict=True))
        others = [name for name, digest in zip(images.image_ids, images.digests, strict=True) if then[name] != digest]
        if others:
            strange = f"{counted(len(others), 'is another', 'are others')} in {self._data_dir} (such as {others[0]})"
            raise LedgerError(
                f"an exam is of the photographs that the study has kept, {strange}; give the --data of the search"
            )
        name = f"exam-{test_fingerprint(images)}{_how(flips, all_rows)}"
        return self._new(members, images, name, flips=flips, all_rows=all_rows, exam=True)

    def train_features(self, ledger: Ledger, trial_id: str, bank: StateBank | EmbeddingBank) -> FloatArray:
        """Features [N, F] of a study's photographs, in the order of its quadrats; they and the weights must be those
        that a trial was made with, else LedgerError."""
        source = source_of_bank(self._weights or searched_source(ledger), bank)
        require_same(bank.purpose, ledger, ledger.trial(trial_id), self._data_dir, source)
        return self._features(ImageSet.from_table(self._data_dir, ledger.quadrats()), bank, source, "study")

    def new_features(self, ledger: Ledger, bank: StateBank, *, exam: bool) -> FloatArray:
        """The same of test.csv's photographs, or of those of the study's exam."""
        source = source_of_bank(self._weights or searched_source(ledger), bank)
        table = ledger.exam_quadrats() if exam else read_test(self._data_dir)
        if table is None:
            raise LedgerError(f"{ledger.storage.uri} keeps no exam; search with --exam SHARE")
        return self._features(ImageSet.from_table(self._data_dir, table), bank, source, "prediction")

    def _features(
        self, images: ImageSet, bank: StateBank | EmbeddingBank, source: WeightsSource, area: Area
    ) -> FloatArray:
        folder, _ = usable_cache(self._resources.cache.expanduser())
        return bank.features(Inputs(images, cache_dir=folder, weights=source, fit=bank.fit, area=area))

    def fit_on_all_rows(self, members: Mapping[str, TrialRef]) -> None:
        """Fit each member on every labelled row of its study, unless that was done. Raises LedgerError as `test`."""
        self._run(members, [], "", all_rows=INSTEAD)

    def _new(
        self,
        members: Mapping[str, TrialRef],
        images: ImageSet,
        name: str,
        *,
        flips: int,
        all_rows: str,
        exam: bool = False,
    ) -> dict[str, FloatArray]:
        """Predictions of images that no member has learned from; name: of the folder that keeps them."""
        missing = {
            member: ref for member, ref in members.items() if _ledger(ref).member_prediction(name, ref.trial_id) is None
        }
        shards = spans(len(images.image_ids))
        refs = tuple(missing.values())
        jobs: list[Job] = [
            PredictJob(members=refs, ensemble=name, span=span, flips=flips, exam=exam, all_rows=all_rows)
            for span in shards
        ]
        self._run(missing, jobs, "Predicting the exam" if exam else "Predicting test images", all_rows=all_rows)
        for ref in missing.values():
            _ledger(ref).join_member_shards(name, ref.trial_id, shards)
        image_id = pd.Series(images.image_ids)
        return {member: _kept(ref, name, image_id) for member, ref in members.items()}

    def out_of_fold(self, members: Mapping[str, TrialRef], image_id: pd.Series, *, flips: int) -> dict[str, FloatArray]:
        """Out-of-fold masses [N, 5] in grams by member as means over flips, rows in the order of image_id."""
        name = f"oof-flips-{flips}"
        missing = {
            member: ref for member, ref in members.items() if _ledger(ref).member_prediction(name, ref.trial_id) is None
        }
        jobs: list[Job] = [
            FlipsJob(study=ref.study, trial_id=ref.trial_id, ensemble=name, flips=flips) for ref in missing.values()
        ]
        self._run(missing, jobs, f"Training images, {flips} flips")
        return {member: _kept(ref, name, image_id) for member, ref in members.items()}

    def _run(self, members: Mapping[str, TrialRef], jobs: list[Job], label: str, *, all_rows: str = NONE) -> None:
        """Models that are missing first, then the jobs."""
        refs = tuple(members.values())
        restores: list[Job] = [
            RestoreJob(study=ref.study, trial_id=ref.trial_id)
            for ref in refs
            if all_rows != INSTEAD and dropped_folds(_ledger(ref), ref.trial_id)
        ]
        fits: list[Job] = [
            AllRowsJob(study=ref.study, trial_id=ref.trial_id)
            for ref in refs
            if all_rows != NONE and _ledger(ref).all_rows_model(ref.trial_id) is None
        ]
        if not refs or not (jobs or fits):
            return
        weights = source_of_trials(refs, self._weights)
        with self.pool(refs[0].study, weights) as pool:
            _do(pool, restores, "Fitting models again that were dropped")
            _do(pool, fits, "Fitting members on all rows")
            _do(pool, jobs, label)

    @contextmanager
    def pool(self, study: str, weights: WeightsSource) -> Iterator[Pool]:
        """Warm workers, for as long as there is something to predict."""
        context = WorkerContext(
            study=study,
            data_dir=str(self._data_dir.resolve()),
            cache=str(self._resources.cache.expanduser().resolve()),
            weights=weights.absolute(),
        )
        if self._resources.inline:
            with inline_slot(context, self._resources) as pool:
                yield pool
            return
        with ray_cluster(self._resources.address) as pulse:
            broker, _ = pulse.guard(lambda: start_broker(context, self._resources))
            yield GuardedPool(RayPool(broker), pulse)


def _do(pool: Pool, jobs: list[Job], label: str) -> None:
    if not jobs:
        return
    with progress_bar(label) as update:
        for done, (_, outcome) in enumerate(pool.run(jobs, PREDICT), start=1):
            if outcome.status != "done":
                reason = outcome.reason or "it was stopped"
                raise LedgerError(f"{label.lower()} came to an end: {reason}; what is done is kept")
            update(done, len(jobs))


def test_name(images: ImageSet, flips: int, all_rows: str = NONE) -> str:
    """Folder of a test set's predictions: other photographs, ids, flips or models are other predictions."""
    return f"test-{test_fingerprint(images)}{_how(flips, all_rows)}"


def _how(flips: int, all_rows: str) -> str:
    return f"-flips-{flips}" * (flips > 1) + f"-all-rows-{all_rows}" * (all_rows != NONE)


def test_fingerprint(images: ImageSet) -> str:
    """Of a test set: ids and contents of its photographs in order."""
    return content_id(images.image_ids, images.digest)


def _kept(ref: TrialRef, name: str, image_id: pd.Series) -> FloatArray:
    frame = _ledger(ref).member_prediction(name, ref.trial_id)
    if frame is None:
        raise LedgerError(f"the predictions of member {ref.trial_id} are missing in {ref.study}; run the command again")
    return masses_of(frame, image_id)


def _ledger(ref: TrialRef) -> Ledger:
    return Ledger(Storage(ref.study))
