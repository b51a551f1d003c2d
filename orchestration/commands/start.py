"""The command to begin with: the whole way on a generated pasture."""

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
    print_remark,
    reachable,
)
from orchestration.interrupts import RESUMES, say_way_back
from orchestration.terminal import PlainConsole


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for data, study and submission.")] = Path(
        "demo"
    ),
    preset: Annotated[
        str, typer.Option(help="demo, or smoke for a tiny one.", autocompletion=complete.presets)
    ] = "demo",
    seed: Annotated[int | None, typer.Option(min=0, help="Of pasture, folds and search.", show_default="0")] = None,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """The whole way on a generated pasture, in minutes.

    Data, search, leaderboard, ensemble, submission, its true score and a report.
    If it was stopped, run the same command again to resume.

    Example:
    $ biomass demo
    """
    say_way_back(RESUMES)
    from orchestration.search.presets.named import overridden

    chosen, made_with = overridden(preset, {"seed": seed, "cache": cache})
    if chosen.drawing is None:
        raise UserError(f"a demo draws its own photographs, the preset {preset} is for real ones; use demo or smoke")
    from orchestration.demo import run_demo

    console = PlainConsole(quiet=True) if as_json else out_console
    done = run_demo(folder, chosen, chosen.drawing, reachable(chosen.resources), console, print_remark, made_with)
    if as_json:
        print_json(done)
