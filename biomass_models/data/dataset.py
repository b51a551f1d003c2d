"""What quadrats.csv means: dataset.toml names its columns, the unit and the weights of its masses, and what folds keep
whole.

unit = "kg/ha"              # of the masses: g (per quadrat), g/m2 or kg/ha
area = 0.25                 # of a quadrat [m2], or the name of a column
groups = ["site", "date"]   # photographs that agree in all of these stay on one side of a fold
weights = {total = 1.0}     # of the masses in the score; without them the published ones
fit = "crop"                # what models see of photographs that are not 2 : 1 (frames.py)

[columns]                   # what a column holds = its name in quadrats.csv
photo = "photo"
total = "total_kg_ha"
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomass_models.config_rules import did_you_mean
from biomass_models.data.frames import FITS, Fit
from biomass_models.data.problems import Problem, near_files, shown
from biomass_models.fold_units import QUADRAT
from biomass_models.targets import TARGETS
from biomass_models.toml_files import TomlError, quoted, read_toml

QUADRATS_FILE, DATASET_FILE = "quadrats.csv", "dataset.toml"
GUIDE = "docs/data.md"  # the page of rules
PHOTO = "photo"
MASSES: dict[str, str] = dict(zip(("green", "dead", "clover", "gdm", "total"), TARGETS, strict=True))
METADATA_OF: dict[str, str] = {
    "date": "Sampling_Date",
    "site": "State",
    "species": "Species",
    "ndvi": "Pre_GSHH_NDVI",
    "height": "Height_Ave_cm",
}
ROLES = (PHOTO, QUADRAT, *MASSES, *METADATA_OF)
UNITS: dict[str, float] = {"g": 1.0, "g/m2": 1.0, "kg/ha": 0.1}  # g a quadrat, else g/m2
SMALLEST_AREA_M2, LARGEST_AREA_M2 = 1e-6, 100.0  # of a quadrat; far below the first, masses per m2 overflow
AREA_RANGE = f"{SMALLEST_AREA_M2:g} to {LARGEST_AREA_M2:g}"  # in messages
USUAL_FIT: Fit = "crop"  # of quadrats.csv
_KEYS = ("unit", "area", "groups", "weights", "fit", "columns")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A checked dataset.toml."""

    columns: Mapping[str, str]  # name in quadrats.csv by role; roles as in ROLES
    unit: str  # one of UNITS
    area: float | str | None  # m2, or the column that holds it; None: masses are grams per quadrat
    groups: tuple[str, ...] | None  # roles or columns; None: site and date, as far as they are there
    weights: Mapping[str, float] | None = None  # by role, above 0; None: the published ones
    fit: Fit = USUAL_FIT  # what views are cut from

    def of(self, roles: Mapping[str, str]) -> dict[str, str]:
        """Columns of quadrats.csv by the names that the models use, of the given roles that are mapped."""
        return {name: self.columns[role] for role, name in roles.items() if role in self.columns}


def inspect_dataset(data_dir: Path) -> tuple[Dataset | None, list[Problem]]:
    """dataset.toml and every problem of it; None where there is an error."""
    path = Path(data_dir) / DATASET_FILE
    if not path.is_file():
        near = [name for name in near_files(path) if name.endswith(".toml")]
        remedy = f"rename {near[0]}" if near else f"write it ({GUIDE}), or `biomass data import TABLE` writes both"
        rule = f"{QUADRATS_FILE} is read with {DATASET_FILE}, which names columns and unit"
        return None, [_problem(None, rule, "none", remedy)]
    try:
        file = read_toml(path, f'texts stand in quotes, as in unit = "g" ({GUIDE})')
    except TomlError as error:
        return None, [_problem(error.line, error.rule, error.got, error.remedy)]
    given = file.content
    problems = [
        _problem(file.exact_line(key) or file.exact_line("columns", key), rule, got, remedy)
        for check in (_keys, _columns, _unit, _area, _groups, _weights, _fit)
        for key, rule, got, remedy in check(given)
    ]
    if problems:
        return None, problems
    area, groups, weights = (given.get(key) for key in ("area", "groups", "weights"))
    return (
        Dataset(
            columns=dict(given["columns"]),
            unit=given["unit"],
            area=float(area) if isinstance(area, int) else area,
            groups=None if groups is None else tuple(groups),
            weights=None if weights is None else {role: float(number) for role, number in weights.items()},
            fit=given.get("fit", USUAL_FIT),
        ),
        [],
    )


