"""Predictions of members, photograph by photograph: what a worker does for one shard. Ray-free.

A shard is a run of test or exam images. All members of a blend predict it in one go, so that each photograph is
decoded once (images.DecodeOnce) whatever the number of members, folds, views and sizes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from safetensors.torch import load as load_tensors

from biomass_models.backbones.adapter import Backbone
from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.cell_weights import cell_weights
from biomass_models.data.frames import Fit
from biomass_models.data.images import DecodeOnce
from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.families.base import Config
from biomass_models.families.introduced import config_from_stored
from biomass_models.families.needed_packages import packages_of
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.fold_rows import NONE, scored_rows
from biomass_models.interrupt import ShouldStop, StopRequested, check_stop
from biomass_models.targets import TARGETS, FloatArray, blank_unmeasured, norm_of
from orchestration.study.ledger import Ledger, predicting_models
from orchestration.study.records import Params, TrialRef
from orchestration.study.storage import Storage

InputsOfFit = Callable[[Fit], Inputs]
SHARD_IMAGES = 48  # one worker's piece; decoded at full scale they take 300 MB


class MemberError(UserError):
    """A member that cannot predict; the text says which and why."""


class NamedMember(Protocol):
    """Of a blend."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def config(self) -> Params: ...


def require_packages(members: Iterable[NamedMember]) -> None:
    """Raise MemberError where a member needs a package that is not here: before the first photograph is read."""
    for member in members:
        for package in packages_of(member.family, member.config):
            if importlib.util.find_spec(package) is None:
                raise MemberError(
                    f"member {member.name} needs the package {package}, which cannot be imported; install it (pip "
                    f"install {package}), without a network from wheels brought along (--no-index --find-links FOLDER)"
                )


def spans(images: int) -> list[tuple[int, int]]:
    """(first, last + 1) of each shard."""
    return [(start, min(start + SHARD_IMAGES, images)) for start in range(0, images, SHARD_IMAGES)]


def shard_inputs(
    images: ImageSet,
    span: tuple[int, int],
    *,
    cache_dir: Path,
    weights: WeightsSource,
    device: str = "auto",
    cache_gb: float | None = None,
    frozen: dict[str, Backbone] | None = None,
) -> tuple[InputsOfFit, DecodeOnce]:
    """Inputs of one shard by what a study's models see of photographs, which are decoded once; and the decoder.

    frozen: backbones that shards share to encode with. Features count for the predictions' quota of the store: training
    banks never make room for them.
    """
    decoder = DecodeOnce()
    part = images.take(np.arange(*span))

    @cache
    def inputs_of(fit: Fit) -> Inputs:
        return Inputs(
            part,
            cache_dir=cache_dir,
            weights=weights,
            device=device,
            fit=fit,
            load=decoder,
            cache_gb=cache_gb,
            area="prediction",
            frozen=frozen,
        )

    return inputs_of, decoder


def mean_prediction(
    family: str,
    params: Params,
    models: Iterable[bytes],
    inputs: Inputs,
    *,
    flips: int,
    should_stop: ShouldStop | None = None,
) -> FloatArray:
    """Mean masses [N, 5] in grams over some of a member's models (safetensors bytes) for all images of `inputs`.

    Raises StopRequested.
    """
    config = config_from_stored(family, params)
    folds = [_predict(family, config, model, inputs, flips, should_stop) for model in models]
    return np.mean(folds, axis=0)


