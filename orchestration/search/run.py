"""Assembles a search and has it run: checks, study, references, what comes next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import ray

from biomass_models.backbones.devices import threads
from biomass_models.backbones.weights import (
    WeightsError,
    WeightsFileError,
    WeightsSource,
    canonical_name,
    fingerprint,
    verify_weights,
)
from biomass_models.config_rules import known_name
from biomass_models.data.folds import assign_folds, fold_hash
from biomass_models.data.photographs import common_size
from biomass_models.data.references import colour_ridge, colour_statistics, metadata_trees, per_target_mean
from biomass_models.data.table import read_train
from biomass_models.families import registry
from biomass_models.families.costs import all_feature_seconds, measure
from biomass_models.features.inputs import ImageSet
from biomass_models.targets import TARGETS
from orchestration.progress import progress_bar
from orchestration.search.fold_costs import FoldCosts, trained_backbones
from orchestration.search.opening import (
    go_on_with,
    open_study,
    require_typed,
    settings_of_now,
    take_new_weights,
    typed_fields,
)
from orchestration.search.preflight import check_data
from orchestration.search.presets import Recipe
from orchestration.search.proposer import Proposer
from orchestration.search.pruning import RULES
from orchestration.search.running import Ending, run
from orchestration.study.data import StudyData
from orchestration.study.data_changes import data_fingerprint, photograph_table, require_same_data
from orchestration.study.ledger import Ledger
from orchestration.study.lock import study_lock
from orchestration.study.record import SCHEMA
from orchestration.study.records import FAILED, Asked, StudyRecord, refused_for
from orchestration.study.seeds import derive_seed
from orchestration.study.settings import StudyError, StudySettings
from orchestration.study.spaces import open_spaces, spaces_of, stored_space, to_json
from orchestration.study.storage import Storage
from orchestration.workers.address import is_cluster, require_answer
from orchestration.workers.cluster import ray_cluster
from orchestration.workers.context import WorkerContext
from orchestration.workers.resources import Resources
from search_spaces.domain import SearchSpace
from search_spaces.spaces import DEFAULT_BACKBONES

Say = Callable[[str], None]


def available_backbones(asked: tuple[str, ...], source: WeightsSource, say: Say) -> dict[str, str]:
    """Fingerprint of the weights of each backbone; those the user named must all be there, of the default ones some.

    Raises WeightsError that says which file to put where.
    """
    found, missing = _fingerprints(asked or DEFAULT_BACKBONES, source)
    if missing and (asked or not found):
        raise WeightsError("\n".join(missing.values()))
    for reason in missing.values():
        say(f"Left out of the search, because its weights are not here: {reason}")
    return found


def backbones_of_study(record: StudyRecord, source: WeightsSource, say: Say) -> dict[str, str]:
    """Fingerprint of each of a study's backbones whose weights are here.

    What is not here waits: its open trials stay open, and no trial with it is proposed. Raises WeightsError where
    none is here.
    """
    found, missing = _fingerprints(record.settings.backbones, source)
    if not found:
        raise WeightsError("\n".join(missing.values()))
    for name, reason in missing.items():
        say(f"Weights of {name} are not here: its open trials wait, the others go on ({reason})")
    return found


def _fingerprints(names: Sequence[str], source: WeightsSource) -> tuple[dict[str, str], dict[str, str]]:
    """By backbone: the fingerprint of its weights, or why they are not here.

    Raises WeightsFileError for a file without them: one that was put there is meant to be used.
    """
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        try:
            verify_weights(canonical, source)
            found[canonical] = fingerprint(canonical, source)
        except WeightsFileError:
            raise
        except WeightsError as error:
            missing[canonical] = str(error)
    return found, missing


def source_of_study(record: StudyRecord, asked: Recipe, made_with: Asked, given: WeightsSource) -> WeightsSource:
    """Where a study's weights come from: as typed, else as when it was made, if that is still there."""
    if "weights" in typed_fields(made_with, record.made_with) or record.settings.weights == "auto":
        return given
    if record.settings.weights == "random":
        return WeightsSource("random")
    folder = record.made_with.overrides.get("weights")
    return WeightsSource("folder", Path(folder)) if folder and Path(folder).is_dir() else given


def has_gpu(resources: Resources) -> bool:
    """Whether folds will run on GPUs: as asked for, else as this machine or the cluster has them now."""
    if resources.gpus_per_fold is not None:
        return resources.gpus_per_fold > 0
    if is_cluster(resources.address):
        with ray_cluster(resources.address):
            return bool(ray.cluster_resources().get("GPU", 0) >= 1)
    import torch

    return torch.cuda.is_available()


