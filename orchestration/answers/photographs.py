"""Which photographs shall be predicted: folders, patterns, lists and tables, as typed on a command line."""

from __future__ import annotations

import csv
import glob
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from biomass_models.counted import counted
from biomass_models.data.importing import PHOTOGRAPH_SUFFIXES
from biomass_models.errors import UserError

PATH = "photograph"  # column of the result
_GIVEN = "_given"  # what a column of the user's is called that has a name of ours
LIST, TABLES = ".txt", (".csv", ".tsv", ".parquet")
PATH_COLUMNS = ("photograph", "photo", "path", "image_path", "file", "filename", "image")  # the first there is


def read_photographs(typed: Sequence[str]) -> pd.DataFrame:
    """One row a photograph in the order typed: PATH, and the columns of tables.

    A path of a list or a table is relative to its file. Files of folders and patterns come once, rows of tables as they
    stand. Whether a file is a photograph that can be read shows later. Raises UserError for a name of nothing.
    """
    parts, seen = [], set[str]()
    for text in typed:
        path = _below(Path(), text)
        if path.is_file() and path.suffix.lower() in TABLES:
            parts.append(_table(path))
            continue
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if _is_photograph(file, path))
            if not found:
                raise UserError(
                    f"a folder of photographs has files like {', '.join(PHOTOGRAPH_SUFFIXES[:3])}, {text} has none"
                )
        elif path.is_file():
            found = _listed(path) if path.suffix.lower() == LIST else [path]
        elif glob.has_magic(text):
            names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  Path.glob takes no absolute pattern
            found = [Path(name) for name in names if Path(name).is_file()]
            if not found:
                raise UserError(f"a pattern stands for photographs, {text} stands for no file; check it, in quotes")
        else:
            raise UserError(f"photographs are a folder, a pattern, a list (.txt) or a table, {text} is not there")
        fresh = [str(file) for file in dict.fromkeys(found) if str(file) not in seen]
        seen |= set(fresh)
        parts.append(pd.DataFrame({PATH: _paths(fresh)}))
    table = pd.concat([_with_whole_numbers(part) for part in parts], ignore_index=True)
    if table.empty:
        raise UserError("at least one photograph is needed, got none")
    return _of_one_kind(table)


def require_not_read(written: Iterable[Path], typed: Iterable[str], photographs: pd.DataFrame, option: str) -> None:
    """Raise UserError for a file to write that is read: a table or list as typed, a photograph."""
    for path in written:
        if (own := _file_id(path)) is None:
            continue
        for text in (*typed, *photographs[PATH]):
            if _file_id(_below(Path(), text)) == own:
                raise UserError(f"{option} does not replace what is read, {path} is one of the inputs; give another")


def _file_id(path: Path) -> tuple[int, int] | None:
    """The same by whatever name; None where there is no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _below(folder: Path, text: str) -> Path:
    """A path of a file in the folder, or one that needs none."""
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:  # ~name of nobody: a file of that name
        return folder / text


def _is_photograph(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in PHOTOGRAPH_SUFFIXES and not hidden and file.is_file()


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"a list has a path a line in UTF-8, {path} has not: {error}") from None
    found = [_below(path.parent, line.strip()) for line in lines if line.strip()]
    if not found:
        raise UserError(f"a list has a path a line, {path} has none")
    return found


def _table(path: Path) -> pd.DataFrame:
    """Texts of a CSV stay as they are written; empty cells are empty."""
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            _require_no_more_cells(path, separator)
            # index_col=False: pandas would take the first column for row names and shift the others
            table = pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
            )
    except UserError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"a table of photographs is CSV, TSV or parquet, {path} cannot be read: {error}") from None
    return of_table(table, path.parent, str(path))


def _require_no_more_cells(path: Path, separator: str) -> None:
    """Raise UserError for rows that are longer than the header: which cells belong together is not known."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=separator)
        header, line = None, 1  # a quoted cell may hold line breaks: a row is named by its first line
        for cells in reader:
            if header is None:
                header = cells or None  # blank lines are skipped
            elif len(cells) > len(header):
                raise UserError(
                    f"a row has no more cells than the header ({len(header)}), {path} has {len(cells)} in line {line}; "
                    "mend the row: a separator at its end, or within a cell without quotes"
                )
            line = reader.line_num + 1


