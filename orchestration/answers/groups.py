"""Which photographs belong together: those of a quadrat, those of a date or site, and the groups of --by.

A blank cell of a user's table, and one that a table does not have, is a value that is not known: never a name.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import pandas as pd

from biomass_models.config_rules import did_you_mean
from biomass_models.counted import counted
from biomass_models.data.rules import days_of
from biomass_models.errors import UserError
from biomass_models.fold_units import QUADRAT, dates_of
from orchestration.answers.photographs import PATH, blank_cells

DAY = "day"  # a date where its cells are whole ones, else a day of some month
UNIT_COLUMNS = {"date": ("date", "sampling_date", DAY), "state": ("state", "site"), "group": ()}  # of a user's table
PLACES = ("paddock", "plot", "field", "farm")  # columns that a quadrat has one value of, beside those of units
_TIME = r"[ T]+\d{1,2}:\d{2}.*$"  # after a date
_WHOLE_DATE = r"\d{1,4}([-/.:])\d{1,2}\1\d{1,4}|(?:19|20)\d{6}|\d{1,2}[ -][A-Za-z]{3,9}[ -]\d{2,4}"


def require_groups(given: pd.DataFrame, by: Sequence[str], date: str | None) -> None:
    """Raise UserError for columns that are not there, and for a quadrat of several groups, dates, sites or paddocks."""
    require_columns(given, by, "--by")
    if date is not None:
        require_columns(given, [date], "--date")
        if not by:
            raise UserError(f"--date is the column of dates for means of groups, got {date} without --by; leave it out")
    quadrats = quadrat_names(given)
    if quadrats is None:
        return
    places = pd.Series(quadrats)
    dates = [*([] if date is None else [date]), *_named(given, UNIT_COLUMNS["date"])]
    others = _named(given, (*UNIT_COLUMNS["state"], *PLACES))
    for name in dict.fromkeys([*by, *dates, *others]):
        cells = known_cells(given[name])
        if name in by:
            value = cells.fillna("")  # blanks are a group; a date that is not known may be any
        else:
            value = days(cells) if name in dates else cells
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
    if name is None:
        return None
    cells = known_cells(given[name])
    return days(cells) if unit == "date" else cells


def days(cells: pd.Series) -> pd.Series:
    """known_cells of dates without the time of day, and one text for each day as training writes it."""
    text = cells.str.replace(_TIME, "", regex=True)
    day = days_of(text)
    return dates_of(pd.DataFrame({"Sampling_Date": day})).astype(object).where(day.notna(), text)


def known_cells(column: pd.Series) -> pd.Series:
    """As texts, NaN where a cell is blank."""
    blank = blank_cells(column)
    return column.astype(str).str.strip().astype(object).mask(blank)


def _unit_column(given: pd.DataFrame, unit: str) -> Hashable | None:
    for column in _named(given, UNIT_COLUMNS.get(unit, ())):
        if str(column).strip().lower() != DAY or _are_whole_dates(known_cells(given[column])):
            return column
    return None


def _are_whole_dates(cells: pd.Series) -> bool:
    return bool(days(cells).dropna().str.fullmatch(_WHOLE_DATE).all())


def _first_named(given: pd.DataFrame, names: Sequence[str]) -> Hashable | None:
    return next(iter(_named(given, names)), None)


def _named(given: pd.DataFrame, names: Sequence[str]) -> list[Hashable]:
    """Columns of a table that have one of these names, in whatever case; in the order of the names."""
    return [column for name in names for column in given if str(column).strip().lower() == name]


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
