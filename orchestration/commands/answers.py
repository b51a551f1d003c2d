"""Commands on what a study is for: masses of photographs that nobody has weighed, and which to weigh next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biomass_models.errors import UserError
from orchestration.commands import complete
from orchestration.commands.options import (
    DEFAULT_CACHE,
    Address,
    Cache,
    Json,
    OptionalData,
    Study,
    Weights,
    out_console,
    out_file,
    print_json,
    print_line,
    print_remark,
    reachable,
    typed_weights,
)
from orchestration.interrupts import RESUMES, say_way_back
from orchestration.workers.resources import Resources

if TYPE_CHECKING:
    from biomass_models.features.likeness import Likeness
    from orchestration.advice.bank import StudyBank
    from orchestration.study.data import StudyData

DEFAULT_LEVELS = (0.8, 0.9)
MASSES, GROUPS, WORK, LIMITS = "Masses", "Groups of photographs", "Where it runs", "Limits"  # headings of the help page
CacheGb = Annotated[float | None, typer.Option(min=0.001, help="Most GB in the cache.", rich_help_panel=WORK)]


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
    cache_gb: CacheGb = None,
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
    from orchestration.answers.table import FORMATS, TableOptions, output_paths

    say_way_back(RESUMES)
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out is a table {' or '.join(FORMATS)}, got {out}; name it {out.with_suffix('.csv')}")
    _require_no_level([blend, *photographs], level)
    columns = tuple(name.strip() for name in (by or "").split(",") if name.strip())
    options = TableOptions(levels=levels_of(level), joint=joint, by=columns, date=date)
    from orchestration.answers.photographs import read_photographs, require_not_read

    given = read_photographs(photographs)
    require_not_read(output_paths(out, options), photographs, given, "--out")
    from orchestration.answers.asked import made_with_as_asked, opened_as_asked, work_as_asked
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
    made_with = made_with_as_asked(resources, threads=threads)
    found = run_prediction(opened, given, out, converted, options, work=work, made_with=made_with, say=print_remark)
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
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that predict, by Ray Serve; --queue is of each.", rich_help_panel=WORK),
    ] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """A page that predicts photographs, in the field too, and for programs.

    Masses are those of `biomass predict`. With --data (of the search) the page
    shows the nearest training photographs. Runs until Ctrl-C; exit code 0.

    Examples:
    $ biomass serve runs/first
    $ biomass serve bundle/ --host 0.0.0.0 --port 8000
    $ biomass serve runs/first --replicas 4 --address HEAD:6379
    """
    say_way_back("the same command serves again")
    from orchestration.serving.address import Address as Served
    from orchestration.serving.asked import Limits
    from orchestration.serving.run import require_packages, run_server

    require_packages()
    on_ray = replicas is not None or address is not None
    if on_ray:
        from orchestration.serving.on_ray import END_SECONDS, require_ray_serve, run_replicas
        from orchestration.workers.address import require_answer

        say_way_back("the same command serves again", seconds=END_SECONDS)
        require_ray_serve()
        require_answer(address)
    limits = Limits(photographs=max_photographs, photograph_mb=max_mb, queue=queue)
    from orchestration.answers.opened import BlendPlace, is_bundle, open_blend
    from orchestration.answers.trained_on import unlike_note

    opened = open_blend(BlendPlace(blend, ensemble, typed_weights(weights)))
    if ensemble is None and not is_bundle(blend):
        print_remark(f"Ensemble {opened.name}, the newest of {opened.study}")
    if (unlike := unlike_note(opened)) is not None:
        print_remark(unlike)

    def show(served: Served) -> None:
        if as_json:
            print_json(served)
            return
        print_line(f"Page          {served.page}")
        print_line(f"For programs  {served.predict}")
        print_remark("Ctrl-C stops it.")

    serving: dict[str, Any] = {"host": host, "port": port, "limits": limits, "cores": threads, "data": data}
    serving |= {"kept": keep, "show": show, "say": print_remark}
    if on_ray:
        run_replicas(opened, replicas=replicas or 1, address=address, **serving)
    else:
        run_server(opened, **serving)
    print_remark("Stopped.")


def levels_of(typed: list[str] | None) -> tuple[float, ...]:
    """Levels, apart by commas or options. UserError for what is no share, or none."""
    from ensembles.intervals.levels import require_level

    if typed is None:
        return DEFAULT_LEVELS
    texts = [text for one in typed for text in one.split(",") if text.strip()]
    try:
        levels = tuple(dict.fromkeys(map(float, texts)))
    except ValueError:
        levels = ()
    if not levels:
        raise UserError(f"--level is shares such as 0.8,0.9, got {','.join(typed)!r}")
    for one in levels:
        require_level(one)
    return levels


def _require_no_level(words: list[str], levels: list[str] | None) -> None:
    """Raise UserError for a level among the arguments, where `--level 0.8 0.9` puts it."""
    for word in words if levels else ():
        try:
            is_level = 0 < float(word) < 1 and not Path(word).exists()
        except ValueError:
            continue
        if is_level:
            several = ",".join([*(levels or ()), word])
            raise UserError(f"--level takes several levels apart by commas, got {word} by itself; give {several}")


def next(
    study: Study,
    pool: Annotated[
        list[str],
        typer.Argument(metavar="POOL...", help="What could be weighed: folders, patterns in quotes, lists, tables."),
    ],
    targets: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="PHOTOS", help="What shall be predicted, as POOL; several times. Required."),
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="Photographs to choose.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Table to write: .csv.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Contact sheet to write: .png.")] = None,
    data: OptionalData = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGb = None,
    cores: Annotated[int, typer.Option("--threads", min=1, help="CPU cores.", rich_help_panel=WORK)] = 1,
    as_json: Json = False,
) -> None:
    """Which photographs to weigh next, for the sake of those to be predicted.

    Features are those of the newest blend's heaviest frozen member (without a
    blend, of the best trial). --data (of the search) is only needed once, where
    embeddings of the weighed photographs are not kept yet.

    Examples:
    $ biomass next runs/first walked/ --for new-photographs/ --number 20
    $ biomass next runs/first walked/ --for new.csv --sheet next.png --out next.csv
    """
    if not targets:
        raise UserError(
            "photographs are chosen for those that shall be predicted: name them with --for (with the pool itself in "
            "their place the choice was no better than random)"
        )
    out = None if out is None else out_file(out, ".csv")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet is a .png file, got {sheet}; name it {sheet.with_suffix('.png')}")
    from orchestration.answers.photographs import read_photographs, require_not_read

    could, wanted = read_photographs(pool), read_photographs(targets)
    for path, option in ((out, "--out"), (sheet, "--sheet")):
        for typed, photographs in ((pool, could), (targets, wanted)):
            require_not_read([] if path is None else [path], typed, photographs, option)
    from biomass_models.backbones.devices import threads
    from biomass_models.whole_files import write_whole
    from orchestration.advice.encoded import Encoder
    from orchestration.advice.next import OURS, next_photographs, picks_table
    from orchestration.advice.page import advice_lines, render_picks
    from orchestration.advice.sheet import write_sheet
    from orchestration.answers.table import table_bytes
    from orchestration.workers.weights_here import searched_source, source_of_bank

    resources = reachable(Resources(cache=cache, cache_gb=cache_gb, inline=True))
    with threads(cores):
        known, chosen, embeddings = _embeddings(study, data, weights, resources)
        source = source_of_bank(typed_weights(weights) or searched_source(known.ledger), chosen.bank)
        encoder = Encoder(bank=chosen.bank, source=source, cache=resources.cache, cache_gb=cache_gb)
        found = next_photographs(known, embeddings, could, wanted, number, encoder=encoder, features=chosen.text)
    if out is not None:
        picks = picks_table(found, could)
        write_whole(out, table_bytes(picks, ".csv", own=set(picks).difference(OURS), digits=6))
    if sheet is not None:
        write_sheet(found.record, sheet, fit=known.settings.fit)
    try:
        known.ledger.write_next(found.record)
    except OSError as error:  # a study that others own is read as it is
        print_remark(f"The study cannot be written ({error.strerror or error}): its report does not show this choice")
    if as_json:
        print_json({"next": found, "out": out, "sheet": sheet})
        return
    out_console.print(render_picks(found))
    for line in advice_lines(found):
        print_line(line)
    for path in (out, sheet):
        if path is not None:
            print_line(f"Wrote {path}")


def learning_curve(
    study: Study,
    repeats: Annotated[int, typer.Option(min=2, help="Orders in which dates are left out; more are added.")] = 10,
    more: Annotated[int, typer.Option(min=1, help="Photographs more, whose gain is forecast.")] = 100,
    data: OptionalData = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """What more weighed photographs would bring: of new dates, or of those there.

    A ridge on frozen features learns from fewer and fewer dates, and from as
    many photographs of all dates. What is measured is kept in the study and
    shown by `biomass report`; if it was stopped, run the same command again.
    --data (of the search) is only needed once, where embeddings of the weighed
    photographs are not kept yet.

    Example:
    $ biomass learning-curve runs/first
    """
    say_way_back(RESUMES)
    from biomass_models.backbones.devices import one_thread
    from orchestration.advice.curve import measure_curve
    from orchestration.advice.curve_read import CurveReading
    from orchestration.advice.page import render_curve
    from orchestration.progress import progress_bar

    resources = reachable(Resources(cache=cache, inline=True))
    with one_thread():
        known, chosen, embeddings = _embeddings(study, data, weights, resources)
        with progress_bar("Learning from fewer photographs") as update:
            record = measure_curve(known, embeddings, repeats, features=chosen.text, update=update)
    reading = CurveReading.of(record, more)
    if as_json:
        print_json({"learning_curve": reading, "lines": reading.lines()})
        return
    out_console.print(render_curve(reading))
    for line in (*reading.lines(), f"features: {record.features}"):
        print_line(line)


def _embeddings(
    study: str, data: Path | None, weights: str | None, resources: Resources
) -> tuple[StudyData, StudyBank, Likeness]:
    """A study, its frozen features, and those of its photographs."""
    from orchestration.advice.bank import bank_of_study, embeddings_of
    from orchestration.blending.predict import Predictor
    from orchestration.study.data import StudyData
    from orchestration.study.ledger import open_ledger

    known = StudyData(open_ledger(study))
    chosen = bank_of_study(known)
    encoder = None if data is None else lambda: Predictor(data, resources=resources, weights=typed_weights(weights))
    return known, chosen, embeddings_of(known, chosen.bank, encoder)
