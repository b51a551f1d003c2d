"""quadrats.csv, one row a photograph, columns and units as dataset.toml names them, to the models' table.

N photographs; mass_NT [N, 5] in the order of TARGETS, NaN where a mass was not measured. A quadrat has one photograph,
or, where there is a column for it, several.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.config_rules import did_you_mean
from biomass_models.counted import counted
from biomass_models.data import rules
from biomass_models.data.cell_weights import WEIGHT_COLUMNS
from biomass_models.data.dataset import (
    AREA_RANGE,
    DATASET_FILE,
    GUIDE,
    MASSES,
    METADATA_OF,
    PHOTO,
    QUADRATS_FILE,
    UNITS,
    Dataset,
    inspect_dataset,
    is_area,
)
from biomass_models.data.problems import ROW, Problem, flag, read_cells, read_header, shown
from biomass_models.fold_units import KEPT_WHOLE, QUADRAT
from biomass_models.targets import CLOVER, DEAD, GDM, GREEN, TARGETS, TOTAL, FloatArray, weight_T

PUBLISHED_AREA_M2 = 0.21  # of the quadrats that the usual masses are of
SUMS = ((GREEN, CLOVER, GDM), (GDM, DEAD, TOTAL))  # part + part = whole
_OWN = (
    *("fold", "group", "unit", "image_id", "image_path", KEPT_WHOLE, QUADRAT, ROW),
    *(*METADATA_OF.values(), *TARGETS, *WEIGHT_COLUMNS),
)
_DEFAULT_GROUPS = ("site", "date")
_FILLED = ("date", "site", "species", QUADRAT)


def inspect_quadrats(data_dir: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """One row a photograph and every problem of quadrats.csv and dataset.toml.

    Columns: row, image_id, image_path, the metadata that there are, TARGETS in grams per quadrat (NaN where unknown),
    `quadrat` where photographs are of quadrats, `kept_whole` unless it is the date (in a site), WEIGHT_COLUMNS where
    these are not the published ones, and further columns under their own names. With errors it is as complete as could
    be.
    """
    path = Path(data_dir) / QUADRATS_FILE
    dataset, problems = inspect_dataset(data_dir)
    if dataset is None:
        return pd.DataFrame({ROW: pd.Series(dtype="int64")}), problems
    header = [name for name in dict.fromkeys(read_header(path)) if name]
    problems = list(_absent_columns(dataset, header))
    text, found = read_cells(path, header or [dataset.columns[PHOTO]])
    problems += found
    table = pd.DataFrame({ROW: text[ROW]})
    if dataset.columns[PHOTO] in text:
        table["image_path"] = text[dataset.columns[PHOTO]]
        table["image_id"] = image_ids(table["image_path"])
        problems += _check_photos(table)
    problems += _metadata(dataset, text, table)
    problems += _masses(dataset, text, table)
    problems += _groups(dataset, text, table)
    problems += _quadrats(table)
    problems += _weigh(dataset, table)
    _keep_others(dataset, text, table)
    return table, sorted(problems, key=lambda problem: (problem.row or 0, problem.level))


def image_ids(image_path: pd.Series) -> pd.Series:
    """A name for each photograph: its file's without suffix, with its folders where several files are called so."""
    stem = image_path.str.extract(r"([^/]*?)(?:\.[^./]*)?$")[0].fillna("")
    several = stem.str.lower().map(stem.str.lower().value_counts()) > 1
    name = stem.where(~several, image_path.str.replace("/", "-", regex=False))
    return name.str.replace(r'^[.\-]|[/\\:*?"<>|\x00-\x1f\x7f]', "_", regex=True).str[-200:]


def derive(mass_NT: FloatArray, least: float = -rules.IDENTITY_TOLERANCE_G) -> tuple[FloatArray, FloatArray]:
    """What green + clover = GDM and GDM + dead = total give of the cells that are NaN; and results that are refused.

    A result from `least` to 0 grams is rounding and counts as 0; one below is refused, and the cell stays NaN.
    """
    mass_NT = np.array(mass_NT, dtype=np.float64)
    refused_NT = np.full(mass_NT.shape, np.nan)
    for _ in SUMS:  # a mass of one sum may solve the other
        for part, other, whole in SUMS:
            for unknown, value_N in (
                (whole, mass_NT[:, part] + mass_NT[:, other]),
                (part, mass_NT[:, whole] - mass_NT[:, other]),
                (other, mass_NT[:, whole] - mass_NT[:, part]),
            ):
                solved_N = np.isnan(mass_NT[:, unknown]) & np.isfinite(value_N)
                below_N = solved_N & (value_N < least)
                refused_NT[below_N, unknown] = value_N[below_N]
                solved_N &= ~below_N
                mass_NT[solved_N, unknown] = np.maximum(value_N[solved_N], 0.0)
    return mass_NT, refused_NT


