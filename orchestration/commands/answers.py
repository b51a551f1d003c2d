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
MASSES, GROUPS, WORK, LIMITS = "Masses", "Groups of photographs", "Where it runs", "Limits"  # headings of the help page


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
    from orchestration.answers.asked import opened_as_asked, work_as_asked
    from orchestration.answers.opened import BlendPlace
    from orchestration.answers.predict import run_prediction
    from orchestration.workers.address import is_cluster

    inline = not scale_out and not is_cluster(address)
    resources = reachable(Resources(cache=cache, cache_gb=cache_gb, address=address, inline=inline))
    opened, converted = opened_as_asked(
        BlendPlace(blend, ensemble, typed_weights(weights)),
        given,
        unit=unit,
        area=area,
        data_dir=data,
        resources=resources,
        say=print_remark,
    )
    work = work_as_asked(opened, resources, threads=threads, say=print_remark)
    found = run_prediction(opened, given, out, converted, options, work=work, say=print_remark)
    if as_json:
        print_json({"unit": converted.unit, "levels": options.levels, "prediction": found})
        return
    for note in found.notes:
        print_line(f"note: {note}")
    print_line(f"Masses of {found.photographs - found.unreadable} photographs: {found.out}")
    if found.means is not None:
        print_line(f"Means by {', '.join(columns)}: {found.means}")


def serve(
    blend: Annotated[str, typer.Argument(metavar="STUDY|BUNDLE", help="Study folder or URI, or folder of a bundle.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback lets others ask, with a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; default: the first free one from 8000.")
    ] = None,
    ensemble: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stored ensemble of a study; the newest without it.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep photographs and masses of requests there; else nothing is.")
    ] = None,
    data: OptionalData = None,
    weights: Weights = None,
    max_photographs: Annotated[int, typer.Option(help="Most photographs of a request.", rich_help_panel=LIMITS)] = 24,
    max_mb: Annotated[float, typer.Option(help="Most MB of a photograph.", rich_help_panel=LIMITS)] = 25.0,
    queue: Annotated[
        int, typer.Option(help="Most requests at once; later ones are told when to come back.", rich_help_panel=LIMITS)
    ] = 32,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU cores that predict; they round sums their way.", rich_help_panel=WORK)
    ] = 1,
    as_json: Json = False,
) -> None:
    """A page that predicts photographs, in the field too, and for programs.

    Masses are those of `biomass predict`. With --data (of the search) the page
    shows the nearest training photographs. Runs until Ctrl-C; exit code 0.

    Examples:
    $ biomass serve runs/first
    $ biomass serve bundle/ --host 0.0.0.0 --port 8000
    """
    from orchestration.serving.asked import Limits
    from orchestration.serving.run import Address as Served
    from orchestration.serving.run import require_packages, run_server

    require_packages()
    limits = Limits(photographs=max_photographs, photograph_mb=max_mb, queue=queue)
    from orchestration.answers.opened import BlendPlace, is_bundle, open_blend

    opened = open_blend(BlendPlace(blend, ensemble, typed_weights(weights)))
    if ensemble is None and not is_bundle(blend):
        print_remark(f"Ensemble {opened.name}, the newest of {opened.study}")
    if opened.likeness is None:
        print_remark("How unlike the training photographs others are is not known: their embeddings are not kept")

    def show(served: Served) -> None:
        if as_json:
            print_json(served)
            return
        print_line(f"Page          {served.page}")
        print_line(f"For programs  {served.predict}")
        print_remark("Ctrl-C stops it.")

    run_server(
        opened,
        host=host,
        port=port,
        limits=limits,
        cores=threads,
        data=data,
        kept=keep,
        show=show,
        say=print_remark,
    )
    print_remark("Stopped.")


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
