"""Commands on data directories and submission files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biomass_models.counted import counted
from biomass_models.errors import UserError
from orchestration.commands.options import (
    DataOption,
    Directory,
    Json,
    out_file,
    out_folder,
    print_json,
    print_line,
    print_remark,
)

MOST_IMAGES = 1_000_000
COLUMNS = "Columns, where their names do not say it"


def data_check(directory: Directory, as_json: Json = False) -> None:
    """List every problem of a data directory at once.

    Exit code 1 when there is an error; warnings alone are 0.

    Example:
    $ biomass data check csiro-biomass/
    """
    from biomass_models.data.cell_weights import cell_weights
    from biomass_models.data.check import check_directory, cut_off_notice
    from biomass_models.data.problems import errors_of, grouped
    from biomass_models.data.table import TEST_FILE, read_train
    from ensembles.measured import counted_notice
    from orchestration.progress import progress_bar

    with progress_bar("Checking images") as update:
        problems = check_directory(directory, on_progress=update)
    errors = len(errors_of(problems))
    warnings = len(problems) - errors
    if as_json:
        print_json({"directory": directory, "errors": errors, "warnings": warnings, "problems": problems})
    else:
        for problem in grouped(problems):
            print_line(str(problem))
        if notice := cut_off_notice(directory):
            print_line(f"note: {notice}")
        alone = "" if (directory / TEST_FILE).exists() else f"; no {TEST_FILE}, so there is nothing to predict"
        if not errors and (notice := counted_notice(cell_weights(read_train(directory)))):
            print_line(f"{notice[0].upper()}{notice[1:]}")
        print_line(f"{counted(errors, 'error')}, {counted(warnings, 'warning')} in {directory}{alone}")
    if errors:
        raise typer.Exit(1)


def data_make(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Data directory to write.")],
    images: Annotated[int, typer.Option(min=1, max=MOST_IMAGES, help="Training images.")] = 357,
    test_images: Annotated[
        int, typer.Option(min=0, max=MOST_IMAGES, help="Test images, of other dates; 0 for none.")
    ] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures and masses.")] = 0,
    width: Annotated[
        int, typer.Option(min=100, max=20_000, help="Of the photographs, in px, twice their height.")
    ] = 1000,
    form: Annotated[str, typer.Option(help="competition (train.csv) or quadrats (quadrats.csv).")] = "competition",
    unit: Annotated[str, typer.Option(help="Of masses in quadrats.csv: g, g/m2, kg/ha.")] = "g",
    area: Annotated[float, typer.Option(help="Of a quadrat in m2, for quadrats.csv.")] = 0.21,
    targets: Annotated[
        str, typer.Option(help="Masses in quadrats.csv, by commas: green, dead, clover, gdm, total.")
    ] = "all",
    like: Annotated[Path | None, typer.Option(help="Draw one image for each row of this train.csv.")] = None,
) -> None:
    """Draw a pasture set with known masses.

    Examples:
    $ biomass data make pasture/ --images 357
    $ biomass data make pasture/ --like csiro-biomass/train.csv
    $ biomass data make own/ --form quadrats --unit kg/ha --area 0.25 --width 800
    """
    from biomass_models.data.dataset import MASSES
    from biomass_models.pasture.make import make_pasture
    from orchestration.progress import progress_bar

    with progress_bar("Drawing pasture") as update:
        summary = make_pasture(
            directory,
            images=images,
            test_images=test_images,
            seed=seed,
            like=like,
            width=width,
            height=max(50, width // 2),
            form=form,
            unit=unit,
            area=area,
            targets=tuple(MASSES) if targets == "all" else [name.strip() for name in targets.split(",")],
            on_progress=update,
        )
    print_line(summary.text())


def data_import(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV, TSV or XLSX with a row for each photograph.")],
    photos: Annotated[Path, typer.Option(help="Folder of the photographs.")],
    out: Annotated[Path, typer.Option(help="Data directory to write.")],
    unit: Annotated[str | None, typer.Option(help="Of the masses: g (per quadrat), g/m2, kg/ha.")] = None,
    area: Annotated[str | None, typer.Option(help="Of a quadrat in m2, or a column.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Column that folds keep whole; repeat.")] = None,
    photo: Annotated[str | None, typer.Option(help="Column of the photographs.", rich_help_panel=COLUMNS)] = None,
    quadrat: Annotated[str | None, typer.Option(help="Which quadrat it shows.", rich_help_panel=COLUMNS)] = None,
    green: Annotated[str | None, typer.Option(help="Green without clover.", rich_help_panel=COLUMNS)] = None,
    dead: Annotated[str | None, typer.Option(help="Dead matter.", rich_help_panel=COLUMNS)] = None,
    clover: Annotated[str | None, typer.Option(help="Clover, legumes.", rich_help_panel=COLUMNS)] = None,
    gdm: Annotated[str | None, typer.Option(help="Green and clover.", rich_help_panel=COLUMNS)] = None,
    total: Annotated[str | None, typer.Option(help="All dry matter.", rich_help_panel=COLUMNS)] = None,
    date: Annotated[str | None, typer.Option(help="Sampling day.", rich_help_panel=COLUMNS)] = None,
    site: Annotated[str | None, typer.Option(help="Site, paddock, state.", rich_help_panel=COLUMNS)] = None,
    species: Annotated[str | None, typer.Option(help="Species.", rich_help_panel=COLUMNS)] = None,
    ndvi: Annotated[str | None, typer.Option(help="NDVI.", rich_help_panel=COLUMNS)] = None,
    height: Annotated[str | None, typer.Option(help="Sward height in cm.", rich_help_panel=COLUMNS)] = None,
) -> None:
    """Make a data directory of a table and a folder of photographs.

    What a column holds is read from its name; options win. It asks nothing:
    look at what it understood, and run it again with options if it is wrong.

    Example:
    $ biomass data import cuts.csv --photos phone/ --out pasture/ --area 0.25
    """
    out_folder(out)
    from biomass_models.data.check import cut_off_notice
    from biomass_models.data.dataset import GUIDE
    from biomass_models.data.importing import first_rows, import_table, write_import
    from biomass_models.data.problems import errors_of, grouped
    from biomass_models.data.quadrats import inspect_quadrats

    roles = {"photo": photo, "quadrat": quadrat, "green": green, "dead": dead, "clover": clover, "gdm": gdm,
             "total": total, "date": date, "site": site, "species": species, "ndvi": ndvi,
             "height": height}  # fmt: skip
    given = {role: column for role, column in roles.items() if column is not None}
    imported = import_table(table, photos, given=given, unit=unit, area=area, groups=group or ())
    write_import(imported, photos, out)
    for role, column in imported.dataset.columns.items():
        print_line(f"{role:8} {column}")
    for note in imported.notes:
        print_line(f"note: {note}")
    read, problems = inspect_quadrats(out)
    for line in first_rows(read):
        print_line(line)
    for problem in grouped(problems):
        print_line(str(problem))
    if notice := cut_off_notice(out):
        print_line(f"note: {notice}")
    wrote = f"Wrote {out}: {counted(len(read), 'photograph')}"
    print_line(f"{wrote}; {GUIDE} has the rules. Next: biomass data check {out}")
    if errors_of(problems):
        raise typer.Exit(1)


def data_show(
    directory: Directory,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("contact-sheet.png"),
    images: Annotated[int, typer.Option(min=1, help="Photographs on it.")] = 24,
) -> None:
    """Write a contact sheet.

    Example:
    $ biomass data show pasture/ --out sheet.png
    """
    out_file(out, ".png")
    from biomass_models.pasture.make import contact_sheet

    contact_sheet(directory, out, images=images)
    print_line(f"Wrote {out}")


def submission_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Submission file.")],
    data: DataOption,
    as_json: Json = False,
) -> None:
    """Validate a submission; exit code 1 when the scorer would refuse it.

    Warnings (rows in another order, masses that do not add up) leave it valid.

    Example:
    $ biomass submission check submission.csv --data csiro-biomass/
    """
    from biomass_models.data.problems import errors_of, grouped
    from ensembles.submission import check_submission

    problems = check_submission(file, data)
    valid = not errors_of(problems)
    if as_json:
        print_json({"file": file, "valid": valid, "problems": problems})
    else:
        for problem in grouped(problems):
            print_line(str(problem))
        if valid:
            print_line(f"{file} is valid")
    if not valid:
        raise typer.Exit(1)


def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Predictions: sample_id,target, or a table of masses.")],
    truth: Annotated[Path, typer.Option(help="Measured masses: sample_id,target, a table, or a data directory.")],
    as_json: Json = False,
) -> None:
    """The competition's weighted R2 of predictions.

    What is blank in the truth was not measured, and counts nowhere.

    Examples:
    $ biomass score submission.csv --truth pasture-truth.csv
    $ biomass score predictions.csv --truth later-cuts/
    """
    import numpy as np

    from biomass_models.data.cell_weights import cell_weights
    from biomass_models.targets import TARGETS, weighted_r2_score
    from ensembles.measured import counted_text
    from ensembles.submission import masses_at

    measured, predicted = masses_at(truth), masses_at(file)
    absent = measured.index.difference(predicted.index)
    if len(absent):
        raise UserError(f"every image of {truth} needs a prediction, {file} lacks {len(absent)}, such as {absent[0]}")
    predicted = predicted.loc[measured.index, list(TARGETS)]
    if blank := [name for name in TARGETS if predicted[name].isna().all() and measured[name].notna().any()]:
        print_remark(f"{file} predicts no {', '.join(blank)}: what was measured of it does not count")
        measured[blank] = np.nan
    weight = cell_weights(measured)
    value = weighted_r2_score(measured[list(TARGETS)], predicted, weight)
    counted = counted_text(weight)
    if as_json:
        content = {"file": file, "truth": truth, "images": len(measured), "score": value}
        print_json(content | ({} if weight.ndim == 1 else {"counted": counted}))
    else:
        print_line(f"{value:.6f}{'' if weight.ndim == 1 else f' {counted}'}")