def _absent_columns(dataset: Dataset, header: list[str]) -> Iterator[Problem]:
    """Columns that dataset.toml names and quadrats.csv does not have."""
    named = dict(dataset.columns)
    if isinstance(dataset.area, str):
        named["area"] = dataset.area
    named |= {f"groups {name}": name for name in dataset.groups or () if name not in dataset.columns}
    for key, name in named.items():
        if header and name not in header:
            got, remedy = f'{key} = "{name}"', f"mend the name{did_you_mean(name, header)}"
            rule = f"{DATASET_FILE} names columns of {QUADRATS_FILE}"
            yield Problem(level="error", file=DATASET_FILE, row=None, rule=rule, got=got, remedy=remedy)


def _check_photos(table: pd.DataFrame) -> list[Problem]:
    problems = rules.check_paths(QUADRATS_FILE, table)
    again = table[table.duplicated("image_path") & (table["image_path"] != "")]
    first = table.drop_duplicates("image_path").set_index("image_path")[ROW]
    got = again["image_path"].map(shown) + " again, first in line " + again["image_path"].map(first).astype(str)
    return problems + flag(QUADRATS_FILE, again, got, "a photograph has one row", "remove one of the rows")


def _metadata(dataset: Dataset, text: pd.DataFrame, table: pd.DataFrame) -> list[Problem]:
    """Adds the metadata that there are, and which photographs show one quadrat, to `table`."""
    problems = []
    filled = {role: dataset.columns[role] for role in _FILLED if dataset.columns.get(role) in text}
    for role, column in filled.items():
        remedy = f"fill it in, or remove {role} from {DATASET_FILE}"
        problems += flag(QUADRATS_FILE, text[text[column] == ""], column, f"{column} has no blank cells", remedy)
    if QUADRAT in filled:
        table[QUADRAT] = text[filled[QUADRAT]]
    for role, name in METADATA_OF.items():
        column = dataset.columns.get(role, "")
        if column not in text:
            continue
        if role == "date":
            table[name] = rules.days_of(text[column])
            wrong = text[table[name].isna() & (text[column] != "")]
            rule, remedy = f"{column} is a day of the calendar, year first", "write it like 2015-09-04"
            problems += flag(QUADRATS_FILE, wrong, column, rule, remedy)
        elif role in _FILLED:
            table[name] = text[column]
        else:
            table[name] = pd.to_numeric(text[column], errors="coerce").astype(np.float64)
            known = text[text[column] != ""]
            low, high = (-1.0, 1.0) if role == "ndvi" else (0.0, np.inf)
            parsed = known.assign(**{column: table.loc[known.index, name]})
            problems += rules.check_number(QUADRATS_FILE, known, parsed, column, low=low, high=high)
    ids = {name: table[name] for name in ("image_id", "Species") if name in table}
    return problems + rules.warn_species(QUADRATS_FILE, pd.DataFrame({ROW: table[ROW], **ids}))


def _masses(dataset: Dataset, text: pd.DataFrame, table: pd.DataFrame) -> list[Problem]:
    """Adds the five masses in grams to `table`: measured, or derived."""
    columns = {name: column for name, column in dataset.of(MASSES).items() if column in text}
    problems: list[Problem] = []
    mass_NT = np.full((len(text), len(TARGETS)), np.nan)
    for name, column in columns.items():
        number = pd.to_numeric(text[column], errors="coerce").astype(np.float64)
        known = text[text[column] != ""]
        faults = rules.check_number(
            QUADRATS_FILE, known, known.assign(**{column: number[known.index]}), column, low=0.0
        )
        problems += faults
        mass_NT[:, TARGETS.index(name)] = number
    area_N, faults = _areas(dataset, text)
    problems += faults
    readable = not problems
    if dataset.unit != "g":
        mass_NT *= UNITS[dataset.unit] * area_N[:, None]
    tolerance = _tolerance(dataset, area_N)
    derived_NT, refused_NT = derive(mass_NT, -tolerance)
    table[list(TARGETS)] = derived_NT
    if not readable:
        return problems
    problems += _below_zero(table, refused_NT) + _off_identities(table, mass_NT, tolerance)
    problems += _not_measured(dataset, text, table)
    per_area = 1.0 if dataset.area is None else PUBLISHED_AREA_M2 / area_N[:, None]
    usual = pd.DataFrame(derived_NT * per_area, columns=list(TARGETS))
    unlike, remedy = rules.warn_unlike_grams(QUADRATS_FILE, usual), f"check unit and area in {DATASET_FILE}"
    return problems + [one if dataset.unit == "g" else replace(one, remedy=remedy) for one in unlike]


