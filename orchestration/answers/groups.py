"""Which photographs belong together: those of a quadrat, those of a date or site, and the groups of --by.

A blank cell of a user's table, and one that a table does not have, is a value that is not known: never a name.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import pandas as pd

from biomass_models.config_rules import did_you_mean
from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.fold_units import QUADRAT
from orchestration.answers.photographs import PATH, blank_cells

UNIT_COLUMNS = {"date": ("date", "sampling_date", "day"), "state": ("state", "site"), "group": ()}  # of a user's table


def require_groups(given: pd.DataFrame, by: Sequence[str], date: str | None) -> None:
    """Raise UserError for columns that are not there, and for a quadrat of several groups, dates or sites."""
    require_columns(given, by, "--by")
    if date is not None:
        require_columns(given, [date], "--date")
        if not by:
            raise UserError(f"--date is the column of dates for means of groups, got {date} without --by; leave it out")
    quadrats = quadrat_names(given)
    if quadrats is None:
        return
    places = pd.Series(quadrats)
    dates = [name for unit in UNIT_COLUMNS if (name := _unit_column(given, unit)) is not None]
    for name in dict.fromkeys([*by, *([] if date is None else [date]), *dates]):
        cells = known_cells(given[name])
        value = cells.fillna("") if name in by else cells  # blanks are a group; a date that is not known may be any
        several = value.groupby(places).transform("nunique") > 1
        if several.any():
            _refuse(given, name, value, places, several)


def require_columns(given: pd.DataFrame, names: Sequence[str], option: str) -> None:
    """Raise UserError for names that no table of photographs has."""
    there = [str(name) for name in given if name != PATH]
    for name in names:
        if name not in there:
            has = f"they are {', '.join(there)}" if there else "folders and lists have none: give a table"
            raise UserError(
                f"{option} names columns of a table of photographs, got {name!r}; {has}{did_you_mean(name, there)}"
            )


def quadrat_names(given: pd.DataFrame) -> list[str] | None:
    """A name for each photograph's quadrat, its own where the cell is blank; None where no column names any."""
    name = _first_named(given, (QUADRAT,))
    if name is None:
        return None
    cells = known_cells(given[name])
    return [f"{row}" if own else f"={cell}" for row, (cell, own) in enumerate(zip(cells, cells.isna(), strict=True))]


def units_of(given: pd.DataFrame, unit: str, named: str | None) -> pd.Series | None:
    """What the folds keep whole (date, state), of each photograph, NaN where it is not known; None without a column."""
    name = _unit_column(given, unit) if named is None else named
    return None if name is None else known_cells(given[name])


def known_cells(column: pd.Series) -> pd.Series:
    """As texts, NaN where a cell is blank."""
    blank = blank_cells(column)
    return column.astype(str).str.strip().astype(object).mask(blank)


def _unit_column(given: pd.DataFrame, unit: str) -> Hashable | None:
    return _first_named(given, UNIT_COLUMNS.get(unit, ()))


def _first_named(given: pd.DataFrame, names: Sequence[str]) -> Hashable | None:
    """The column with the first of these names that a table has, in whatever case."""
    lower = {str(column).strip().lower(): column for column in reversed(list(given))}
    return next((lower[name] for name in names if name in lower), None)


def _refuse(given: pd.DataFrame, name: Hashable, value: pd.Series, places: pd.Series, several: pd.Series) -> None:
    first = int(several.to_numpy().argmax())
    differing = value[places == places[first]].dropna().drop_duplicates().iloc[:2]
    shown = " and ".join(f"{cell or 'blank'} ({Path(given[PATH][row]).name})" for row, cell in differing.items())
    count = counted(int(places[several].nunique()), "quadrat")
    quadrat = given[_first_named(given, (QUADRAT,))][first]
    raise UserError(
        f"photographs of a quadrat are of one {name}, got {QUADRAT} {quadrat} with {shown}, {count} so; "
        f"give each quadrat a name of its own, such as {differing.iloc[-1] or 'a'}-{quadrat}"
    )
