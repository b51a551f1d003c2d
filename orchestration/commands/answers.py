"""Commands on what a study is for: masses of photographs that nobody has weighed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biomass_models.errors import UserError
from orchestration.commands import complete
from orchestration.commands.options import (
    DEFAULT_CACHE,
    Address,
    Cache,
    Json,
    OptionalData,
    Weights,
    print_json,
    print_line,
    print_remark,
    reachable,
    typed_weights,
)
from orchestration.workers.resources import Resources

DEFAULT_LEVELS = (0.8, 0.9)
MASSES, GROUPS, WORK = "Masses", "Groups of photographs", "Where it runs"  # headings of the help page


def predict(
    blend: Annotated[str, typer.Argument(metavar="STUDY|BUNDLE", help="Study folder or URI, or folder of a bundle.")],
    photographs: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTOS...", help="Folders, patterns in quotes, lists (.txt), tables with a column of paths."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")] = Path("masses.csv"),
    ensemble: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stored ensemble of a study; the newest without it.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="g (a quadrat), g/m2 or kg/ha (dry matter); the study's without it.",
            autocompletion=complete.units,
            rich_help_panel=MASSES,
        ),
    ] = None,
    area: Annotated[
        float | None, typer.Option(help="m2 of a quadrat, where the study does not know it.", rich_help_panel=MASSES)
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(help="Levels of intervals.", show_default="0.8,0.9", rich_help_panel=MASSES),
    ] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="Intervals that hold for all masses at once.", rich_help_panel=MASSES)
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMNS",
            help="Columns of a table that name groups: OUT-means has their means.",
            rich_help_panel=GROUPS,
        ),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of the date (or site, group) that folds keep whole.", rich_help_panel=GROUPS
        ),
    ] = None,
    data: OptionalData = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    cache_gb: Annotated[
        float | None, typer.Option(min=0.001, help="Most GB in the cache.", rich_help_panel=WORK)
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU cores of a process; they round sums their way.", rich_help_panel=WORK)
    ] = 1,
    scale_out: Annotated[
        bool,
        typer.Option("--scale-out", help="Many processes, by Ray Data; --address does so too.", rich_help_panel=WORK),
    ] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Masses of any photographs, with intervals: a table, a row a photograph.

    A photograph that cannot be read has its reason. If it was stopped, run the
    same command again: finished parts are kept. --data (of the search) is only
    needed once, to tell unlike photographs in a study that lacks embeddings.

    Examples:
    $ biomass predict runs/first new-photographs/ --out masses.csv
    $ biomass predict bundle/ table.csv --unit kg/ha --by paddock,date
    """
    from orchestration.answers.table import FORMATS, TableOptions

    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out is a table {' or '.join(FORMATS)}, got {out}; name it {out.with_suffix('.csv')}")
    columns = tuple(name.strip() for name in (by or "").split(",") if name.strip())
    options = TableOptions(levels=levels_of(level), joint=joint, by=columns, date=date)
    from orchestration.answers.photographs import read_photographs

    given = read_photographs(photographs)
    from orchestration.answers.opened import BlendPlace, is_bundle, open_blend
    from orchestration.answers.predict import in_this_process, run_prediction
    from orchestration.answers.units import conversion
    from orchestration.workers.address import is_cluster

    inline = not scale_out and not is_cluster(address)
    resources = reachable(Resources(cache=cache, cache_gb=cache_gb, address=address, inline=inline))
    place = BlendPlace(blend, ensemble, typed_weights(weights))
    opened = open_blend(place)
    converted = conversion(opened.mass_unit, unit, area, given)
    if opened.likeness is None and data is not None:
        if is_bundle(blend):
            raise UserError("a bundle keeps what it is exported with; export it again from a study that has embeddings")
        from orchestration.answers.opened import with_likeness
        from orchestration.blending.predict import Predictor

        print_remark("Embeddings of the training photographs are kept from now on")
        opened = with_likeness(opened, Predictor(data, resources=resources, weights=typed_weights(weights)))
    if ensemble is None and not is_bundle(blend):
        print_remark(f"Ensemble {opened.name}, the newest of {opened.study}")
    folder = resources.cache.expanduser()
    if resources.inline:
        work = in_this_process(opened, cache=folder, cache_gb=cache_gb, cores=threads)
    else:
        from orchestration.answers.on_ray import on_ray

        work = on_ray(opened.place, resources, threads=threads, say=print_remark)
    found = run_prediction(opened, given, out, converted, options, work=work, say=print_remark)
    if as_json:
        print_json({"unit": converted.unit, "levels": options.levels, "prediction": found})
        return
    for note in found.notes:
        print_line(f"note: {note}")
    print_line(f"Masses of {found.photographs - found.unreadable} photographs: {found.out}")
    if found.means is not None:
        print_line(f"Means by {', '.join(columns)}: {found.means}")


def levels_of(typed: list[str] | None) -> tuple[float, ...]:
    """Levels, apart by commas or options. UserError for what is no share."""
    from ensembles.intervals.levels import require_level

    levels: tuple[float, ...] = DEFAULT_LEVELS
    if typed:
        try:
            levels = tuple(dict.fromkeys(float(text) for one in typed for text in one.split(",") if text.strip()))
        except ValueError:
            raise UserError(f"--level is shares such as 0.8,0.9, got {','.join(typed)}") from None
    for one in levels:
        require_level(one)
    return levels
