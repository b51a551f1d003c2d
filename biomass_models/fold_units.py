"""What keeps photographs together, what errors are counted by, and what folds mean for every score that is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from biomass_models.counted import counted
from biomass_models.fold_rows import ALWAYS

if TYPE_CHECKING:
    import pandas as pd

QUADRAT = "quadrat"  # role, and column of the models' table: photographs that agree in it show one quadrat
LONE_UNITS = ("photograph", QUADRAT)  # unit_name where nothing says which of them belong together
KEPT_WHOLE = "kept_whole"  # column of the models' table: photographs that agree in it stay on one side of a fold


def dates_of(quadrats: pd.DataFrame) -> pd.Series:
    """The sampling date of each image as a text that sorts by time."""
    return quadrats["Sampling_Date"].dt.strftime("%Y-%m-%d")


def is_grouped(quadrats: pd.DataFrame) -> bool:
    """Whether anything says which quadrats belong together."""
    lone = quadrats["image_id" if QUADRAT not in quadrats else QUADRAT]
    return KEPT_WHOLE not in quadrats or not (quadrats[KEPT_WHOLE] == lone).all()


def units_of(quadrats: pd.DataFrame, scheme: str) -> pd.Series:
    """What errors are counted by, a text for each image: the state for `state`, else the group (date in a state).

    It is what the folds keep whole, and never finer than a date: photographs of one day share their errors, also where
    folds by image cut it.
    """
    by_state = scheme == "state" and "State" in quadrats
    return quadrats["State" if by_state else "group"].astype("str")


def unit_name(quadrats: pd.DataFrame, scheme: str) -> str:
    """What a unit is called."""
    if scheme == "state":
        return "state"
    if KEPT_WHOLE not in quadrats:
        return "date"
    if is_grouped(quadrats):
        return "group"
    photograph, quadrat = LONE_UNITS
    return photograph if QUADRAT not in quadrats else quadrat


def cut_groups(quadrats: pd.DataFrame) -> int:
    """Number of groups whose images lie in several folds."""
    return int((quadrats.groupby("group")["fold"].nunique() > 1).sum())


def cut_groups_notice(cut: int, unit: str = "date") -> str | None:
    """What folds that cut dates (or other groups) mean for every score; None where they do not."""
    if not cut:
        return None
    what, where, which = _cut_words(unit)
    return (
        f"the folds cut {counted(cut, what)}: models have seen other photographs of the {where} that they are scored "
        f"on, and score less on new {which}"
    )


def cut_intervals_notice(cut: int, unit: str = "date") -> str | None:
    """What such folds, and those of data without dates (LONE_UNITS), mean for intervals of new masses; else None."""
    what, where, which = _cut_words(unit)
    if unit in LONE_UNITS:
        why = "no date, site or group says which training photographs belong together: models may have seen"
    elif cut:
        why = f"the folds cut {counted(cut, what)}: models have seen"
    else:
        return None
    return f"{why} the {where} that intervals are made from, which hold less than their level on new {which}"


def _cut_words(unit: str) -> tuple[str, str, str]:
    return ("group", "groups", "ones") if unit == "group" else ("sampling date", "days", "days")


def ungrouped_notice(quadrats: pd.DataFrame) -> str | None:
    """What random folds mean for every score where nothing says which photographs belong together; else None."""
    if is_grouped(quadrats):
        return None
    return (
        "no date, site or group says which photographs belong together: folds are random, models may have seen the "
        "days and places that they are scored on, and score less on new ones"
    )


def unscored_notice(quadrats: pd.DataFrame, *, ordered: bool) -> str | None:
    """What is only trained on, and what predicts new photographs where folds are ordered; None where all are scored.

    quadrats: with folds, also of rows that are not scored.
    """
    always = quadrats[quadrats["fold"] == ALWAYS]
    if not ordered:
        if always.empty:
            return None
        return f"{counted(len(always), 'photograph is', 'photographs are')} only trained on (fold {ALWAYS}), not scored"
    return (
        f"blocks of time in order: each is predicted from those before it, and the first "
        f"({counted(len(always), 'photograph')} to {max(dates_of(always))}) is not scored; the models of the last "
        "block predict new photographs"
    )
