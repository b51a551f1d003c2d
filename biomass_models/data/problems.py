"""What can be wrong with a user's files, said in one form; and a CSV reader that keeps line numbers.

Every check of the package returns a list of `Problem`, so that all of them can be shown at once.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from biomass_models.config_rules import did_you_mean, nearest
from biomass_models.counted import counted
from biomass_models.errors import UserError

Level = Literal["error", "warning"]
ROW = "row"  # column of a frame from read_cells: line in the file, 1-based, the header being line 1
_SHOWN = 50
_LONGEST = 80  # characters of a cell that are shown
_ALIKE = 3  # so many problems of one kind are shown as one
_FEW = 3  # so many required columns are listed in a remedy
_EACH = 2  # up to so many missing columns are reported one by one
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing wrong with one file: the rule it breaks, what was found, and what to do about it."""

    level: Level
    file: str
    row: int | None  # line in the file, 1-based, header = 1; None when it concerns the whole file
    rule: str
    got: str
    remedy: str

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file}:{self.row}"
        return f"{where}: {self.level}: {self.rule}; got {self.got}; {self.remedy}"


class DataError(UserError):
    """A data directory or table that must not be used; `problems` holds every reason, the text the first 50."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        found = grouped(self.problems)
        lines = [f"{counted(len(self.problems), 'problem')} in the data:"] if len(found) > 1 else []
        lines += map(str, found[:_SHOWN])
        if len(found) > _SHOWN:
            lines.append(f"and {len(found) - _SHOWN} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[DataError], tuple[list[Problem]]]:
        return type(self), (self.problems,)  # survives the way back from another process


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.level == "error"]


def raise_errors(problems: Iterable[Problem]) -> None:
    """Raise DataError with all problems of level error, if there are any."""
    if errors := errors_of(problems):
        raise DataError(errors)


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """The problems as they are shown: three or more of one kind become one that counts them and names the first."""
    kinds: dict[tuple[str, str, str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.level, problem.file, problem.rule, problem.remedy), []).append(problem)
    found: list[Problem] = []
    for alike in kinds.values():
        first = alike[0]
        if len(alike) < _ALIKE:
            found += alike
        elif first.row is None:
            found.append(replace(first, rule=f"{len(alike)} times: {first.rule}", got=f"first {first.got}"))
        else:
            rule, got = f"{len(alike)} rows: {first.rule}", f"{first.got}, first in line {first.row}"
            found.append(replace(first, row=None, rule=rule, got=got))
    return found


def shown(value: object) -> str:
    """A cell as it appears in a message: quoted, escaped, not too long."""
    text = repr(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def flag(
    file: str,
    frame: pd.DataFrame,
    got: str | pd.Series,
    rule: str,
    remedy: str,
    *,
    level: Level = "error",
) -> list[Problem]:
    """One problem for each row of `frame` (already filtered down to the offending rows, with a `row` column).

    got: the column whose cell is shown, or one ready text a row.
    """
    texts = frame[got].map(shown) if isinstance(got, str) else got
    return [
        Problem(level=level, file=file, row=int(row), rule=rule, got=str(text), remedy=remedy)
        for row, text in zip(frame[ROW], texts, strict=True)
    ]


def read_cells(path: Path, required: Sequence[str]) -> tuple[pd.DataFrame, list[Problem]]:
    """Read a CSV as stripped strings plus a `row` column with line numbers; never raises for what is in the file.

    Columns that are not required are left out. When a required column is missing the frame lacks it, and the
    problems say so; rows with a wrong number of cells are reported and left out, blank lines are skipped. A column
    whose name differs by upper and lower case only is read, with a warning.
    """
    path = Path(path)
    problems: list[Problem] = []

    def report(row: int | None, rule: str, got: str, remedy: str, level: Level = "error") -> None:
        problems.append(Problem(level=level, file=path.name, row=row, rule=rule, got=got, remedy=remedy))

    empty = pd.DataFrame({ROW: pd.Series(dtype="int64")})
    text, problem = _text_of(path)
    if problem is not None:
        return empty, [problem]

    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    rows: list[list[str]] = []
    line_numbers: list[int] = []
    start = 1  # a quoted cell may hold line breaks: a row is named by its first line
    try:
        for record in reader:
            cells = [cell.strip() for cell in record]
            if not any(cells):
                pass
            elif header is None:
                header = cells
            elif len(cells) != len(header):
                remedy = "mend the row; numbers have a decimal point" if len(cells) > len(header) else "mend the row"
                report(start, f"a row has as many cells as the header ({len(header)})", f"{len(cells)}", remedy)
            else:
                rows.append(cells)
                line_numbers.append(start)
            start = reader.line_num + 1
    except csv.Error as reason:
        report(start, "a table is well-formed CSV", f"{reason}", "mend the quotes; nothing after this line was read")

    if header is None:
        report(None, "a table has a header and rows", "an empty file", f"write the columns {','.join(required)}")
        return empty, problems
    if separator := other_separator(header):
        problems = []  # what a row of one cell gives
        remedy = "save it as CSV with commas, and with decimal points"
        report(1, "a table is separated by commas", f"{separator}: {shown(header[0])}", remedy)
        return empty, problems
    named = _matched_case(header, required)
    for got, name in named.items():
        report(1, f"a column is named {name}", shown(got), f"it is read as {name}; rename it", "warning")
    header = [named.get(name, name) for name in header]
    _report_columns(header, required, report)
    if not rows and not problems:
        report(None, "a table has at least one row", "only a header", "check that the file was copied whole")
    present = [name for name in required if name in header]
    frame = pd.DataFrame(rows, columns=range(len(header)), dtype="str")[[header.index(name) for name in present]]
    frame.columns = pd.Index(present)
    frame.insert(0, ROW, pd.Series(line_numbers, dtype="int64"))
    return frame, problems


def read_header(path: Path) -> list[str]:
    """Names of a CSV's columns, stripped; none where the file is missing or no text."""
    text, _ = _text_of(Path(path))
    line = text.lstrip().splitlines()[:1]
    return [cell.strip() for cell in next(csv.reader(line), [])]


