"""What can be wrong with a user's files, said in one form; and a CSV reader that keeps line numbers.

Every check of the package returns a list of `Problem`, so that all of them can be shown at once.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from biomass_models.config_rules import did_you_mean
from biomass_models.errors import UserError

ROW = "row"  # column of a frame from read_cells: line in the file, 1-based, the header being line 1
_SHOWN = 50
_LONGEST = 80  # characters of a cell that are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing wrong with one file: the rule it breaks, what was found, and what to do about it."""

    level: Literal["error", "warning"]
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
        lines = [f"{len(self.problems)} problem(s) in the data:", *map(str, self.problems[:_SHOWN])]
        if len(self.problems) > _SHOWN:
            lines.append(f"and {len(self.problems) - _SHOWN} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[DataError], tuple[list[Problem]]]:
        return type(self), (self.problems,)  # survives the way back from another process


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.level == "error"]


def raise_errors(problems: Iterable[Problem]) -> None:
    """Raise DataError with all problems of level error, if there are any."""
    if errors := errors_of(problems):
        raise DataError(errors)


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
    level: Literal["error", "warning"] = "error",
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
    problems say so; rows with a wrong number of cells are reported and left out, blank lines are skipped.
    """
    problems: list[Problem] = []

    def report(row: int | None, rule: str, got: str, remedy: str) -> None:
        problems.append(Problem(level="error", file=path.name, row=row, rule=rule, got=got, remedy=remedy))

    empty = pd.DataFrame({ROW: pd.Series(dtype="int64")})
    columns_text = ",".join(required)
    if not path.is_file():
        report(None, f"a file {path.name} is needed", f"no such file in {path.parent}", "check the directory's name")
        return empty, problems
    try:
        # utf-8-sig: spreadsheets write a byte order mark
        text = path.read_bytes().decode("utf-8-sig")
    except (UnicodeDecodeError, OSError) as reason:
        report(None, "a table is a CSV file in UTF-8", f"{reason}", "save it as CSV (UTF-8), comma separated")
        return empty, problems

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
                report(
                    start,
                    f"a row has as many cells as the header ({len(header)})",
                    f"{len(cells)}",
                    "mend the row",
                )
            else:
                rows.append(cells)
                line_numbers.append(start)
            start = reader.line_num + 1
    except csv.Error as reason:
        report(start, "a table is well-formed CSV", f"{reason}", "mend the quotes; nothing after this line was read")

    if header is None:
        report(None, "a table has a header and rows", "an empty file", f"write the columns {columns_text}")
        return empty, problems
    for name in required:
        if name not in header:
            others = [column for column in header if column not in required]
            remedy = f"the columns must be {columns_text}, separated by commas{did_you_mean(name, others)}"
            report(1, f"column {name} is required", f"the header {shown(','.join(header))}", remedy)
    count_of = Counter(header)
    for name in required:
        if count_of[name] > 1:
            report(1, "a column appears once", f"{name} {count_of[name]} times", "remove all but one")
    if not rows and not problems:
        report(None, "a table has at least one row", "only a header", "check that the file was copied whole")
    present = [name for name in required if name in header]
    frame = pd.DataFrame(rows, columns=range(len(header)), dtype="str")[[header.index(name) for name in present]]
    frame.columns = pd.Index(present)
    frame.insert(0, ROW, pd.Series(line_numbers, dtype="int64"))
    return frame, problems
