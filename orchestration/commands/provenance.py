"""Commands that ask where numbers come from: a trial from its record, a submission from its file."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from orchestration.commands.options import DEFAULT_CACHE, Cache, DataOption, Study, Weights, say, tell, weights_source


def refit(
    study: Study,
    trial: Annotated[str, typer.Argument(help="Trial id, as the leaderboard shows it.")],
    data: DataOption,
    weights: Weights = "auto",
    cache: Cache = DEFAULT_CACHE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Repeat a trial from its record and compare bit for bit. Example: biomass refit runs/first 3f09c1d2ab --data DIR

    Exit code 0: the same out-of-fold rows; 1: others, and what is different here. Writes nothing into the study.
    """
    from orchestration.ledger import open_ledger
    from orchestration.refit import refit_trial

    say(f"Fitting {trial} again")
    found = refit_trial(open_ledger(study), trial, data, cache_dir=cache, weights=weights_source(weights))
    tell(json.dumps(found.to_json()) if as_json else str(found))
    if not found.same:
        raise typer.Exit(1)