def _areas(dataset: Dataset, text: pd.DataFrame) -> tuple[FloatArray, list[Problem]]:
    """m2 of each quadrat, NaN where it is not known."""
    if not isinstance(dataset.area, str) or dataset.area not in text:
        known = dataset.area if isinstance(dataset.area, float) else np.nan
        return np.full(len(text), known, dtype=np.float64), []
    area_N = pd.to_numeric(text[dataset.area], errors="coerce").to_numpy(dtype=np.float64)
    wrong = text[[not is_area(area) for area in area_N]]
    rule = f"{dataset.area} is an area in m2, {AREA_RANGE}"
    return area_N, flag(QUADRATS_FILE, wrong, dataset.area, rule, "50 x 50 cm is 0.25")


def _tolerance(dataset: Dataset, area_N: FloatArray) -> float:
    """Grams by which sums of masses may differ: three whole numbers of the unit are each rounded by a half."""
    if dataset.unit == "g" or not np.isfinite(area_N).any():
        return rules.IDENTITY_TOLERANCE_G
    return max(rules.IDENTITY_TOLERANCE_G, 1.5 * UNITS[dataset.unit] * float(np.nanmax(area_N)))


def _below_zero(table: pd.DataFrame, refused_NT: FloatArray) -> list[Problem]:
    problems = []
    for target, name in enumerate(TARGETS):
        rule = f"{name} follows from the other masses and is at least 0"
        rows = table[np.isfinite(refused_NT[:, target])]
        got = pd.Series([f"{mass:.4g} g" for mass in refused_NT[rows.index, target]], index=rows.index)
        remedy = "check the masses of the row; it counts as not measured"
        problems += flag(QUADRATS_FILE, rows, got, rule, remedy, level="warning")
    return problems


def _off_identities(table: pd.DataFrame, mass_NT: FloatArray, tolerance: float) -> list[Problem]:
    """Sums of measured masses that do not hold."""
    problems = []
    for part, other, whole in SUMS:
        gap_N = np.abs(mass_NT[:, whole] - mass_NT[:, part] - mass_NT[:, other])
        rows = table[gap_N > tolerance]
        rule = f"{TARGETS[part]} + {TARGETS[other]} = {TARGETS[whole]} within {tolerance:.2g} g"
        got = pd.Series([f"off by {gap:.4g} g" for gap in gap_N[rows.index]], index=rows.index)
        remedy = "check the masses; they are used as they are"
        problems += flag(QUADRATS_FILE, rows, got, rule, remedy, level="warning")
    return problems


def _not_measured(dataset: Dataset, text: pd.DataFrame, table: pd.DataFrame) -> list[Problem]:
    """Columns and rows without any mass."""
    problems = []
    for role, column in dataset.columns.items():
        if role in MASSES and column in text and len(text) and (text[column] == "").all():
            rule, remedy = f"{column} holds masses", f"fill it in, or remove {role} from {DATASET_FILE}"
            got = f"blanks in all of {counted(len(text), 'row')}"
            problems.append(Problem(level="error", file=QUADRATS_FILE, row=None, rule=rule, got=got, remedy=remedy))
    rows = table[table[list(TARGETS)].isna().all(axis=1)]
    rule, remedy = "a row has one mass or more", f"add what was weighed, or leave the row out ({GUIDE})"
    return problems + flag(QUADRATS_FILE, rows, pd.Series("none", index=rows.index), rule, remedy)