def dataset_toml(dataset: Dataset) -> str:
    """The text of a dataset.toml."""
    lines = [f"unit = {quoted(dataset.unit)}  # of the masses: {', '.join(UNITS)}"]
    if dataset.area is not None:
        area = quoted(dataset.area) if isinstance(dataset.area, str) else f"{dataset.area!r}"
        lines.append(f"area = {area}  # of a quadrat, in m2: a number or a column")
    if dataset.groups is not None:
        lines.append(f"groups = [{', '.join(map(quoted, dataset.groups))}]  # kept on one side of a fold")
    if dataset.weights is not None:
        pairs = ", ".join(f"{role} = {number!r}" for role, number in dataset.weights.items())
        lines.append(f"weights = {{{pairs}}}  # of the masses in the score")
    lines.append(f"fit = {quoted(dataset.fit)}  # of photographs that are not 2 : 1: {', '.join(FITS)}")
    lines += ["", "[columns]", *(f"{role} = {quoted(name)}" for role, name in dataset.columns.items())]
    return "\n".join(lines) + "\n"


Fault = tuple[str, str, str, str]  # key, rule, what was got, remedy


def _keys(given: Mapping[str, Any]) -> Iterator[Fault]:
    for key in given:
        if key not in _KEYS:
            where = "it belongs below [columns]" if key in ROLES else f"remove it{did_you_mean(key, _KEYS)}"
            yield key, f"{DATASET_FILE} has the keys {', '.join(_KEYS)}", shown(key), where


def _columns(given: Mapping[str, Any]) -> Iterator[Fault]:
    columns = given.get("columns")
    if not isinstance(columns, Mapping):
        rule, got = f"[columns] names the columns of {QUADRATS_FILE}", "none" if columns is None else shown(columns)
        yield "columns", rule, got, 'add [columns] and lines like total = "dry_g"'
        return
    roles: dict[str, str] = {}  # by column
    for role, name in columns.items():
        if role not in ROLES:
            remedy = f"remove the line, the column is kept all the same{did_you_mean(role, ROLES)}"
            yield role, f"a column holds one of {', '.join(ROLES)}", shown(role), remedy
        elif not isinstance(name, str) or not name.strip():
            yield role, f"{role} is the name of a column", shown(name), f'write it like {role} = "name"'
        elif name in roles:
            yield role, "a column has one meaning", f"{shown(name)} for {roles[name]} and {role}", "remove one of them"
        else:
            roles[name] = role
    if PHOTO not in columns:
        yield "columns", "[columns] names the photographs", f"no {PHOTO}", f'add {PHOTO} = "name of the column"'
    if not set(MASSES) & set(columns):
        rule = f"[columns] names at least one of the masses {', '.join(MASSES)}"
        yield "columns", rule, "none", 'add a line like total = "name of the column"'


def _unit(given: Mapping[str, Any]) -> Iterator[Fault]:
    unit = given.get("unit")
    if unit not in UNITS:
        rule = f"unit is one of {', '.join(UNITS)}"
        got = "none" if unit is None else shown(unit)
        yield "unit", rule, got, 'write it like unit = "kg/ha"; g is grams per quadrat'


def is_area(square_metres: float) -> bool:
    """Whether a quadrat may be so large."""
    return SMALLEST_AREA_M2 <= square_metres <= LARGEST_AREA_M2


def _area(given: Mapping[str, Any]) -> Iterator[Fault]:
    area, unit = given.get("area"), given.get("unit")
    if area is None:
        if unit in UNITS and unit != "g":
            yield "unit", f"masses in {unit} need the area of a quadrat", "no area", "add area = 0.25 (m2), or a column"
        return
    if isinstance(area, str) and area.strip():
        return
    if isinstance(area, bool) or not isinstance(area, int | float) or not is_area(area):
        rule = f"area is m2, {AREA_RANGE}, or the name of a column"
        yield "area", rule, shown(area), "50 x 50 cm is area = 0.25"


def _groups(given: Mapping[str, Any]) -> Iterator[Fault]:
    groups = given.get("groups", [])
    if not isinstance(groups, list) or not all(isinstance(name, str) and name.strip() for name in groups):
        yield "groups", "groups is a list of columns", shown(groups), 'write it like groups = ["site", "date"]'
    elif len(set(groups)) < len(groups):
        yield "groups", "groups names a column once", shown(groups), "remove the repetition"


def _weights(given: Mapping[str, Any]) -> Iterator[Fault]:
    weights = given.get("weights", {"total": 1.0})
    if not isinstance(weights, Mapping) or not weights:
        yield "weights", "weights are numbers by mass", shown(weights), "write it like weights = {total = 1.0}"
        return
    for role, number in weights.items():
        if role not in MASSES:
            remedy = f"mend the name{did_you_mean(role, MASSES)}"
            yield "weights", f"weights are of {', '.join(MASSES)}", shown(role), remedy
        elif isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            yield "weights", "a weight is a number above 0", f"{role} = {shown(number)}", f"write it like {role} = 0.5"


def _fit(given: Mapping[str, Any]) -> Iterator[Fault]:
    fit = given.get("fit", USUAL_FIT)
    if fit not in FITS:
        yield "fit", f"fit is one of {', '.join(FITS)}", shown(fit), f'write it like fit = "{USUAL_FIT}"'


def _problem(row: int | None, rule: str, got: str, remedy: str) -> Problem:
    return Problem(level="error", file=DATASET_FILE, row=row, rule=rule, got=got, remedy=remedy)
