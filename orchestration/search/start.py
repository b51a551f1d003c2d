"""Assembles a search and has it run: checks, study, references, what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from biomass_models.backbones.weights import WeightsSource
from biomass_models.config_rules import known_name
from biomass_models.data.frames import Fit
from biomass_models.data.table import fit_of, read_train
from biomass_models.families import registry
from biomass_models.fold_units import cut_groups_notice
from orchestration.progress import Say, progress_bar
from orchestration.search.ending import Ending
from orchestration.search.fold_costs import fold_costs_here
from orchestration.search.opening import require_typed, settings_of_now, typed_fields
from orchestration.search.preflight import searchable
from orchestration.search.prepare import make_references, prepare_search
from orchestration.search.presets.options import PSEUDO_WEIGHT, Preset
from orchestration.search.pruning import RULES
from orchestration.search.second_round import rounds_to_label
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.lock import study_lock
from orchestration.study.records import Asked
from orchestration.study.settings import StudyError, StudySettings
from orchestration.study.storage import Storage
from orchestration.workers.address import is_cluster, require_answer
from orchestration.workers.context import WorkerContext
from orchestration.workers.machine import may_have_gpu
from orchestration.workers.resources import Resources
from orchestration.workers.weights_here import available_backbones, backbones_of_study, note_stand_ins, source_of_study
from search_spaces.domain import SearchSpace
from search_spaces.range_files import Change, read_changes


def has_gpu(resources: Resources) -> bool:
    """Whether folds will run on GPUs: as asked for, else as this machine or the cluster has them now."""
    if resources.gpus_per_fold is not None:
        return resources.gpus_per_fold > 0
    if is_cluster(resources.address):
        import ray

        from orchestration.workers.cluster import ray_cluster

        with ray_cluster(resources.address):
            return bool(ray.cluster_resources().get("GPU", 0) >= 1)
    if not may_have_gpu():
        return False
    import torch

    return torch.cuda.is_available()


def start_search(
    study: str,
    data_dir: Path,
    asked: Preset,
    *,
    weights: WeightsSource,
    resources: Resources,
    say: Say,
    retry_failed: bool = False,
    made_with: Asked,
    data_checked: bool = False,
) -> Ending:
    """`run_search` as a command asks for it, with the backbones whose weights are here and the scale of the machine.

    A study that is there goes on with what it was made with; only what was typed is compared (opening.require_typed).
    """
    ledger, fit = Ledger(Storage(study)), fit_of(data_dir)
    if ledger.find_study() is None:
        asked = searchable(study, data_dir, asked, made_with, read_train(data_dir), say)
    wanted = resolve(ledger, asked, made_with, weights=weights, resources=resources, say=say, fit=fit)
    return run_search(
        study,
        data_dir,
        wanted.settings,
        fold_file=asked.study.fold_file,
        follows=asked.study.from_,
        weights=wanted.weights,
        fingerprints=wanted.fingerprints,
        resources=resources,
        max_trials=asked.budget.trials,
        hours=asked.budget.hours,
        say=say,
        prune=asked.budget.prune,
        retry_failed=retry_failed,
        made_with=made_with,
        data_checked=data_checked,
        changes=read_changes(asked.study.space, asked.study.set_),
        second_round=asked.budget.second_round,
        pseudo_weight=asked.budget.pseudo_weight,
    )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a command comes to: a study's settings, and the weights that are here."""

    settings: StudySettings
    weights: WeightsSource
    fingerprints: Mapping[str, str]  # by backbone


def resolve(
    ledger: Ledger,
    asked: Preset,
    made_with: Asked,
    *,
    weights: WeightsSource,
    resources: Resources,
    say: Say,
    fit: Fit = "stretch",
) -> Wanted:
    """The settings of the study that is there, or those of a new one. Starts nothing, unless a cluster is asked.

    fit: what the data say of photographs that are not 2 : 1. Raises StudyError where something typed is not the
    study's, WeightsError where no weights are here.
    """
    record = ledger.find_study()
    if record is None:
        for family in asked.study.families:
            registry.known(family)
        found = available_backbones(asked.study.backbones, weights, say)
        gpu = asked.study.scale == "auto" and has_gpu(resources)
        settings = asked.settings(tuple(found), weights=weights.kind, gpu=gpu, fit=fit)
        return Wanted(settings=settings, weights=weights, fingerprints=found)
    require_typed(ledger, asked, made_with)
    typed = "weights" in typed_fields(made_with, record.made_with)
    source = weights if typed else source_of_study(record) or weights
    settings = settings_of_now(record, asked, made_with)
    return Wanted(settings=settings, weights=source, fingerprints=backbones_of_study(record, source, say))


