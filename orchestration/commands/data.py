"""Commands on data directories and submission files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands.options import DataOption, Directory, tell


def data_check(directory: Directory) -> None:
    """List every problem of a data directory at once. Example: biomass data check csiro-biomass/"""
    from biomass_models.check import check_directory
    from biomass_models.problems import errors_of
    from orchestration.progress import progress_bar

    with progress_bar("Checking images") as update:
        problems = check_directory(directory, on_progress=lambda done, total: update(done, total, ""))
    for problem in problems:
        tell(str(problem))
    errors = errors_of(problems)
    tell(f"{len(errors)} errors, {len(problems) - len(errors)} warnings in {directory}")
    if errors:
        raise typer.Exit(1)


def data_make(
    directory: Directory,
    images: Annotated[int, typer.Option(min=1, help="Training images.")] = 357,
    test_images: Annotated[int, typer.Option(min=0, help="Test images, of other dates.")] = 120,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    like: Annotated[Path | None, typer.Option(help="Draw one image for each row of this train.csv.")] = None,
) -> None:
    """Draw a pasture set with known masses. Example: biomass data make pasture/ --images 357"""
    from biomass_models.pasture import make_pasture
    from orchestration.progress import progress_bar

    with progress_bar("Drawing pasture") as update:
        summary = make_pasture(
            directory,
            images=images,
            test_images=test_images,
            seed=seed,
            like=like,
            on_progress=lambda done, total: update(done, total, ""),
        )
    tell(str(summary))


def data_show(
    directory: Directory,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("contact-sheet.png"),
    images: Annotated[int, typer.Option(min=1)] = 24,
) -> None:
    """Write a contact sheet. Example: biomass data show pasture/ --out sheet.png"""
    from biomass_models.pasture import contact_sheet

    contact_sheet(directory, out, images=images)
    tell(f"Wrote {out}")


def submission_check(file: Annotated[Path, typer.Argument(help="Submission file.")], data: DataOption) -> None:
    """Validate a submission. Example: biomass submission check submission.csv --data csiro-biomass/"""
    from ensembles.submission import check_submission

    problems = check_submission(file, data)
    for problem in problems:
        tell(str(problem))
    if problems:
        raise typer.Exit(1)
    tell(f"{file} is valid")


def score(
    file: Annotated[Path, typer.Argument(help="Predictions: a CSV sample_id,target.")],
    truth: Annotated[Path, typer.Option(help="Measured masses: a CSV sample_id,target.")],
) -> None:
    """The competition's weighted R2. Example: biomass score submission.csv --truth pasture-truth.csv"""
    from biomass_models.table import read_masses
    from biomass_models.targets import TARGETS, weighted_r2_score

    measured, predicted = read_masses(truth), read_masses(file)
    absent = measured.index.difference(predicted.index)
    if len(absent):
        raise ValueError(f"every image of {truth} needs a prediction, {file} lacks {len(absent)}, such as {absent[0]}")
    value = weighted_r2_score(measured[list(TARGETS)], predicted.loc[measured.index, list(TARGETS)])
    tell(f"{value:.6f}")
