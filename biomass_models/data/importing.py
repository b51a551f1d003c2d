"""A table of any spreadsheet to quadrats.csv and dataset.toml: what its columns hold is read from their names.

A column's name is split into words; `dry green (kg/ha)` says what it holds (green) and its unit (kg/ha).
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree
from zipfile import BadZipFile

import pandas as pd

from biomass_models.config_rules import did_you_mean, known_name
from biomass_models.counted import counted
from biomass_models.data.dataset import (
    AREA_RANGE,
    DATASET_FILE,
    MASSES,
    PHOTO,
    QUADRATS_FILE,
    ROLES,
    UNITS,
    Dataset,
    dataset_toml,
    is_area,
)
from biomass_models.data.problems import shown
from biomass_models.errors import UserError
from biomass_models.fold_units import QUADRAT
from biomass_models.whole_files import whole_folder, write_whole

PHOTOGRAPH_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif")
SHEETS = (".xlsx", ".xlsm")
_ROLE_WORDS: dict[str, tuple[str, ...]] = {  # words that say what a column holds, the surest first
    PHOTO: ("photo", "photograph", "image", "picture", "file", "filename", "path", "img", "jpg"),
    "gdm": ("gdm",),
    "total": ("total", "biomass", "yield", "herbage"),
    "green": ("green",),
    "dead": ("dead", "litter", "senescent", "straw"),
    "clover": ("clover", "legume", "legumes"),
    "date": ("date", "day", "sampled", "sampling"),
    "species": ("species", "composition"),
    "ndvi": ("ndvi",),
    "height": ("height",),
    QUADRAT: ("quadrat", "quadrats"),  # after what is measured `per quadrat`, before the places that it lies in
    "site": ("site", "paddock", "state", "field", "farm", "location", "place", "plot"),
}
_UNITS: dict[str, str] = {  # how a unit is written behind a name, without spaces and brackets
    "kg/ha": r"kg(?:dm)?[_/ ]?(?:per[_ ]?)?ha(?:-1)?",
    "g/m2": r"g(?:dm)?[_/ ]?(?:per[_ ]?)?m(?:2|²|\^2)",
    "g": r"g(?:ram|rams)?",
}
_NOT_MEASURED = r"(?i)n/?a|nan|-+|\\.|none|null|missing|not measured"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was understood of a table."""

    dataset: Dataset
    table: pd.DataFrame  # text, under its own names; photographs as paths below the folder of photographs
    notes: tuple[str, ...]  # what was assumed or changed


def read_any_table(path: Path, notes: list[str] | None = None) -> pd.DataFrame:
    """A CSV, TSV or XLSX as stripped text; notes: gets what was assumed. Raises UserError."""
    if path.is_dir():
        raise UserError(f"a table is a CSV, TSV or XLSX file, got the folder {path}; name the table of its photographs")
    if not path.is_file():
        near = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"a table is a CSV, TSV or XLSX file, there is no {path}{did_you_mean(path.name, near)}")
    if path.suffix.lower() in (".xls", ".xlsb", ".ods"):
        raise UserError(f"a table is a CSV, TSV or XLSX file, got {path.name}; save it as .xlsx or CSV")
    is_sheet = path.suffix.lower() in SHEETS
    lines = _sheet_lines(path, [] if notes is None else notes) if is_sheet else _text_lines(path)
    rows = [[cell.strip() for cell in row] for row in lines if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        raise UserError(f"a table has a header and rows, {path.name} has {counted(len(rows), 'line')}; export it again")
    header, width = rows[0], len(rows[0])
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UserError(f"a column appears once, {shown(twice[0])} is there twice; rename one")
    for at, row in enumerate(rows[1:], start=2):
        if len(row) != width:
            raise UserError(
                f"row {at} of {path.name} must have {counted(width, 'cell')} as the header, got {len(row)}; mend it"
            )
    table = pd.DataFrame(rows[1:], columns=pd.Index(header), dtype="str")
    return table[[name for name in header if name]]


def _text_lines(path: Path) -> list[list[str]]:
    """Cells of a text that is separated by commas, semicolons or tabs, whichever its header has most of."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise UserError(f"a table is text in UTF-8, {path.name} is not ({reason}); save it as CSV (UTF-8)") from reason
    first = text.lstrip().split("\n", 1)[0]
    mark = max("\t;,", key=first.count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True))
    except csv.Error as reason:
        raise UserError(f"a table is well-formed CSV, got {reason} in {path.name}; mend the quotes") from reason


def _sheet_lines(path: Path, notes: list[str]) -> list[list[str]]:
    """Cells of a workbook's first sheet as text, dates with the year first; formulas as they were last computed."""
    try:
        import openpyxl
    except ImportError:
        raise UserError(f"reading {path.name} needs openpyxl; pip install openpyxl, or save it as CSV") from None
    try:
        values, formulas = (openpyxl.load_workbook(path, data_only=computed) for computed in (True, False))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, ElementTree.ParseError) as reason:
        raise UserError(f"{path.name} is no workbook ({reason}); save it again as .xlsx, or as CSV") from reason
    sheet, written = values.worksheets[0], formulas.worksheets[0]
    lines = []
    for cells, sources in zip(sheet.iter_rows(), written.iter_rows(), strict=True):
        for cell, source in zip(cells, sources, strict=True):
            if cell.value is None and source.data_type == "f":
                raise UserError(
                    f"{path.name} has not computed {sheet.title}!{cell.coordinate}, {shown(source.value)}; "
                    "open and save it in a spreadsheet program, or save it as CSV"
                )
        lines.append([_sheet_text(cell.value) for cell in cells])
    if len(values.worksheets) > 1:
        notes.append(f"the first sheet is read, {shown(sheet.title)}, of {len(values.worksheets)}")
    used = max((at + 1 for line in lines for at, text in enumerate(line) if text.strip()), default=0)
    return [line[:used] for line in lines]


