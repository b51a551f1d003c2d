"""Files of predictions: the submission in test.csv's order, with a validator that lists every problem at once; a table.

A submission has all five masses, in grams. Where some were never measured, or another unit is the user's, masses are
written as a table, one row a photograph, with blank columns. N images, T = 5 targets.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.counted import counted
from biomass_models.data.dataset import QUADRATS_FILE
from biomass_models.data.problems import (
    ROW,
    Level,
    Problem,
    errors_of,
    flag,
    raise_errors,
    read_cells,
    read_header,
    shown,
)
from biomass_models.data.table import masses_to_long, read_masses, read_test_rows, read_train, split_sample_id
from biomass_models.errors import UserError
from biomass_models.fold_units import QUADRAT
from biomass_models.targets import TARGETS, FloatArray, identity_gap, weight_T
from ensembles.measured import require_all_measured

COLUMNS = ("sample_id", "target")
LARGEST_GAP = 1e-3  # g by which an identity may be missed: rounding to six decimals, no more


def submission_bytes(test_rows: pd.DataFrame, masses: pd.DataFrame) -> bytes:
    """CSV `sample_id,target` with one row for each row of test.csv, in its order.

    test_rows: sample_id in order; masses: image_id (column or index) and TARGETS in grams. Raises UserError for masses
    of which some were never measured (all NaN), ValueError for an image without masses, or with masses that are
    negative, not finite or off the identities.
    """
    blank_T = masses[list(TARGETS)].isna().all(axis=0).to_numpy(dtype=bool)
    require_all_measured(np.where(blank_T, 0.0, weight_T))
    _require_sound(masses[list(TARGETS)].to_numpy(dtype=np.float64))
    target = masses_to_long(masses).set_index("sample_id")["target"]
    absent = pd.Index(test_rows["sample_id"]).difference(target.index)
    if len(absent):
        raise ValueError(f"every row of test.csv needs a mass, {len(absent)} have none, such as {absent[0]}")
    frame = pd.DataFrame({"sample_id": test_rows["sample_id"], "target": target.loc[test_rows["sample_id"]].to_numpy()})
    return str(frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")).encode()


def masses_bytes(masses: pd.DataFrame) -> bytes:
    """CSV `image_id,<five targets>` in the order of `masses`, then its further columns, `quadrat` before the masses; a
    target that was never measured (all NaN) is blank.

    Raises ValueError for the other masses as submission_bytes does.
    """
    mass_NT = masses[list(TARGETS)].to_numpy(dtype=np.float64)
    _require_sound(np.where(np.isnan(mass_NT).all(axis=0), 0.0, mass_NT), gaps=not np.isnan(mass_NT).any())
    frame = masses if "image_id" in masses.columns else masses.reset_index(names="image_id")
    leading = ["image_id", *([QUADRAT] if QUADRAT in frame else []), *TARGETS]
    frame = frame[[*leading, *(name for name in frame if name not in leading)]]
    return str(frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")).encode()


def _require_sound(mass_NT: FloatArray, *, gaps: bool = True) -> None:
    """gaps: whether all five are known, so that the identities must hold."""
    sound = np.isfinite(mass_NT).all() and (mass_NT >= 0).all()
    if not (sound and (not gaps or (identity_gap(mass_NT) <= LARGEST_GAP).all())):
        raise ValueError("masses must be finite, non-negative and hold the identities; use project_coherent")


def require_valid(content: bytes, name: str, data_dir: Path) -> None:
    """Raise UserError with the first problems of a submission that the validator refuses; before it has its name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        problems = check_submission(path, data_dir)
    if problems:
        raise UserError(f"{name} does not pass the validator, nothing was written: {'; '.join(map(str, problems[:5]))}")


def check_submission(path: Path, data_dir: Path) -> list[Problem]:
    """All that is wrong with a submission: columns, completeness, repeats, numbers; [] when nothing is.

    What the competition's scorer takes as it is, is a warning: rows in another order, negative masses, masses off the
    identities. Raises DataError when data_dir's own test.csv cannot be read.
    """
    path = Path(path)
    wanted = read_test_rows(data_dir)
    rows, problems = read_cells(path, COLUMNS)
    if errors_of(problems) and not set(COLUMNS) <= set(rows.columns):
        return _other_form(path) or problems
    problems = errors_of(problems) + _header(path)
    value = pd.to_numeric(rows["target"], errors="coerce").astype(np.float64)
    finite = np.isfinite(value)
    fill_in = "write the mass in grams"
    problems += flag(path.name, rows[~finite], "target", "a mass is a finite number", fill_in)
    low = rows[finite & (value < 0)]
    problems += flag(path.name, low, "target", "a mass is not negative", "set it to 0 or more", level="warning")
    known = rows["sample_id"].isin(wanted["sample_id"])
    rule = "a sample_id is one of test.csv's"
    problems += flag(path.name, rows[~known], "sample_id", rule, "remove the row")
    again = known & rows.duplicated("sample_id")
    problems += flag(path.name, rows[again], "sample_id", "a sample_id appears once", "remove one of the rows")
    problems += _missing(path, rows, wanted)
    if not errors_of(problems):
        problems += _order(path, rows, wanted)
    return problems + _identities(path, rows[known & ~again & finite], value)


