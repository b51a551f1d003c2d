"""Commands that ask where numbers come from: a trial from its record, a submission from its file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
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


def trace(
    submission: Annotated[Path, typer.Argument(help="Submission file.")],
    study: Annotated[
        list[str] | None, typer.Option(help="Study folder or URI to look in; repeat. Default: those near the file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Walk back from a submission to ensemble, trials, data and code. Example: biomass trace submission.csv

    Exit code 1 where no ensemble wrote exactly this file; the message says which one is nearest.
    """
    from orchestration.trace import trace as trace_submission
    from orchestration.trace_page import render_trace

    found = trace_submission(submission, study or [])
    tell(json.dumps(asdict(found)) if as_json else render_trace(found))