def run_search(
    study: str,
    data_dir: Path,
    settings: StudySettings,
    *,
    fold_file: Path | None = None,
    weights: WeightsSource,
    fingerprints: Mapping[str, str],
    resources: Resources,
    max_trials: int | None,
    hours: float | None,
    say: Say,
    prune: str = "default",
    retry_failed: bool = False,
    made_with: Asked | None = None,
    spaces: dict[str, SearchSpace] | None = None,
    data_checked: bool = False,
    follows: str | None = None,
    changes: Sequence[Change] = (),
    second_round: str | None = None,
    pseudo_weight: float = PSEUDO_WEIGHT,
) -> Ending:
    """Search until the study holds max_trials or the hours are over; returns the Ending.

    fingerprints: of the weights that are here, by backbone. spaces: by family, where a new study shall have other
    ranges than the scale's (comparisons of configurations). Everything that can be checked is checked before Ray
    starts, and it starts only where there is something to do. The same call again resumes the study. prune: a name of
    pruning.RULES; retry_failed: failed trials are taken up again, with the folds that they have. follows: a study of
    fewer photographs, whose best settings a new study begins with. changes: of the ranges, by the user. made_with: see
    open_study. data_checked: preflight.check_data has just read the data. second_round: an ensemble of the study whose
    members label test photographs that the new trials learn from, each counting pseudo_weight.
    """
    known_name("a pruning rule", prune, RULES, StudyError)
    require_answer(resources.address)
    ledger = Ledger(Storage(study))
    weights = weights.keeping(fingerprints)
    with study_lock(ledger, say) as heartbeat:
        proposer = prepare_search(
            ledger,
            data_dir,
            settings,
            fold_file=fold_file,
            fingerprints=fingerprints,
            max_trials=max_trials,
            hours=hours,
            say=say,
            retry_failed=retry_failed,
            made_with=made_with,
            spaces=spaces,
            data_checked=data_checked,
            follows=follows,
            changes=changes,
            second_round=second_round,
            pseudo_weight=pseudo_weight,
        )
        note_stand_ins(ledger, fingerprints, weights, say)
        found = StudyData(ledger)
        cut = cut_groups_notice(found.cut_groups, found.unit)
        for notice in (*([] if cut is None else [cut]), *found.torn):
            say(f"note: {notice}")
        wanted = proposer.second_round
        labelled = 0 if wanted is None else ledger.second_round(wanted.round_id).images
        proposer.costs = fold_costs_here(ledger, proposer.spaces, fingerprints, resources, say, labelled=labelled)
        context = WorkerContext(
            study=ledger.storage.uri,
            data_dir=str(data_dir.resolve()),
            cache=str(resources.cache.expanduser().resolve()),
            weights=weights.absolute(),
        )
        if resources.inline or not (proposer.missing_any or rounds_to_label(ledger, wanted)):
            from orchestration.search.inline import search_inline  # it loads torch

            with progress_bar("Reference scores") as update:
                make_references(ledger, data_dir, say, update)
            return search_inline(ledger, context, proposer, RULES[prune], resources, heartbeat, say)
        from orchestration.search.on_ray.beside import Beside
        from orchestration.search.on_ray.run import search_on_ray
        from orchestration.workers.cluster import ray_cluster

        references = Beside("Reference scores", partial(make_references, ledger, data_dir.resolve(), say))
        with ray_cluster(resources.address, say=say) as pulse:
            return search_on_ray(ledger, context, proposer, RULES[prune], resources, heartbeat, pulse, references, say)
