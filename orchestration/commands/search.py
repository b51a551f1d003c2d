"""Commands that start a search, or find out beforehand what it will need."""

from __future__ import annotations

from pathlib import Path
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
    typed_weights,
)
from orchestration.interrupts import RESUMES, say_way_back
from orchestration.search.presets.named import overridden
from orchestration.workers.resources import Resources

PresetOption = Annotated[
    str | None,
    typer.Option(help="Named study (biomass presets); options win over it.", autocompletion=complete.presets),
]
PLANNED = 60  # trials, without an option or a preset that has a number


@preset_options(
    *("families", "backbones", "weights", "scale", "space", "set_", "folds", "trials"),
    *("cpus_per_fold", "gpus_per_fold", "slots", "cache", "address"),
)
def doctor(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="Study folder or URI; checked from every node.")
    ] = None,
    data: OptionalData = None,
    preset: PresetOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Only measure what STUDY's members take to predict here.")
    ] = False,
    as_json: Json = False,
    **typed: Any,
) -> None:
    """Check machine or cluster, and estimate what the study will cost.

    With --data, the directory is looked for on every node. A slot is measured,
    and folds and features of what a search may propose are estimated from it,
    for 60 trials unless it is said. Exit code 1 when a check failed.

    Example:
    $ biomass doctor runs/first --data csiro-biomass/ --trials 60
    $ biomass doctor runs/night --data csiro-biomass/ --preset cpu_overnight
    $ biomass doctor runs/first --data csiro-biomass/ --profile
    """
    from orchestration.search.presets.asked import families_of, weights_source

    if typed["families"]:
        typed["families"], typed["shares"] = families_of(typed["families"])
    chosen, _ = overridden(preset, typed)
    if profile:
        _profile(study, data, chosen.resources, typed["weights"], as_json=as_json)
        return
    from search_spaces.range_files import read_changes

    changes = read_changes(chosen.study.space, chosen.study.set_)
    from orchestration.doctor.findings import Finding, examine_here

    found: list[Finding] = []

    def show(finding: Finding) -> None:
        found.append(finding)
        (print_remark if as_json else print_line)(str(finding))

    source, resources = weights_source(chosen.study.weights), chosen.resources
    families, shares = chosen.study.families, chosen.study.shares
    for finding in examine_here(resources.address, resources.cache, study):
        show(finding)
    if not any(finding.what == "address" for finding in found):
        from orchestration.doctor.examine import Plan, run_doctor, usable_backbones

        plan = Plan(
            study=study,
            data_dir=data,
            weights=source,
            shares=dict(zip(families, shares or [1.0] * len(families), strict=True)),
            backbones=usable_backbones(chosen.study.backbones, source, print_remark, show),
            scale=chosen.study.scale,
            trials=chosen.budget.trials or PLANNED,
            folds=chosen.study.folds,
            changes=changes,
        )
        run_doctor(plan, reachable(resources), show)
    fit = not any(finding.verdict == "FAIL" for finding in found)
    if as_json:
        print_json({"fit": fit, "findings": found})
    if not fit:
        raise typer.Exit(1)


def _profile(study: str | None, data: Path | None, resources: Resources, weights: str | None, *, as_json: bool) -> None:
    """Measure predictions of a study's members on this machine."""
    if study is None or data is None:
        raise typer.BadParameter("--profile measures members of a study on its photographs: give STUDY and --data DIR")
    from orchestration.study.ledger import open_ledger

    ledger, source = open_ledger(study), typed_weights(weights)
    from orchestration.blending.profile import profile_study, render_profile
    from orchestration.study.data import StudyData

    found = profile_study(
        StudyData(ledger),
        data,
        weights=source,
        device="cpu" if resources.gpus_per_fold == 0 else "auto",
        cpus=max(1, int(resources.cpus_per_fold)),
        say=print_remark,
    )
    if as_json:
        print_json({"profile": found})
    else:
        print_line(render_profile(found))


@preset_options()
def search(
    study: Study,
    data: DataOption,
    preset: PresetOption = None,
    **typed: Any,
) -> None:
    """Search for good models; run the same command again to resume a study.

    Ctrl-C, SIGTERM and SIGHUP stop it within 15 s (exit code 130, 143, 129).
    Options that are not given take the preset's value, or the default.

    Examples:
    $ biomass search runs/first --data csiro-biomass/ --trials 60
    $ biomass search runs/night --data csiro-biomass/ --preset cpu_overnight
    """
    say_way_back(RESUMES)
    from orchestration.search.presets.asked import asked_preset, search_as_asked

    chosen, made_with = asked_preset(study, preset, typed)
    if not chosen.budget.ends:
        raise typer.BadParameter("a search needs an end: give --trials N or --hours H, or a --preset")
    ending = search_as_asked(study, data, chosen, made_with, say=print_remark, detail=print_detail)
    for line in ending.lines:
        print_line(line)
    print_line(f"{'' if ending.hours_over else 'Finished. '}Next: biomass leaderboard {study}")
