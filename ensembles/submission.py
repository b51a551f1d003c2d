"""The submission file: written in test.csv's order, and a validator that lists every problem at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.problems import DataError, Problem
from biomass_models.table import masses_to_long, read_masses, read_test_rows
from biomass_models.targets import TARGETS, identity_gap

LARGEST_GAP = 1e-2  # g by which an identity may be missed: rounding, no more


def submission_bytes(test_rows: pd.DataFrame, masses: pd.DataFrame) -> bytes:
    """CSV `sample_id,target` with one row for each row of test.csv, in its order.

    test_rows: sample_id in order; masses: image_id and TARGETS in grams. Raises ValueError for an image without masses.
    """
    target = masses_to_long(masses).set_index("sample_id")["target"]
    absent = pd.Index(test_rows["sample_id"]).difference(target.index)
    if len(absent):
        raise ValueError(f"every row of test.csv needs a mass, {len(absent)} have none, such as {absent[0]}")
    frame = pd.DataFrame({"sample_id": test_rows["sample_id"], "target": target.loc[test_rows["sample_id"]].to_numpy()})
    return str(frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")).encode()


def check_submission(path: Path, data_dir: Path) -> list[Problem]:
    """Everything that is wrong with a submission: complete, unique, finite, non-negative, in order, identities hold."""
    name = Path(path).name
    wanted = read_test_rows(data_dir)
    try:
        masses = read_masses(path)
    except DataError as error:
        return error.problems

    def problem(rule: str, got: str, remedy: str) -> Problem:
        return Problem(level="error", file=name, row=None, rule=rule, got=got, remedy=remedy)

    problems = []
    images = pd.Index(wanted["image_id"].unique())
    for images_of, rule, remedy in (
        (images.difference(masses.index), "every test image has its masses", "predict the missing images"),
        (masses.index.difference(images), "a submission holds test images only", "leave the others out"),
    ):
        if len(images_of):
            problems.append(problem(rule, f"{len(images_of)} images, such as {images_of[0]}", remedy))
    got = pd.read_csv(path, usecols=["sample_id"], dtype=str)["sample_id"].str.strip()
    if not problems and not np.array_equal(got.to_numpy(), wanted["sample_id"].to_numpy()):
        first = int(np.flatnonzero(got.to_numpy() != wanted["sample_id"].to_numpy())[0])
        problems.append(
            problem(
                "rows stand in the order of test.csv",
                f"{got.iloc[first]} in row {first + 2}, where test.csv has {wanted['sample_id'].iloc[first]}",
                "sort the rows as in test.csv",
            )
        )
    gap = identity_gap(masses[list(TARGETS)].to_numpy())
    if (off := gap > LARGEST_GAP).any():
        worst = masses.index[int(gap.argmax())]
        problems.append(
            problem(
                "GDM = Green + Clover and Total = GDM + Dead",
                f"{int(off.sum())} images off, {worst} by {gap.max():.3g} g",
                "project the masses onto the identities (biomass_models.targets.project_coherent)",
            )
        )
    return problems