def start_search(
    study: str,
    data_dir: Path,
    asked: Recipe,
    *,
    weights: WeightsSource,
    resources: Resources,
    say: Say,
    retry_failed: bool = False,
    made_with: Asked,
    data_checked: bool = False,
) -> Ending:
    """`run_search` as a command asks for it, with the backbones whose weights are here and the scale of the machine.

    A study that is there goes on with what it was made with; only what was typed is compared (study.require_typed).
    """
    ledger = Ledger(Storage(study))
    wanted = resolve(ledger, asked, made_with, weights=weights, resources=resources, say=say)
    return run_search(
        study,
        data_dir,
        wanted.settings,
        fold_file=Path(asked.fold_file) if asked.fold_file else None,
        weights=wanted.weights,
        fingerprints=wanted.fingerprints,
        resources=resources,
        max_trials=asked.trials,
        hours=asked.hours,
        say=say,
        prune=asked.prune,
        retry_failed=retry_failed,
        made_with=made_with,
        data_checked=data_checked,
    )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a command comes to: a study's settings, and the weights that are here."""

    settings: StudySettings
    weights: WeightsSource
    fingerprints: Mapping[str, str]  # by backbone


def resolve(
    ledger: Ledger, asked: Recipe, made_with: Asked, *, weights: WeightsSource, resources: Resources, say: Say
) -> Wanted:
    """The settings of the study that is there, or those of a new one. Starts nothing, unless a cluster is asked.

    Raises StudyError where something typed is not the study's, WeightsError where no weights are here.
    """
    record = ledger.find_study()
    if record is None:
        for family in asked.families:
            registry.known(family)
        found = available_backbones(asked.backbones, weights, say)
        gpu = asked.scale == "auto" and has_gpu(resources)
        settings = asked.settings(tuple(found), weights=weights.kind, gpu=gpu)
        return Wanted(settings=settings, weights=weights, fingerprints=found)
    require_typed(ledger, asked, made_with)
    source = source_of_study(record, asked, made_with, weights)
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
) -> Ending:
    """Search until the study holds max_trials or the hours are over; returns which.

    fingerprints: of the weights that are here, by backbone. spaces: by family, where a new study shall have other
    ranges than the scale's (comparisons of configurations). Everything that can be checked is checked before Ray
    starts. The same call goes on with an unfinished study. prune: a name of pruning.RULES; retry_failed: failed trials
    are taken up again, with the folds that they have. made_with: see open_study. data_checked: preflight.check_data has
    just read the data.
    """
    known_name("a pruning rule", prune, RULES, StudyError)
    require_answer(resources.address)
    ledger = Ledger(Storage(study))
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
        )
        for notice in StudyData(ledger).torn:
            say(f"note: {notice}")
        proposer.costs = _costs_here(proposer, settings, fingerprints, resources, say)
        context = WorkerContext(
            study=ledger.storage.uri,
            data_dir=str(data_dir.resolve()),
            cache_dir=str(resources.cache_dir.expanduser().resolve()),
            weights=weights.absolute(),
        )
        with ray_cluster(resources.address, say=say) as pulse:
            return run(ledger, context, proposer, RULES[prune], resources, heartbeat, pulse, say)


def prepare_search(
    ledger: Ledger,
    data_dir: Path,
    settings: StudySettings,
    *,
    fold_file: Path | None = None,
    fingerprints: Mapping[str, str],
    max_trials: int | None,
    hours: float | None = None,
    say: Say,
    retry_failed: bool = False,
    made_with: Asked | None = None,
    spaces: dict[str, SearchSpace] | None = None,
    data_checked: bool = False,
) -> Proposer:
    """Check the data, make or find the study, and rebuild what comes next from its ledger. Needs the study's lock."""
    record = _prepare(ledger, data_dir, settings, fold_file, fingerprints, spaces, made_with, say, data_checked)
    _reopen(ledger, settings.max_fold_seconds, retry_failed, say)
    for sentence in take_new_weights(ledger, fingerprints):
        say(sentence)
    proposer = Proposer(
        open_spaces(record, say),
        ledger,
        seed=settings.seed,
        fold_hash=record.fold_hash,
        weights=fingerprints,
        engine=settings.engine,
        shares=dict(zip(settings.families, settings.shares, strict=True)) if settings.shares else None,
        max_trials=max_trials,
        deadline=None if hours is None else time.time() + 3600 * hours,
        max_fold_seconds=settings.max_fold_seconds,
    )
    _say_what_waits(proposer, say)
    return proposer


def _say_what_waits(proposer: Proposer, say: Say) -> None:
    """Trials of the study that this search cannot learn from or go on with."""
    if count := len(proposer.unobserved):
        say(f"{count} trials lie outside of the study's ranges; they are kept, proposals do not learn from them")
    if aside := proposer.set_aside:
        say(f"{len(aside)} open trials wait for their family or their weights, such as {aside[0].trial_id}")


def _reopen(ledger: Ledger, max_fold_seconds: float, retry_failed: bool, say: Say) -> None:
    """Take failed trials up again where that was asked for, and refused ones that are within the limit now."""
    results = ledger.results()
    estimates = {name: seconds for name, result in results.items() if (seconds := refused_for(result)) is not None}
    within = [name for name, seconds in estimates.items() if seconds <= max_fold_seconds]
    if not retry_failed:
        if within:
            say(f"{len(within)} refused trials are within --max-fold-seconds now; --retry-failed takes them up")
        return
    failed = [name for name, result in results.items() if result.status == FAILED and name not in estimates]
    for name in failed + within:
        ledger.reopen(name)
    more = f", and {len(within)} that were refused" if within else ""
    say(f"{len(failed)} failed trials are taken up again{more}")