def _sheet_text(value: object) -> str:
    """A cell as a CSV would have it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ").removesuffix(" 00:00:00")
    if isinstance(value, float):
        return f"{value:.15g}"  # what a spreadsheet shows of 0.1 + 0.2
    return str(value)


def propose_columns(header: Sequence[str], known: Container[str] = ()) -> dict[str, str]:
    """Column by what it holds, from the names alone; roles that are known, and what no name says, are left out."""
    found: dict[str, str] = {}
    for role, words in _ROLE_WORDS.items():
        candidates = [
            (words.index(word), place, name)
            for place, name in enumerate(header)
            for word in _words(name)
            if word in words and name not in found.values()
        ]
        if candidates and role not in known:
            found[role] = min(candidates)[2]
    return {role: found[role] for role in ROLES if role in found}


def _words(name: str) -> list[str]:
    """Words of a column's name, in lower case: dryGreen_kg -> dry, green, kg."""
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())


def unit_in(name: str) -> str | None:
    """The unit that a column's name ends in: total_g, dead (kg/ha)."""
    bare = re.sub(r"[()\[\]]", " ", name.lower()).strip()
    for unit, pattern in _UNITS.items():
        if re.search(rf"(?:^|[\s_.,-]){pattern}$", bare):
            return unit
    return None


def import_table(
    path: Path,
    photographs: Path,
    *,
    given: Mapping[str, str],
    unit: str | None,
    area: str | None,
    groups: Sequence[str] = (),
) -> Imported:
    """Understand a table. given: columns by role, which win over names; groups: columns that folds keep whole.

    Raises UserError for what cannot be read.

    photographs: the folder in which the table's photographs are looked for by path, by name, or by name without suffix.
    """
    notes: list[str] = []
    table = read_any_table(path, notes)
    header = [str(name) for name in table.columns]
    for role, name in [*given.items(), *(("group", name) for name in groups)]:
        if name not in header:
            hint = did_you_mean(name, header)
            raise UserError(f"--{role} names a column, got {name!r}; the table has {', '.join(header)}{hint}")
    free = [name for name in header if name not in given.values()]
    named = {**propose_columns(free, known=given), **given}
    columns = {role: named[role] for role in ROLES if role in named}
    if PHOTO not in columns:
        raise UserError(f"a table names its photographs, no column of {', '.join(header)} does; give --photo COLUMN")
    masses = [columns[role] for role in MASSES if role in columns]
    if not masses:
        raise UserError(f"a table has masses, none of {', '.join(header)} is one; give --total COLUMN, or others")
    unit = _unit(unit, masses, notes)
    table[masses] = table[masses].apply(_tidy_numbers, notes=notes)
    if QUADRAT not in given and QUADRAT in columns and not _names_quadrats(table[columns[QUADRAT]], table[masses]):
        name = columns.pop(QUADRAT)
        if table[name].duplicated().any():
            notes.append(
                f"{name}: not read as quadrats, since it has blanks, or rows that share it differ in masses; --quadrat "
                f"takes it as it is"
            )
    if "date" in columns:
        table[columns["date"]] = _tidy_dates(table[columns["date"]], notes)
    table[columns[PHOTO]] = _find_photographs(table[columns[PHOTO]], photographs)
    dataset = Dataset(columns=columns, unit=unit, area=_area(area, unit, header, columns), groups=tuple(groups) or None)
    return Imported(dataset=dataset, table=table, notes=tuple(notes))


def _names_quadrats(name: pd.Series, masses: pd.DataFrame) -> bool:
    """Whether a column says which photographs show one quadrat: some share a name, and then their masses. A number of
    the quadrat within its plot does not."""
    return bool(name.duplicated().any() and (masses.groupby(name).nunique() <= 1).all(axis=None) and (name != "").all())