def _groups(dataset: Dataset, text: pd.DataFrame, table: pd.DataFrame) -> list[Problem]:
    """Adds `kept_whole` where it is not site and date; a warning where nothing is kept whole."""
    names = dataset.groups
    if names is None:
        names = tuple(role for role in _DEFAULT_GROUPS if role in dataset.columns)
    if not names:
        lone = QUADRAT if QUADRAT in table else "image_id"
        if lone in table:
            table[KEPT_WHOLE] = table[lone]
        rule = "photographs of one day and place stay on one side of a fold"
        got = "no groups" if dataset.groups is not None else "neither date, site nor groups"
        remedy = f"folds are random, scores too good for new days and places: add a date ({GUIDE})"
        return [Problem(level="warning", file=DATASET_FILE, row=None, rule=rule, got=got, remedy=remedy)]
    mapped = [role for role in _DEFAULT_GROUPS if role in dataset.columns]
    if "date" in mapped and set(names) == set(mapped):  # what folds keep whole without being told
        return []
    columns = [dataset.columns.get(name, name) for name in names]
    if not set(columns) <= set(text.columns):
        return []
    filled = {dataset.columns[role] for role in _FILLED if role in dataset.columns}
    problems = []
    for column in columns:
        if column not in filled:
            remedy = f"fill it in, or remove {column} from groups"
            problems += flag(QUADRATS_FILE, text[text[column] == ""], column, f"{column} has no blank cells", remedy)
    parts = []
    for column in columns:
        of_date = column == dataset.columns.get("date")
        parts.append(table["Sampling_Date"].dt.strftime("%Y-%m-%d").fillna("") if of_date else text[column])
    table[KEPT_WHOLE] = pd.Series(["|".join(cells) for cells in zip(*parts, strict=True)], dtype="str")
    return problems


def _quadrats(table: pd.DataFrame) -> list[Problem]:
    """Photographs of one quadrat that differ in what was weighed, or in what folds keep whole."""
    if QUADRAT not in table:
        return []
    problems, firsts = [], table.drop_duplicates(QUADRAT).set_index(QUADRAT)
    kept = [name for name in ("Sampling_Date", "State", KEPT_WHOLE) if name in table]
    for columns, what in ((list(TARGETS), "masses"), (kept, "date, site and groups")):
        first = firsts[columns].loc[table[QUADRAT]].set_axis(table.index)
        differs = ((table[columns] != first) & ~(table[columns].isna() & first.isna())).any(axis=1)
        rows = table[differs & (table[QUADRAT] != "")]
        got = rows[QUADRAT].map(shown) + ", first in line " + rows[QUADRAT].map(firsts[ROW]).astype(str)
        remedy = f"mend the {what}, or give it another name; a name stands for one quadrat of the whole table"
        problems += flag(QUADRATS_FILE, rows, got, f"photographs of a quadrat have the same {what}", remedy)
    return problems


def _weigh(dataset: Dataset, table: pd.DataFrame) -> list[Problem]:
    """Adds WEIGHT_COLUMNS where the user gave weights, or quadrats have several photographs, which count as one."""
    measured_NT = table[list(TARGETS)].notna().to_numpy()
    given_T, problems = weight_T, []
    if dataset.weights is not None:
        measured = {role for role, name in MASSES.items() if table[name].notna().any()}
        for lacking, what, remedy in (
            (measured - set(dataset.weights), "was measured or follows and has no weight", "add its weight"),
            (set(dataset.weights) - measured, "has a weight and was not measured", "remove its weight"),
        ):
            for role in (role for role in MASSES if role in lacking):
                rule = "weights name the masses that were measured, or follow from others, and no others"
                got = f"{role}, which {what}"
                problems.append(Problem(level="error", file=DATASET_FILE, row=None, rule=rule, got=got, remedy=remedy))
        given_T = np.array([dataset.weights.get(role, 0.0) for role in MASSES])
        given_T = given_T / given_T.sum()
    photographs_N = table.groupby(QUADRAT)[ROW].transform("size").to_numpy() if QUADRAT in table else np.ones(1)
    if dataset.weights is not None or (photographs_N > 1).any():
        table[list(WEIGHT_COLUMNS)] = np.where(measured_NT, given_T / photographs_N[:, None], 0.0)
    return problems


def further_columns(table: pd.DataFrame) -> list[str]:
    """Columns of a models' table, or a study's, that a user's table had beside those that have a meaning."""
    return [str(name) for name in table if name not in _OWN]


def _keep_others(dataset: Dataset, text: pd.DataFrame, table: pd.DataFrame) -> None:
    """Adds what has no meaning to the models: numbers where all cells are, else text; own names end in `_`."""
    mapped = set(dataset.columns.values())
    for column in text.columns:
        if column == ROW or column in mapped:
            continue
        name = column
        while name in table or name in _OWN:
            name += "_"
        number = pd.to_numeric(text[column], errors="coerce").astype(np.float64)
        is_number = number.notna().any() and not (number.isna() & (text[column] != "")).any()
        table[name] = number if is_number else text[column]