def _prepare(
    ledger: Ledger,
    data_dir: Path,
    settings: StudySettings,
    fold_file: Path | None,
    fingerprints: Mapping[str, str],
    spaces: dict[str, SearchSpace] | None,
    made_with: Asked | None,
    say: Say,
    data_checked: bool,
) -> StudyRecord:
    """The study's record, made now or found; what a study of 0.1.0 did not store is resolved and stored."""
    if not data_checked:
        check_data(data_dir, say)
    here = read_train(data_dir)
    images = ImageSet.from_table(data_dir, here)
    record = ledger.find_study()
    if record is None:
        seed = derive_seed(settings.seed, "folds")
        folds = assign_folds(here, scheme=settings.scheme, n_folds=settings.n_folds, seed=seed, file=fold_file)
        quadrats = here.merge(folds, on="image_id", validate="one_to_one")
        ledger.write_photographs(photograph_table(here, images.digests))
        record = open_study(
            ledger,
            settings,
            quadrats=quadrats,
            data_fingerprint=data_fingerprint(quadrats, images.digest),
            fold_hash=fold_hash(folds),
            weights=fingerprints,
            spaces=to_json(spaces or spaces_of(settings)),
            made_with=made_with,
            photograph_size=common_size(images.paths),
        )
    else:
        record = go_on_with(ledger, record, settings, _folds_of_file(record, here, fold_file))
        require_same_data(ledger, data_dir, here, images.digests)
        if not record.spaces:
            known = spaces or {name: one for name in settings.families if (one := stored_space(record, name))}
            record = replace(record, schema=SCHEMA, spaces=to_json(known))
            ledger.update_study(record)
    if ledger.references() is None:
        ledger.write_references(_references(ledger.quadrats(), ImageSet.from_table(data_dir, ledger.quadrats())))
    return record


def _folds_of_file(record: StudyRecord, here: pd.DataFrame, fold_file: Path | None) -> list[tuple[str, object, object]]:
    """What require_same compares where the user gives folds."""
    if fold_file is None:
        return []
    given = assign_folds(here, scheme="file", n_folds=record.settings.n_folds, seed=0, file=fold_file)
    return [("fold_hash", record.fold_hash, fold_hash(given))]


def _references(quadrats: pd.DataFrame, images: ImageSet) -> pd.DataFrame:
    """Out-of-fold predictions of what costs nothing, on the study's own folds."""
    folds = quadrats[["image_id", "fold", "group"]]
    colour = []
    with progress_bar("Reference scores") as update:
        for row, path in enumerate(images.paths):
            colour.append(colour_statistics(path))
            update(row + 1, len(images.paths))
    predictions = {
        "per-target mean": per_target_mean(quadrats, folds),
        "colour ridge": colour_ridge(pd.DataFrame(colour).to_numpy(), quadrats, folds),
        "metadata trees": metadata_trees(quadrats, folds),
    }
    frames = []
    for name, pred_NT in predictions.items():
        frame = pd.DataFrame(pred_NT, columns=list(TARGETS))
        frame.insert(0, "image_id", quadrats["image_id"].to_numpy())
        frame.insert(0, "reference", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _costs_here(
    proposer: Proposer, settings: StudySettings, here: Mapping[str, str], resources: Resources, say: Say
) -> FoldCosts:
    """What folds cost on a slot: of this machine, measured now while nothing else runs; of a cluster, measured there.

    Here it says what a fold of each family's first trial will cost, and raises StudyError where that is above the limit
    in a family that has no trial yet. here: backbones whose weights are here.
    """
    images = len(proposer.ledger.quadrats())
    n_train = round(images * (1 - 1 / settings.n_folds))
    backbones = trained_backbones(proposer.spaces, here)
    if is_cluster(resources.address):  # this machine says nothing about the workers
        say("The first slot is measured, and trials whose folds would take above --max-fold-seconds are refused")
        return FoldCosts(n_train, backbones)
    device = "cpu" if resources.gpus_per_fold == 0 else "auto"
    with threads(max(1, int(resources.cpus_per_fold))):
        speed = measure(backbones, device)
    costs, begun = FoldCosts(n_train, backbones, speed), {record.family for record in proposer.ledger.trials()}
    for name, space in proposer.spaces.items():
        first = [config for params in space.first_trials if (config := space.config(params)).backbone in here]
        if not first:
            continue
        fold = costs.seconds(name, first[0]) or 0.0
        bank = all_feature_seconds(registry.model(name).feature_specs(first[0]), images)
        once = f", and {bank:.0f} s once for its features" if bank else ""
        say(f"Estimated cost of a {name} fold here (first trial): {fold:.1f} s{once}")
        if fold > settings.max_fold_seconds and name not in begun:
            raise StudyError(
                f"a fold may take {settings.max_fold_seconds:.0f} s, the first {name} trial is estimated at "
                f"{fold:.0f} s here; use --scale cpu, or raise --max-fold-seconds"
            )
    return costs
