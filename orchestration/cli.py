"""The command line: its commands in the order in which a study uses them.

Each parses, builds settings and calls one function. Heavy packages load inside the commands, so that help and file
checks need neither torch nor Ray.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands import blend, dashboard, data, provenance, report, search, study
from orchestration.commands.options import DEFAULT_CACHE, Cache, err_console, out_console, resources_of, say, stopped

app = typer.Typer(
    name="biomass",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Pasture biomass from photographs: check data, search, compare, blend, submit.\n\n"
    "Exit codes: 0 done, 1 bad input (the message says what to do), 2 wrong usage, 130 stopped (the same command "
    "goes on).",
)
data_app = typer.Typer(no_args_is_help=True, help="Check, draw and show data directories.")
submission_app = typer.Typer(no_args_is_help=True, help="Check submission files.")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for data, study and submission.")] = Path("demo"),
    recipe: Annotated[str, typer.Option(help="demo, or smoke for a tiny one.")] = "demo",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """The whole way on a generated pasture, in minutes. Example: biomass demo"""
    from orchestration.demo import run_demo
    from orchestration.recipes import RECIPES

    if recipe not in RECIPES:
        raise typer.BadParameter(f"a recipe is one of {', '.join(RECIPES)}, got {recipe!r}")
    if not run_demo(folder, RECIPES[recipe](seed), resources_of(cache, None), out_console, say):
        stopped()


app.add_typer(data_app, name="data")
data_app.command("check")(data.data_check)
data_app.command("make")(data.data_make)
data_app.command("show")(data.data_show)
for command in (
    search.doctor,
    search.search,
    study.status,
    dashboard.dashboard,
    study.leaderboard,
    study.audit,
    study.replay,
    blend.explain,
    blend.ensemble,
    blend.export,
    report.report,
    provenance.refit,
    provenance.trace,
):
    app.command()(command)
app.add_typer(submission_app, name="submission")
submission_app.command("check")(data.submission_check)
app.command()(data.score)


def main() -> None:
    """Run the command line; a known error becomes one paragraph and exit code 1."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("BIOMASS_DEBUG"):
            raise
        err_console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
