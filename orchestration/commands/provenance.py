"""Commands that ask where numbers come from: a trial from its record, a file from its content."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands.options import (
    DEFAULT_CACHE,
    Cache,
    CachedFeatures,
    DataOption,
    Json,
    Study,
    Trial,
    Weights,
    local_cache,
    print_json,
    print_line,
    print_remark,
    typed_weights,
)


def refit(
    study: Study,
    trial: Trial,
    data: DataOption,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put models back that --weights-gb of the search has deleted.")
    ] = False,
    weights: Weights = None,
    cached_features: CachedFeatures = False,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """Repeat a trial from its record and compare bit for bit.

    Exit code 0: the same out-of-fold rows; 1: others, and what is different
    here. Writes nothing into the study, except models with --restore.

    Example:
    $ biomass refit runs/first 3f09c1d2ab --data csiro-biomass/
    """
    from orchestration.study.ledger import open_ledger

    ledger, source = open_ledger(study), typed_weights(weights)
    trial_id = ledger.trial(ledger.trial_id(trial)).trial_id
    from orchestration.workers.refit import refit_trial, restore_models

    if restore:
        restored = restore_models(ledger, trial_id, data, cache_dir=local_cache(cache), weights=source)
        if as_json:
            print_json({"trial_id": trial_id, "restored": restored})
        else:
            print_line("\n".join(f"restored {again}" for again in restored))
        return
    print_remark(f"Fitting {trial_id} again")
    features = local_cache(cache) if cached_features else None
    found = refit_trial(ledger, trial_id, data, cache_dir=features, weights=source)
    if as_json:
        print_json(found.to_json())
    else:
        print_line(str(found))
    if not found.same:
        raise typer.Exit(1)


def trace(
    submission: Annotated[Path, typer.Argument(metavar="FILE", help="Submission, table of masses, or bundle.")],
    study: Annotated[
        list[str] | None, typer.Option(help="Study folder or URI to look in; repeat. Default: those near the file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Walk back from a file to ensemble, trials, data and code.

    A submission, what `biomass predict` wrote (table or means), or a bundle
    (its folder). Exit code 1 where no ensemble wrote exactly this file; of a
    submission the message says which one is nearest.

    Examples:
    $ biomass trace submission.csv
    $ biomass trace masses.csv --study runs/first
    $ biomass trace bundle/ --study runs/first
    """
    from orchestration.inspect.trace import trace as trace_submission
    from orchestration.inspect.trace_page import render_trace

    found = trace_submission(submission, study or [])
    if as_json:
        print_json(found)
    else:
        print_line(render_trace(found))
