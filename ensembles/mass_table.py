"""Predicted masses as a table, one row a photograph: where the competition's submission is not the form to write.

N images, T = 5 targets. A target that the study does not measure has blank cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.data.dataset import QUADRATS_FILE
from biomass_models.data.problems import flag, raise_errors, read_cells, read_header
from biomass_models.data.table import read_masses, read_train
from biomass_models.targets import TARGETS, FloatArray
from ensembles.submission import COLUMNS, masses_bytes


def mass_table(
    image_ids: Sequence[str], mass_NT: FloatArray, *, unit: str = "g", per_gram: FloatArray | None = None
) -> bytes:
    """CSV: image_id, TARGETS in grams per quadrat, and the same in the user's unit (Dry_Total_kg_ha, ...) if another.

    mass_NT: grams, NaN throughout in a target that is not measured; per_gram: how much of the unit one gram is, [N, 1]
    or [1, 1], None where it cannot be said. Raises ValueError as masses_bytes.
    """
    table = pd.DataFrame(mass_NT, columns=list(TARGETS))
    table.insert(0, "image_id", list(image_ids))
    if unit != "g" and per_gram is not None:
        table[[unit_column(name, unit) for name in TARGETS]] = mass_NT * per_gram
    return masses_bytes(table)


def masses_at(path: Path) -> pd.DataFrame:
    """TARGETS in grams by image_id of a long CSV `sample_id,target`, a table of masses, or a data directory's labels.

    NaN where a mass is blank. Raises DataError with all that is wrong.
    """
    if path.is_dir() or path.name == QUADRATS_FILE:
        return read_train(path if path.is_dir() else path.parent).set_index("image_id")
    header = read_header(path)
    if not {"image_id", *TARGETS} <= set(header):
        return read_masses(path)
    text, problems = read_cells(path, ("image_id", *TARGETS))
    masses = text.set_index("image_id")[list(TARGETS)].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    for name in TARGETS:
        wrong = text[(text[name] != "") & ~np.isfinite(masses[name].to_numpy())]
        problems += flag(path.name, wrong, name, "a mass is a finite number, or blank", "write it in grams")
    again = text[text["image_id"].duplicated()]
    problems += flag(path.name, again, "image_id", "an image has one row", "remove one of the rows")
    raise_errors(problems)
    return masses


def is_submission(path: Path) -> bool:
    """Whether a file of predictions has the competition's form."""
    with path.open(encoding="utf-8-sig") as stream:
        return stream.readline().strip() == ",".join(COLUMNS)


def unit_column(target: str, unit: str) -> str:
    """Name of a target's column in a unit: Dry_Total_kg_ha."""
    return f"{target.removesuffix('_g')}_{unit.replace('/', '_')}"


def table_notes(measured: Sequence[str], unit: str, per_gram: FloatArray | None) -> list[str]:
    """What a reader of the table should know."""
    notes = []
    if absent := [name for name in TARGETS if name not in measured]:
        notes.append(f"not measured in the study, so left blank: {', '.join(absent)}")
    if per_gram is None:
        notes.append(f"areas of quadrats differ, so masses are grams per quadrat, without {unit}")
    return notes
