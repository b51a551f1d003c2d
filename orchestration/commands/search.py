"""Commands that start a search, or ask beforehand what it will need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands import complete
from orchestration.commands.options import (
    DEFAULT_CACHE,
    SLOTS,
    WHAT,
    Address,
    Backbones,
    Cache,
    CacheGb,
    CpusPerFold,
    DataOption,
    Families,
    GpusPerFold,
    Json,
    MostSlots,
    OptionalData,
    Study,
    Weights,
    WeightsGb,
    families_of,
    print_json,
    resources_of,
    say,
    study_apart,
    tell,
    weights_source,
)
from orchestration.search.presets import Recipe, overridden

PLAIN = Recipe()  # what a search without a recipe takes; the help shows its values
BUDGET, FOLDS = "Budget", "Folds"  # headings of the help page

Scale = Annotated[
    str | None,
    typer.Option(
        help="Ranges: auto, smoke, demo, cpu, gpu.",
        show_default=PLAIN.scale,
        autocompletion=complete.scales,
        rich_help_panel=WHAT,
    ),
]


def doctor(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="Where the study shall lie: is it there for every node?")
    ] = None,
    data: OptionalData = None,
    family: Families = None,
    backbone: Backbones = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials planned.")] = 60,
    folds: Annotated[int, typer.Option(min=2, help="Folds planned.")] = PLAIN.folds,
    scale: Scale = None,
    weights: Weights = "auto",
    cpus_per_fold: CpusPerFold = None,
    gpus_per_fold: GpusPerFold = None,
    slots: MostSlots = None,
    cache: Cache = DEFAULT_CACHE,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Check machine or cluster, and say what the study will roughly cost.

    With --data, the directory is looked for on every node and a pilot fold of
    each family is timed. Exit code 1 when a check failed.

    Example:
    $ biomass doctor runs/first --data csiro-biomass/ --trials 60
    """
    families, shares = families_of(family)
    asked, _ = overridden(
        None, {"scale": scale, "cpus_per_fold": cpus_per_fold, "gpus_per_fold": gpus_per_fold, "slots": slots}
    )
    from orchestration.doctor.findings import Finding, examine_here

    found: list[Finding] = []

    def show(finding: Finding) -> None:
        found.append(finding)
        (say if as_json else tell)(str(finding))

    source = weights_source(weights)
    for finding in examine_here(address, cache, study):
        show(finding)
    if not any(finding.what == "address" for finding in found):
        from orchestration.doctor.examine import Plan, run_doctor, usable_backbones

        plan = Plan(
            study=study,
            data_dir=data,
            weights=source,
            shares=dict(zip(families, shares or [1.0] * len(families), strict=True)),
            backbones=usable_backbones(tuple(backbone or ()), source, say, show),
            scale=asked.scale,
            trials=trials,
            folds=folds,
        )
        run_doctor(plan, resources_of(cache, address, **asked.resources()), show)
    fit = not any(finding.verdict == "FAIL" for finding in found)
    if as_json:
        print_json({"fit": fit, "findings": found})
    if not fit:
        raise typer.Exit(1)


