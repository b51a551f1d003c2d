"""Commands that start a search, or find out beforehand what it will need."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestration.commands import complete
from orchestration.commands.fields import preset_options
from orchestration.commands.options import (
    DataOption,
    Json,
    OptionalData,
    Study,
    print_detail,
    print_json,
    print_line,
    print_remark,
    reachable,
)
from orchestration.search.presets.named import overridden
from orchestration.search.presets.options import StudyOptions


@preset_options(
    "families", "backbones", "weights", "scale", "cpus_per_fold", "gpus_per_fold", "slots", "cache", "address"
)
def doctor(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="Study folder or URI; checked from every node.")
    ] = None,
    data: OptionalData = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials planned.")] = 60,
    folds: Annotated[int, typer.Option(min=2, help="Folds planned.")] = StudyOptions().folds,
    as_json: Json = False,
    **typed: Any,
) -> None:
    """Check machine or cluster, and estimate what the study will cost.

    With --data, the directory is looked for on every node. A slot is measured,
    and a fold of each family estimated. Exit code 1 when a check failed.

    Example:
    $ biomass doctor runs/first --data csiro-biomass/ --trials 60
    """
    from orchestration.search.presets.asked import families_of, weights_source

    families, shares = families_of(typed.pop("families"))
    preset, _ = overridden(None, typed)
    from orchestration.doctor.findings import Finding, examine_here

    found: list[Finding] = []

    def show(finding: Finding) -> None:
        found.append(finding)
        (print_remark if as_json else print_line)(str(finding))

    source, resources = weights_source(preset.study.weights), preset.resources
    for finding in examine_here(resources.address, resources.cache, study):
        show(finding)
    if not any(finding.what == "address" for finding in found):
        from orchestration.doctor.examine import Plan, run_doctor, usable_backbones

        plan = Plan(
            study=study,
            data_dir=data,
            weights=source,
            shares=dict(zip(families, shares or [1.0] * len(families), strict=True)),
            backbones=usable_backbones(preset.study.backbones, source, print_remark, show),
            scale=preset.study.scale,
            trials=trials,
            folds=folds,
        )
        run_doctor(plan, reachable(resources), show)
    fit = not any(finding.verdict == "FAIL" for finding in found)
    if as_json:
        print_json({"fit": fit, "findings": found})
    if not fit:
        raise typer.Exit(1)


@preset_options()
def search(
    study: Study,
    data: DataOption,
    preset: Annotated[
        str | None,
        typer.Option(help="Named study (biomass presets); options win over it.", autocompletion=complete.presets),
    ] = None,
    **typed: Any,
) -> None:
    """Search for good models; run the same command again to resume a study.

    Ctrl-C, SIGTERM and SIGHUP stop it within 15 s (exit code 130, 143, 129).
    Options that are not given take the preset's value, or the default.

    Examples:
    $ biomass search runs/first --data csiro-biomass/ --trials 60
    $ biomass search runs/night --data csiro-biomass/ --preset cpu_overnight
    """
    from orchestration.search.presets.asked import asked_preset, search_as_asked

    chosen, made_with = asked_preset(study, preset, typed)
    if not chosen.budget.ends:
        raise typer.BadParameter("a search needs an end: give --trials N or --hours H, or a --preset")
    ending = search_as_asked(study, data, chosen, made_with, say=print_remark, detail=print_detail)
    for line in ending.lines:
        print_line(line)
    print_line(f"{'' if ending.hours_over else 'Finished. '}Next: biomass leaderboard {study}")
