"""Commands that start a search, or ask beforehand what it will need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands.options import (
    DEFAULT_CACHE,
    Address,
    Backbones,
    Cache,
    CacheGb,
    CpusPerFold,
    DataOption,
    Families,
    GpusPerFold,
    MostSlots,
    Scale,
    Study,
    Weights,
    families_of,
    resources_of,
    say,
    stopped,
    tell,
    weights_source,
)


def doctor(
    study: Annotated[str | None, typer.Argument(help="Where the study shall lie: is it there for every node?")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data directory, to check it on every node and time a pilot.")
    ] = None,
    family: Families = None,
    backbone: Backbones = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials planned.")] = 60,
    folds: Annotated[int, typer.Option(min=2)] = 5,
    scale: Scale = "auto",
    weights: Weights = "auto",
    cpus_per_fold: CpusPerFold = 1.0,
    gpus_per_fold: GpusPerFold = None,
    slots: MostSlots = None,
    cache: Cache = DEFAULT_CACHE,
    address: Address = None,
) -> None:
    """Check machine or cluster, and say what the study will roughly cost.

    Example: biomass doctor runs/first --data csiro-biomass/ --trials 60
    """
    from orchestration.doctor import Plan, run_doctor
    from orchestration.search import available_backbones

    families, shares = families_of(family)
    source = weights_source(weights)
    resources = resources_of(cache, address, cpus_per_fold=cpus_per_fold, gpus_per_fold=gpus_per_fold, max_slots=slots)
    plan = Plan(
        study=study,
        data_dir=data,
        weights=source,
        shares=dict(zip(families, shares or [1.0] * len(families), strict=True)),
        backbones=tuple(available_backbones(tuple(backbone or ()), source, say)),
        scale=scale,
        trials=trials,
        folds=folds,
    )
    if not run_doctor(plan, resources, tell):
        raise typer.Exit(1)


def search(
    study: Study,
    data: DataOption,
    family: Families = None,
    backbone: Backbones = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials of the whole study.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Start no trial after this time.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    scheme: Annotated[str, typer.Option(help="Folds: date, random, state, species.")] = "date",
    fold_file: Annotated[Path | None, typer.Option(help="Own folds: a CSV image_id,fold.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    scale: Scale = "auto",
    weights: Weights = "auto",
    max_fold_seconds: Annotated[float, typer.Option(min=1, help="Refuse dearer folds, by estimate.")] = 1800.0,
    cpus_per_fold: CpusPerFold = 1.0,
    gpus_per_fold: GpusPerFold = None,
    slots: MostSlots = None,
    prune: Annotated[str, typer.Option(help="Stop hopeless trials after a fold: off, default, strict.")] = "default",
    fold_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds without a sign of life (features apart) before a fold counts as hung.")
    ] = 7200.0,
    folds_together: Annotated[
        bool | None, typer.Option("--folds-together/--folds-apart", help="Frozen heads in one batch; default on GPUs.")
    ] = None,
    compile_backbones: Annotated[
        bool, typer.Option("--compile", help="torch.compile what trains with its backbone; pays on GPUs.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Take failed trials up again.")] = False,
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGb = None,
    address: Address = None,
) -> None:
    """Search for good models; the same command goes on with an unfinished study.

    Example: biomass search runs/first --data csiro-biomass/ --family baseline --family distilled --trials 40
    """
    if trials is None and hours is None:
        raise typer.BadParameter("a search needs an end: give --trials N or --hours H")
    from orchestration.search import available_backbones, has_gpu, run_search
    from orchestration.study import StudySettings

    families, shares = families_of(family)
    resources = resources_of(
        cache,
        address,
        cpus_per_fold=cpus_per_fold,
        gpus_per_fold=gpus_per_fold,
        max_slots=slots,
        fold_timeout=fold_timeout,
        cache_gb=cache_gb,
        folds_together=folds_together,
        compiles=compile_backbones,
    )
    source = weights_source(weights)
    found = available_backbones(tuple(backbone or ()), source, say)
    settings = StudySettings(
        families=families,
        shares=shares,
        backbones=tuple(found),
        weights=source.kind,
        scale=scale if scale != "auto" else "gpu" if has_gpu(resources) else "cpu",
        scheme="file" if fold_file else scheme,
        n_folds=folds,
        seed=seed,
        max_fold_seconds=max_fold_seconds,
    )
    finished = run_search(
        study,
        data,
        settings,
        fold_file=fold_file,
        weights=source,
        fingerprints=found,
        resources=resources,
        max_trials=trials,
        hours=hours,
        say=say,
        prune=prune,
        retry_failed=retry_failed,
    )
    if not finished:
        stopped()
    tell(f"Finished. Next: biomass leaderboard {study}")