def search(
    study: Study,
    data: DataOption,
    recipe: Annotated[
        str | None,
        typer.Option(help="Named study (biomass recipes); options win over it.", autocompletion=complete.recipes),
    ] = None,
    family: Families = None,
    backbone: Backbones = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Backbone weights: auto (package, $BIOMASS_WEIGHTS, hub), random (tests), or a folder.",
            show_default=PLAIN.weights,
            autocompletion=complete.weights,
            rich_help_panel=WHAT,
        ),
    ] = None,
    scale: Scale = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of folds and proposals.", show_default=f"{PLAIN.seed}", rich_help_panel=WHAT),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="What proposes the next configuration: tpe, gp, random.",
            show_default=PLAIN.engine,
            autocompletion=complete.engines,
            rich_help_panel=WHAT,
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of the whole study.", rich_help_panel=BUDGET)
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.0, help="Start no trial after this time.", rich_help_panel=BUDGET)
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(
            help="Stop hopeless trials after a fold: off, default, strict.",
            show_default=PLAIN.prune,
            autocompletion=complete.prune_rules,
            rich_help_panel=BUDGET,
        ),
    ] = None,
    max_fold_seconds: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Refuse dearer folds, by estimate.",
            show_default=f"{PLAIN.max_fold_seconds:g}",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Take failed trials up again.", rich_help_panel=BUDGET)
    ] = False,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Number of folds.", show_default=f"{PLAIN.folds}", rich_help_panel=FOLDS),
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            help="Folds by date, random, state, species.",
            show_default=PLAIN.scheme,
            autocompletion=complete.schemes,
            rich_help_panel=FOLDS,
        ),
    ] = None,
    fold_file: Annotated[
        Path | None, typer.Option(help="Own folds: a CSV image_id,fold.", rich_help_panel=FOLDS)
    ] = None,
    cpus_per_fold: CpusPerFold = None,
    gpus_per_fold: GpusPerFold = None,
    slots: MostSlots = None,
    fold_timeout: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Seconds without a sign of life (an epoch, a batch) until a fold counts as hung.",
            show_default=f"{PLAIN.fold_timeout:g}",
            rich_help_panel=SLOTS,
        ),
    ] = None,
    folds_together: Annotated[
        bool | None,
        typer.Option(
            "--folds-together/--folds-apart", help="Frozen heads in one batch; so on GPUs.", rich_help_panel=SLOTS
        ),
    ] = None,
    compile_backbones: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="torch.compile what trains with its backbone; pays on GPUs.",
            rich_help_panel=SLOTS,
        ),
    ] = None,
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGb = None,
    weights_gb: WeightsGb = None,
    address: Address = None,
) -> None:
    """Search for good models; the same command goes on with an unfinished study.

    Ctrl-C, SIGTERM and SIGHUP stop it within 15 s (exit code 130, 143, 129).
    Options that are not given take the recipe's value, or the default.

    Examples:
    $ biomass search runs/first --data csiro-biomass/ --trials 60
    $ biomass search runs/night --data csiro-biomass/ --recipe cpu_overnight
    """
    families, shares = families_of(family, lambda: _families_of_study(study)) if family else (None, None)
    given = {
        "families": families,
        "shares": shares,
        "backbones": tuple(backbone) if backbone else None,
        "weights": weights,
        "scale": scale,
        "scheme": scheme,
        "fold_file": None if fold_file is None else str(fold_file),
        "folds": folds,
        "seed": seed,
        "engine": engine,
        "trials": trials,
        "hours": hours,
        "prune": prune,
        "max_fold_seconds": max_fold_seconds,
        "cpus_per_fold": cpus_per_fold,
        "gpus_per_fold": gpus_per_fold,
        "slots": slots,
        "fold_timeout": fold_timeout,
        "folds_together": folds_together,
        "compiles": compile_backbones,
    }
    asked, made_with = overridden(recipe, given)
    if asked.trials is None and asked.hours is None:
        raise typer.BadParameter("a search needs an end: give --trials N or --hours H, or a --recipe")
    study_apart(study, data)
    source = weights_source(asked.weights)  # what can be wrong is said before torch and Ray load
    resources = resources_of(cache, address, cache_gb=cache_gb, weights_gb=weights_gb, **asked.resources())
    from orchestration.search.preflight import check_search

    check_search(study, data, asked, made_with, say)
    from orchestration.search.run import start_search

    ending = start_search(
        study,
        data,
        asked,
        weights=source,
        resources=resources,
        say=say,
        retry_failed=retry_failed,
        made_with=made_with,
        data_checked=True,
    )
    if ending.hours_over:
        waits = f", {ending.open} open ones wait" if ending.open else ""
        tell(f"The hours are over: {ending.ended} trials have ended{waits}; the same command goes on with more.")
    tell(f"{'' if ending.hours_over else 'Finished. '}Next: biomass leaderboard {study}")


def _families_of_study(study: str) -> tuple[str, ...]:
    """What an old command may name although it is not installed here any more."""
    from orchestration.study.ledger import Ledger
    from orchestration.study.storage import Storage

    record = Ledger(Storage(study)).find_study()
    return () if record is None else record.settings.families
