"""Commands that read a study: nothing here computes a fold, except a refit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands.options import DEFAULT_CACHE, Cache, Study, Weights, out_console, say, tell, weights_source


def status(study: Study) -> None:
    """How a search stands, from its files alone. Example: biomass status runs/first"""
    from orchestration.ledger import open_ledger
    from orchestration.status import render_status, status_of

    tell(render_status(status_of(open_ledger(study))))


def leaderboard(
    study: Study,
    top: Annotated[int, typer.Option(min=0, help="Trials to show; 0 = all.")] = 20,
) -> None:
    """Compare trials and references. Example: biomass leaderboard runs/first"""
    from orchestration.leaderboard import leaderboard as make_leaderboard
    from orchestration.leaderboard import render_families, render_leaderboard
    from orchestration.ledger import open_ledger

    rows = make_leaderboard(open_ledger(study))
    out_console.print(render_leaderboard(rows, top or None))
    out_console.print(render_families(rows))


def audit(
    study: Study,
    refit: Annotated[int, typer.Option(min=0, help="Fit so many complete trials again and compare bit for bit.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Data directory, for --refit.")] = None,
    weights: Weights = "auto",
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Prove from the files alone that nothing was lost or repeated. Example: biomass audit runs/first"""
    from orchestration.audit import audit as audit_study
    from orchestration.audit import refit as refit_trials
    from orchestration.ledger import open_ledger

    if refit and data is None:
        raise typer.BadParameter("--refit needs the photographs: give --data DIR")
    ledger = open_ledger(study)
    found = audit_study(ledger)
    if refit and data is not None:
        found.problems += refit_trials(
            ledger, data, sample=refit, cache_dir=cache, weights=weights_source(weights), say=say
        )
    tell(str(found))
    if not found.clean:
        raise typer.Exit(1)


def replay(
    study: Study,
    prune: Annotated[str, typer.Option(help="Rule to try: default or strict.")] = "default",
) -> None:
    """What a pruning rule would have saved and cost. Example: biomass replay runs/first --prune default"""
    from orchestration.ledger import open_ledger
    from orchestration.replay import render_replay
    from orchestration.replay import replay as replay_study

    tell(render_replay(replay_study(open_ledger(study), prune, say)))