def _header(path: Path) -> list[Problem]:
    header = path.read_bytes().decode("utf-8-sig").lstrip().splitlines()[0]
    if [cell.strip().strip('"') for cell in header.split(",")] == list(COLUMNS):
        return []
    return [_problem(path, "the columns are sample_id,target and no others", shown(header), "write just these", 1)]


def _other_form(path: Path) -> list[Problem]:
    """A table of masses in another form than a submission's, in one sentence."""
    header = read_header(path)
    rule, got = "a submission has the columns sample_id,target", f"the header {shown(','.join(header))}"
    lower = [name.lower() for name in header]
    if {name.lower() for name in TARGETS} <= set(lower):
        remedy = "a wide table: write a row for each image and target, <image id>__<target name>"
        return [_problem(path, rule, got, remedy, 1)]
    if len(header) == 2 and "sample_id" in lower:
        return [_problem(path, rule, got, f"rename {header[1 - lower.index('sample_id')]} to target", 1)]
    return []


def _missing(path: Path, rows: pd.DataFrame, wanted: pd.DataFrame) -> list[Problem]:
    absent = wanted[~wanted["sample_id"].isin(rows["sample_id"])]
    return [
        _problem(
            path,
            "each row of test.csv has its mass",
            f"image {image_id} without {', '.join(part['target_name'])}",
            "predict it and add the rows",
        )
        for image_id, part in absent.groupby("image_id", sort=False)
    ]


def _order(path: Path, rows: pd.DataFrame, wanted: pd.DataFrame) -> list[Problem]:
    differs = rows["sample_id"].to_numpy() != wanted["sample_id"].to_numpy()
    if not differs.any():
        return []
    first = int(differs.argmax())
    got = f"{rows['sample_id'].iloc[first]} where test.csv has {wanted['sample_id'].iloc[first]}"
    remedy = f"sort the rows as in test.csv ({int(differs.sum())} stand elsewhere)"
    row = int(rows[ROW].iloc[first])
    return [_problem(path, "rows stand in the order of test.csv", got, remedy, row, level="warning")]


def _identities(path: Path, rows: pd.DataFrame, value: pd.Series) -> list[Problem]:
    """Checked on the images that have all five masses."""
    halves = split_sample_id(rows["sample_id"])
    long = halves.assign(target=value.loc[rows.index], row=rows[ROW])
    wide = long.pivot(index="image_id", columns="target_name", values="target").reindex(columns=list(TARGETS)).dropna()
    gap = identity_gap(wide.to_numpy())
    first_row = long.groupby("image_id")["row"].min()
    return [
        _problem(
            path,
            "GDM = Green + Clover and Total = GDM + Dead",
            f"image {image_id} off by {off:.3g} g",
            "the scorer takes it; projecting the masses onto the identities never lowers a score",
            int(first_row[image_id]),
            level="warning",
        )
        for image_id, off in zip(wide.index, gap, strict=True)
        if off > LARGEST_GAP
    ]


def _problem(
    path: Path, rule: str, got: str, remedy: str, row: int | None = None, *, level: Level = "error"
) -> Problem:
    return Problem(level=level, file=path.name, row=row, rule=rule, got=got, remedy=remedy)


# -- photographs of one quadrat ---------------------------------------------------------------------------------------


def quadrat_means(mass_NT: FloatArray, quadrat_N: Sequence[str] | None) -> FloatArray:
    """Masses [N, 5] of photographs -> of their quadrats: each photograph has the mean of all of its quadrat.

    quadrat_N: name of each photograph's quadrat; None where each shows one of its own.
    """
    if quadrat_N is None:
        return mass_NT
    _, of_N, photographs_Q = np.unique(np.asarray(quadrat_N, dtype=str), return_inverse=True, return_counts=True)
    sum_QT = np.zeros((len(photographs_Q), mass_NT.shape[1]))
    np.add.at(sum_QT, of_N, mass_NT)
    mean_NT: FloatArray = (sum_QT / photographs_Q[:, None])[of_N]
    return mean_NT


def quadrats_note(quadrat_N: Sequence[str]) -> str:
    """What a reader of their masses should know."""
    photographs, quadrats = counted(len(quadrat_N), "photograph"), counted(len(set(quadrat_N)), "quadrat")
    return f"{photographs} of {quadrats}: each has the mean mass over the photographs of its quadrat"


# -- tables of masses -------------------------------------------------------------------------------------------------


def mass_table(
    image_ids: Sequence[str],
    mass_NT: FloatArray,
    *,
    unit: str = "g",
    per_gram: FloatArray | None = None,
    quadrat_N: Sequence[str] | None = None,
) -> bytes:
    """CSV: image_id, TARGETS in grams per quadrat, and the same in the user's unit (Dry_Total_kg_ha, ...) if another.

    mass_NT: grams, NaN throughout in a target that is not measured; per_gram: how much of the unit one gram is, [N, 1]
    or [1, 1], None where it cannot be said; quadrat_N: names that stand behind the ids, None where a photograph is a
    quadrat. Raises ValueError as masses_bytes.
    """
    table = pd.DataFrame(mass_NT, columns=list(TARGETS))
    table.insert(0, "image_id", list(image_ids))
    if quadrat_N is not None:
        table[QUADRAT] = list(quadrat_N)
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