def write_import(imported: Imported, photographs: Path, out: Path) -> None:
    """quadrats.csv, dataset.toml and a copy of the photographs in a new folder `out`.

    Photographs that lie in `out` already stay where they are. Raises UserError for a folder that holds other files.
    """
    photo = imported.dataset.columns[PHOTO]
    inside = photographs.resolve().is_relative_to(out.resolve())
    prefix = photographs.resolve().relative_to(out.resolve()).as_posix() if inside else "photos"
    table = imported.table.assign(**{photo: [f"{prefix}/{name}".removeprefix("./") for name in imported.table[photo]]})
    texts = {QUADRATS_FILE: table.to_csv(index=False), DATASET_FILE: dataset_toml(imported.dataset)}
    if inside:
        if there := [name for name in (*texts, "train.csv") if (out / name).exists()]:
            raise UserError(f"{out} has a table already, {there[0]}; move it away, or name another --out")
        for name, text in texts.items():
            write_whole(out / name, text.encode())
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out is a new folder, {out} holds files; name another, or remove it")
    with whole_folder(out.resolve()) as part:
        for name in imported.table[photo]:
            target = part / "photos" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photographs / name, target)
        for name, text in texts.items():
            (part / name).write_text(text, encoding="utf-8")


def _unit(given: str | None, masses: Sequence[str], notes: list[str]) -> str:
    if given is not None:
        return known_name("a unit of masses", given, UNITS)
    written = sorted({unit for name in masses if (unit := unit_in(name))})
    if len(written) > 1:
        raise UserError(f"masses are in one unit, the columns say {', '.join(written)}; convert some, or give --unit")
    if not written:
        notes.append("no column says a unit: masses are read as grams per quadrat; if not, give --unit")
    return written[0] if written else "g"


def _area(given: str | None, unit: str, header: Sequence[str], columns: Mapping[str, str]) -> float | str | None:
    if given is None:
        found = [name for name in header if name not in columns.values() and "area" in _words(name)]
        if found or unit == "g":
            return found[0] if found else None
        raise UserError(f"masses in {unit} need the area of a quadrat; give --area 0.25 (m2), or --area COLUMN")
    try:
        number = float(given)
    except ValueError:
        if given in header:
            return given
        hint = did_you_mean(given, header)
        raise UserError(f"--area is m2 or a column of the table, got {given!r}{hint}") from None
    if not is_area(number):
        raise UserError(f"--area is m2, {AREA_RANGE}, got {given}; 50 x 50 cm is 0.25")
    return number


def _tidy_numbers(cells: pd.Series, notes: list[str]) -> pd.Series:
    """Decimal commas as points, and words for `not measured` as blanks."""
    comma, word = cells.str.fullmatch(r"-?\d+,\d+"), cells.str.fullmatch(_NOT_MEASURED)
    if comma.any():
        notes.append(f"{cells.name}: {counted(int(comma.sum()), 'decimal comma')} read as a point")
    if word.any():
        first = cells[word].iloc[0]
        notes.append(f"{cells.name}: {counted(int(word.sum()), 'cell')} such as {first!r} read as not measured")
    return cells.where(~comma, cells.str.replace(",", ".", regex=False)).where(~word, "")


def _tidy_dates(cells: pd.Series, notes: list[str]) -> pd.Series:
    """Days like 31.5.2024, where all of them are written so, with the year first."""
    part = cells.str.extract(r"^(\d\d?)\.(\d\d?)\.((?:19|20)\d\d)$")
    if part.isna().any(axis=None):
        return cells
    notes.append(f"{cells.name}: dates like {cells.iloc[0]} are read as day.month.year")
    return part[2] + "-" + part[1].str.zfill(2) + "-" + part[0].str.zfill(2)


def _find_photographs(cells: pd.Series, folder: Path) -> list[str]:
    """Path below `folder` of each photograph of the table. Raises UserError that counts those without one."""
    if not folder.is_dir():
        raise UserError(f"--photos is the folder of the photographs, there is no folder {folder}")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in PHOTOGRAPH_SUFFIXES)
    by_name: dict[str, list[str]] = {}
    for path in files:
        for key in {path.as_posix(), path.name.lower(), path.stem.lower()}:
            by_name.setdefault(key, []).append(path.as_posix())
    found: list[str] = []
    absent: list[str] = []
    several: list[str] = []
    for at, cell in enumerate(cells, start=1):
        name = Path(cell.replace("\\", "/"))
        hits = next((by_name[key] for key in (name.as_posix(), name.name.lower()) if key in by_name), [])
        if len(hits) == 1:
            found.append(hits[0])
        else:
            (several if hits else absent).append(f"{shown(cell)} in row {at}")
    if absent:
        more = f"{len(absent)} of {len(cells)} photographs of the table are not in {folder}, such as {absent[0]}"
        raise UserError(f"{more}; it has {counted(len(files), 'photograph')}; mend --photos, the column or the names")
    if several:
        raise UserError(f"a name stands for one photograph, {several[0]} for several; write its folder as well")
    return found


def first_rows(read: pd.DataFrame, most: int = 3) -> list[str]:
    """The first rows of quadrats.inspect_quadrats as people read them: masses in grams per quadrat."""
    lines = []
    for row in read.head(most).to_dict("records"):
        known = [str(row[name]) for name in ("image_path", "State", "Species") if name in row]
        if "Sampling_Date" in row and not pd.isna(row["Sampling_Date"]):
            known.append(f"{row['Sampling_Date']:%Y-%m-%d}")
        masses = [(role, row[name]) for role, name in MASSES.items() if name in row]
        lines.append("; ".join([*known, *(f"{role} {mass:.4g} g" for role, mass in masses if not pd.isna(mass))]))
    return lines