def predict_shard(
    members: Sequence[TrialRef],
    ensemble: str,
    span: tuple[int, int],
    inputs_of: InputsOfFit,
    *,
    flips: int,
    all_rows: str = NONE,
    should_stop: ShouldStop | None = None,
) -> int:
    """Predict one shard with each member whose rows are missing; returns the number of these members.

    inputs_of: of the shard, by the fit of a member's study; all_rows: of fold_rows.ALL_ROWS. Each member's rows are
    kept in its own study at once, so that a stop or a crash loses one member of one shard.
    Raises StopRequested, MemberError.
    """
    done = 0
    for study, trial_id in members:
        check_stop(should_stop, f"{done} of {len(members)} members have predicted images {span[0]} to {span[1]}")
        ledger = Ledger(Storage(study))
        if ledger.member_shard(ensemble, trial_id, span) is not None:
            continue
        record, inputs = ledger.trial(trial_id), inputs_of(ledger.study().settings.fit)
        try:
            models = (model for _, model in predicting_models(ledger, trial_id, all_rows))
            pred_NT = mean_prediction(
                record.family, record.config, models, inputs, flips=flips, should_stop=should_stop
            )
        except StopRequested:
            raise
        except Exception as error:
            raise MemberError(f"member {trial_id}: {type(error).__name__}: {error}") from error
        measured_NT = blank_unmeasured(pred_NT, norm_of(cell_weights(ledger.quadrats())))
        ledger.write_member_shard(ensemble, trial_id, span, _frame(inputs.images.image_ids, measured_NT))
        done += 1
    return done


def label_photographs(
    ledger: Ledger, round_id: str, trial_id: str, fold: int, inputs: Inputs, *, should_stop: ShouldStop | None = None
) -> None:
    """Predict the photographs of a second round with the model of one fold, which has not seen that fold's labels.

    inputs: of these photographs, in their order. They are predicted as they are: whether flips gain is chosen on
    out-of-fold rows. Raises StopRequested, MemberError.
    """
    record = ledger.trial(trial_id)
    config = config_from_stored(record.family, record.config)
    if (found := inputs.fingerprint(config.backbone)) != record.weights:
        raise MemberError(
            f"member {trial_id} was trained on {config.backbone} with weights {record.weights}, got {found}; name the "
            "old ones with --weights"
        )
    try:
        pred_NT = _predict(record.family, config, ledger.fold_model(trial_id, fold), inputs, 1, should_stop)
    except StopRequested:
        raise
    except Exception as error:
        raise MemberError(f"member {trial_id}: {type(error).__name__}: {error}") from error
    ledger.write_member_labels(round_id, trial_id, fold, _frame(inputs.images.image_ids, pred_NT))


def predict_out_of_fold(
    ledger: Ledger,
    trial_id: str,
    ensemble: str,
    inputs: Inputs,
    *,
    flips: int,
    should_stop: ShouldStop | None = None,
) -> None:
    """Predict each image that is scored with the model of its own fold, as a mean over flips, and keep the rows.

    inputs: of these images, in the order of the study's quadrats. Raises StopRequested, MemberError.
    """
    record, quadrats = ledger.trial(trial_id), scored_rows(ledger.quadrats())
    config, fold_N = config_from_stored(record.family, record.config), quadrats["fold"].to_numpy()
    pred_NT = np.empty((len(quadrats), len(TARGETS)))
    for fold in np.unique(fold_N):
        check_stop(should_stop, f"fold {fold} of trial {trial_id}")
        rows = np.flatnonzero(fold_N == fold)
        try:
            model = ledger.fold_model(trial_id, int(fold))
            if registry.model(record.family).feature_specs(config):  # one bank holds all images: share it between folds
                pred_NT[rows] = _predict(record.family, config, model, inputs, flips, should_stop)[rows]
            else:
                pred_NT[rows] = _predict(record.family, config, model, inputs.of(rows), flips, should_stop)
        except StopRequested:
            raise
        except Exception as error:
            raise MemberError(f"member {trial_id}: {type(error).__name__}: {error}") from error
    measured_NT = blank_unmeasured(pred_NT, norm_of(cell_weights(quadrats)))
    ledger.write_member_prediction(ensemble, trial_id, _frame(inputs.images.image_ids, measured_NT))


def _predict(
    family: str, config: Config, model: bytes, inputs: Inputs, flips: int, should_stop: ShouldStop | None
) -> FloatArray:
    return registry.model(family).predict(config, load_tensors(model), inputs, flips=flips, should_stop=should_stop)


def _frame(image_ids: Sequence[str], pred_NT: FloatArray) -> pd.DataFrame:
    frame = pd.DataFrame(pred_NT, columns=list(TARGETS))
    frame.insert(0, "image_id", list(image_ids))
    return frame
