"""Where the checks' files lie, and the pasture that is drawn for them. Torch-free."""

from __future__ import annotations

from pathlib import Path

from biomass_models.pasture.make import make_pasture

FOLDS = {False: 5, True: 3}  # by whether it is a rehearsal
SIZES = {False: (60, 320), True: (24, 160)}  # photographs, and their width in px


def draw(folder: Path, tiny: bool) -> None:
    """The pasture of all checks."""
    images, width = SIZES[tiny]
    make_pasture(data_of(folder), images=images, test_images=6, seed=0, width=width, height=width // 2)


def data_of(folder: Path) -> Path:
    return folder / "data"


def result_of(folder: Path, check: str) -> Path:
    """Where a check leaves its outcome."""
    return folder / "results" / f"{check}.json"