def other_separator(header: Sequence[str]) -> str | None:
    """What separates the columns of a header that was split at commas, where it is not commas."""
    if len(header) > 2:  # a semicolon table may have a comma in a name
        return None
    return next((name for mark, name in _SEPARATORS.items() if any(mark in cell for cell in header)), None)


def near_files(path: Path) -> list[str]:
    """Names in the folder of a missing file that are written much like its own, nearest first."""
    try:
        names = [child.name for child in path.parent.iterdir() if child.is_file()]
    except OSError:
        return []
    return nearest(path.name, names, most=3)


def _text_of(path: Path) -> tuple[str, Problem | None]:
    def problem(rule: str, got: str, remedy: str) -> Problem:
        return Problem(level="error", file=path.name, row=None, rule=rule, got=got, remedy=remedy)

    if not path.is_file():
        near = [name for name in near_files(path) if name != "test.csv"]  # which is a file of its own
        got = (
            f"no such file in {path.parent}" if path.parent.is_dir() else f"no such file, nor the folder {path.parent}"
        )
        remedy = f"did you mean {near[0]}?" if near else "check the path"
        if path.is_dir():
            got, remedy = f"the folder {path}", "name a file in it"
        elif path.name == "train.csv" and not near:  # what is named where neither form of labels is there
            remedy = "check the path; `biomass data import TABLE` makes quadrats.csv of your own"
        return "", problem(f"a file {path.name} is needed", got, remedy)
    try:
        # utf-8-sig: spreadsheets write a byte order mark
        return path.read_bytes().decode("utf-8-sig"), None
    except (UnicodeDecodeError, OSError) as reason:
        remedy = "save it as CSV (UTF-8), comma separated"
        return "", problem("a table is a CSV file in UTF-8", f"{reason}", remedy)


def _matched_case(header: Sequence[str], required: Sequence[str]) -> dict[str, str]:
    """Required names by the one name in the header that differs from it by upper and lower case only."""
    found = {}
    for name in required:
        alike = [got for got in header if got.lower() == name.lower()]
        if name not in header and len(alike) == 1:
            found[alike[0]] = name
    return found


def _report_columns(
    header: Sequence[str], required: Sequence[str], report: Callable[[int, str, str, str], None]
) -> None:
    """Required columns that are missing or there twice; many missing ones are one problem."""
    missing, got = [name for name in required if name not in header], f"the header {shown(','.join(header))}"
    must = f"the columns must be {','.join(required)}, separated by commas" if len(required) <= _FEW else "add it"
    if len(missing) > _EACH:
        report(1, f"columns {', '.join(missing)} are required", got, "add them; names and commas as here")
    for name in missing if len(missing) <= _EACH else ():
        others = [column for column in header if column not in required]
        report(1, f"column {name} is required", got, f"{must}{did_you_mean(name, others)}")
    count_of = Counter(header)
    for name in required:
        if count_of[name] > 1:
            report(1, "a column appears once", f"{name} {count_of[name]} times", "remove all but one")
