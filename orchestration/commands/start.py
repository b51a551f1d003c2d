"""Commands to begin with: the whole way on a generated pasture, and the named studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biomass_models.errors import UserError
from orchestration.commands import complete
from orchestration.commands.options import (
    DEFAULT_CACHE,
    Cache,
    Json,
    out_console,
    print_json,
    resources_of,
    say,
    tell,
)
from orchestration.terminal import PlainConsole


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for data, study and submission.")] = Path(
        "demo"
    ),
    recipe: Annotated[
        str, typer.Option(help="demo, or smoke for a tiny one.", autocompletion=complete.recipes)
    ] = "demo",
    seed: Annotated[int | None, typer.Option(min=0, help="Of pasture, folds and search.", show_default="0")] = None,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """The whole way on a generated pasture, in minutes.

    Data, search, leaderboard, ensemble, submission, its true score and a report.
    The same command goes on where it was stopped.

    Example:
    $ biomass demo
    """
    from orchestration.search.presets import overridden

    asked, made_with = overridden(recipe, {"seed": seed})
    if asked.images is None:
        raise UserError(f"a demo draws its own photographs, the recipe {recipe} is for real ones; use demo or smoke")
    from orchestration.demo import run_demo

    console = PlainConsole(quiet=True) if as_json else out_console
    done = run_demo(folder, asked, resources_of(cache, None, **asked.resources()), console, say, made_with)
    if as_json:
        print_json(done)


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Preset to show whole.", autocompletion=complete.recipes)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the named studies, or show one with its command, cost and outcome.

    Any setting can be overridden: an option of `biomass search` wins over the
    recipe's.

    Examples:
    $ biomass recipes
    $ biomass recipes cpu_overnight
    $ biomass search runs/first --data csiro-biomass/ --recipe cpu_overnight
    """
    from orchestration.search.presets import PRESETS, PresetRow, preset_named, render_preset, render_presets

    if name is not None:
        preset_named(name)
    rows = [PresetRow.of(each) for each in PRESETS if name in (None, each)]
    if as_json:
        print_json({"recipes": rows})
    elif name is None:
        out_console.print(render_presets(rows))
        tell("biomass recipes NAME shows command, cost and what to expect.")
    else:
        tell(render_preset(rows[0]))
