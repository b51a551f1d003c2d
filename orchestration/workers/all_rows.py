"""A trial fitted on every labelled row of its study, once: the model that may predict beside or instead of its folds'.

Rows of an exam are not among them. Ray-free.
"""

from __future__ import annotations

from safetensors.torch import save as save_tensors

from biomass_models.families import registry
from biomass_models.families.introduced import config_from_stored
from biomass_models.families.pseudo_rows import with_pseudo_rows
from biomass_models.features.inputs import Inputs
from biomass_models.fold_rows import training_rows
from biomass_models.interrupt import ShouldStop
from biomass_models.training.all_rows import TrainedFold, config_for_all_rows, fit_all_rows
from biomass_models.training.config import NetworkConfig
from orchestration.study.environment import environment
from orchestration.study.ledger import Ledger, LedgerError, predicting_folds_of
from orchestration.study.records import AllRowsRecord
from orchestration.study.seeds import derive_seed
from orchestration.workers.cost import Meter


def trained_folds(ledger: Ledger, trial_id: str) -> list[TrainedFold]:
    """What each fold that predicts was trained on. Raises LedgerError for one that is not finished."""
    fold_N, ordered = ledger.quadrats()["fold"], ledger.study().settings.ordered
    round_ = ledger.trial(trial_id).second_round
    labelled = 0 if round_ is None else ledger.second_round(round_.round_id).images  # are in each fold's rows as well
    found = []
    for fold in predicting_folds_of(ledger):
        metrics = ledger.fold_metrics(trial_id, fold)
        if metrics is None:
            raise LedgerError(
                f"a model on all rows has the settings that its folds chose, fold {fold} of trial {trial_id} in "
                f"{ledger.storage.uri} is not finished; run `biomass search` again to finish it"
            )
        kept = metrics.info.get("scored_epoch")
        rows = int(training_rows(fold_N, fold, ordered=ordered).sum()) + labelled
        found.append(TrainedFold(rows, kept))
    return found


def fit_trial_on_all_rows(
    ledger: Ledger,
    trial_id: str,
    inputs: Inputs,
    *,
    device: str,
    gpus: float,
    should_stop: ShouldStop | None = None,
) -> None:
    """Fit and keep the model; inputs: of all images of the study's quadrats, and of the trial's second round.

    Photographs of a second round have the mean of the labels of the folds that predict. Raises FitError, StopRequested.
    """
    record, quadrats = ledger.trial(trial_id), ledger.quadrats()
    weighed = len(quadrats)
    if (round_ := record.second_round) is not None:
        labels = ledger.pseudo_labels(round_.round_id, predicting_folds_of(ledger))
        quadrats = with_pseudo_rows(quadrats, *labels, round_.weight)
    stored = config_from_stored(record.family, record.config)
    config = config_for_all_rows(stored, trained_folds(ledger, trial_id), len(quadrats))
    meter = Meter(gpus)
    seed = derive_seed(record.seed, trial_id, "all rows", "fit")
    fit = registry.model(record.family).fit
    result = fit_all_rows(fit, config, quadrats, inputs, seed=seed, should_stop=should_stop)
    cost = meter.read()
    made = AllRowsRecord(
        rows=weighed,
        epochs=config.epochs if isinstance(config, NetworkConfig) else None,
        finished_at=cost.finished_at,
        seconds=cost.seconds,
        gpu_seconds=cost.gpu_seconds,
        host=cost.host,
        info=result.info,
        environment=environment(record.family, device, record.config),
    )
    ledger.write_all_rows(trial_id, save_tensors(result.tensors), made)
