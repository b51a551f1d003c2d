"""Commands that read a study: nothing here computes a fold, except a refit."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.commands import complete
from orchestration.commands.options import (
    DEFAULT_CACHE,
    Cache,
    CachedFeatures,
    Json,
    OptionalData,
    Study,
    Trial,
    Weights,
    local_cache,
    out_console,
    print_json,
    print_line,
    print_remark,
    typed_weights,
)


def status(study: Study, as_json: Json = False) -> None:
    """How a search stands, from its files; live counts from owner.json.

    Works from any terminal or machine that sees the study.

    Example:
    $ biomass status runs/first
    """
    from orchestration.inspect.status import render_status, status_of
    from orchestration.study.ledger import open_ledger

    found = status_of(open_ledger(study))
    if as_json:
        print_json(found)
    else:
        print_line(render_status(found))


def leaderboard(
    study: Study,
    top: Annotated[
        int | None, typer.Option(min=0, help="Trials to show; 0 = all (default with --json).", show_default="20")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare trials and references.

    Examples:
    $ biomass leaderboard runs/first
    $ biomass leaderboard runs/first --json | jq '.rows[0]'
    """
    from orchestration.blending.followed import followed_blend
    from orchestration.blending.shown import blend_score, notices_of
    from orchestration.inspect.leaderboard import (
        best_rows,
        family_rows,
        render_families,
        render_leaderboard,
        render_summaries,
    )
    from orchestration.inspect.leaderboard import leaderboard as make_leaderboard
    from orchestration.study.data import StudyData
    from orchestration.study.ledger import open_ledger

    data = StudyData(open_ledger(study))
    rows, notices = make_leaderboard(data), notices_of(data)
    blend, no_blend = blend_score(data)
    followed, not_compared = followed_blend(data)
    if as_json:
        content = {"rows": best_rows(rows, top or None), "families": family_rows(rows), "blend": blend}
        content["followed"] = followed
        print_json(content | {"notices": notices})
        return
    for notice in notices:
        print_remark(f"note: {notice}")
    out_console.print(render_leaderboard(rows, 20 if top is None else top or None))
    out_console.print(str(blend or f"no blend: {no_blend}"), soft_wrap=True)
    if line := str(followed or not_compared or ""):
        out_console.print(line, soft_wrap=True)
    if any(row.family is not None and row.score is not None for row in rows):
        out_console.print(render_summaries(rows, 20 if top is None else top or None))
    out_console.print(render_families(rows))


def show(study: Study, trial: Trial, as_json: Json = False) -> None:
    """One trial: settings, folds, cost, and what it is worth in the blend.

    Settings are those that differ from the published ones or whose ranges are
    yours. Ends with the commands that fit the trial again and explain it.

    Example:
    $ biomass show runs/first 3f09c1d2ab
    """
    from orchestration.inspect.show import show_trial
    from orchestration.inspect.show_page import render_trial
    from orchestration.study.data import StudyData
    from orchestration.study.ledger import open_ledger

    ledger = open_ledger(study)
    found = show_trial(StudyData(ledger), ledger.trial_id(trial))
    if as_json:
        print_json(found)
    else:
        out_console.print(render_trial(found))
        for command in found.commands:
            print_line(f"  {command}")


def audit(
    study: Study,
    refit: Annotated[int, typer.Option(min=0, help="Fit so many complete trials again and compare bit for bit.")] = 0,
    data: OptionalData = None,
    cached_features: CachedFeatures = False,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """Prove from the files alone that nothing was lost or repeated.

    Every feature bank in --cache is compared with the hash of its content.
    Exit code 1 when something is wrong or open; `biomass repair` reopens
    what can be computed again.

    Examples:
    $ biomass audit runs/first
    $ biomass audit runs/first --refit 3 --data csiro-biomass/
    """
    if refit and data is None:
        raise typer.BadParameter("--refit needs the photographs: give --data DIR")
    from orchestration.study.ledger import open_ledger

    ledger = open_ledger(study)
    from biomass_models.features.store import damaged_chunks
    from orchestration.inspect.audit import Problem
    from orchestration.inspect.audit import audit as audit_study
    from orchestration.inspect.audit import refit as refit_trials
    from orchestration.progress import progress_bar

    found = audit_study(ledger)
    with progress_bar("Feature banks") as update:
        damaged = damaged_chunks(cache.expanduser(), update)
        found.found += map(Problem, damaged)
    if refit and data is not None:
        features = local_cache(cache) if cached_features else None
        found.found += refit_trials(
            ledger, data, sample=refit, cache_dir=features, weights=typed_weights(weights), say=print_remark
        )
    if as_json:
        print_json(found.to_json())
    else:
        print_line(str(found))
    if not found.clean:
        raise typer.Exit(1)


def repair(
    study: Study,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it nothing is changed.")] = False,
    as_json: Json = False,
) -> None:
    """Reopen what an audit finds, so that the next search computes it.

    Lists what will be computed again. Torn files are set aside, not deleted.
    Exit code 1 when something is left that the study cannot mend.

    Examples:
    $ biomass repair runs/first
    $ biomass repair runs/first --yes
    """
    from orchestration.inspect.repair import plan_repair
    from orchestration.inspect.repair import repair as repair_study
    from orchestration.study.ledger import open_ledger

    ledger = open_ledger(study)
    found = repair_study(ledger, print_remark) if yes else plan_repair(ledger)
    if as_json:
        print_json({"done": found.done, "folds": found.folds, "steps": found.steps, "left": found.left})
    else:
        print_line(str(found))
    if found.left:
        raise typer.Exit(1)


def replay(
    study: Study,
    prune: Annotated[
        str, typer.Option(help="Rule to try: default or strict.", autocompletion=complete.prune_rules)
    ] = "default",
    as_json: Json = False,
) -> None:
    """What a pruning rule would have saved and cost.

    Needs a study searched with --prune off.

    Example:
    $ biomass replay runs/first --prune strict
    """
    from orchestration.study.ledger import open_ledger

    ledger = open_ledger(study)
    from orchestration.inspect.replay import render_replay
    from orchestration.inspect.replay import replay as replay_study

    found = replay_study(ledger, prune, print_remark)
    if as_json:
        print_json(found)
    else:
        print_line(render_replay(found))