def of_table(table: pd.DataFrame, folder: Path, name: str) -> pd.DataFrame:
    """PATH, and the columns of a table as they are. Paths are relative to the folder; name: of the table, for errors.

    Of several columns that may hold paths it is the first that names a file.
    """
    columns = [column for each in PATH_COLUMNS for column in table if str(column).strip().lower() == each]
    if not columns:
        raise UserError(
            f"a table of photographs has their paths in a column {', '.join(PATH_COLUMNS[:4])} or the like, {name} has "
            f"{', '.join(map(str, table.columns))}; rename one"
        )
    if (twice := table.columns[table.columns.duplicated()]).size:
        raise UserError(f"columns have names of their own, {name} has several {twice[0]}; rename one")
    column = columns[0]
    if len(columns) > 1:
        column = next((each for each in columns if any(path.is_file() for path in _files(table[each], folder))), column)
    blank = blank_cells(table[column])
    if blank.any():
        row = int(blank.to_numpy().argmax()) + 2
        raise UserError(
            f"each row of {name} names a photograph, {counted(int(blank.sum()), 'row')} has none, such as line {row}"
        )
    own = beside(table, (PATH,))
    own.insert(0, PATH, _paths(map(str, _files(table[column], folder))).set_axis(own.index))
    return _of_one_kind(own)


def _files(cells: pd.Series, folder: Path) -> Iterator[Path]:
    return (_below(folder, str(cell).strip()) for cell in cells)


def _with_whole_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Of kinds that have blanks: beside a table that lacks their column they would become fractions."""
    kinds = {name: dtype.name for name, dtype in table.dtypes.items() if isinstance(dtype, np.dtype)}
    whole = {name: kind.replace("u", "U").replace("i", "I") for name, kind in kinds.items() if "int" in kind}
    return table.astype(whole)


def _of_one_kind(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that no file of columns can hold as texts: numbers of one table beside texts of another, say."""
    table = table.copy()
    for name in table.columns.drop(PATH):
        if table[name].dtype == object and not _is_storable(table[name]):
            table[name] = table[name].map(_as_text, na_action="ignore")
    return table


def _is_storable(column: pd.Series) -> bool:
    try:
        pa.Array.from_pandas(column)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
        return False
    return True


def _as_text(cell: object) -> str:
    """A day as the texts beside it are likely to have it."""
    is_day = isinstance(cell, pd.Timestamp) and cell == cell.normalize()
    return f"{cell:%Y-%m-%d}" if is_day else as_utf8(str(cell))


def _paths(paths: Iterable[str]) -> pd.Series:
    """As they are: pandas' own texts hold no name that is not UTF-8."""
    return pd.Series(list(paths), dtype=object)


def blank_cells(column: pd.Series) -> pd.Series:
    """Cells that hold nothing: of a text, and of a table that lacks the column of another one."""
    blank: pd.Series = column.isna() | (column.astype(str).str.strip() == "")
    return blank


def beside(own: pd.DataFrame, ours: Collection[str]) -> pd.DataFrame:
    """A user's table, to stand beside columns of ours: one with a name of these gets `_given` until it is free."""
    taken, names = {*ours, *map(str, own)}, {}
    for name in own:
        if name in ours:
            free = f"{name}{_GIVEN}"
            while free in taken:
                free += _GIVEN
            taken.add(free)
            names[name] = free
    return own.rename(columns=names)


def as_utf8(text: str) -> str:
    r"""As a file of texts may hold it: bytes of a name that is not UTF-8 are escapes, such as \udce9."""
    return text.encode("utf-8", "backslashreplace").decode()
