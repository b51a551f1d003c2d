"""Masses of photographs as a DataFrame: what `biomass predict` writes, with all digits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from biomass_models.errors import UserError
from orchestration.python.shown import address_of, say
from orchestration.python.typed import OptionError, typed_options
from orchestration.python.work import at_work
from orchestration.search.presets.asked import require_data, usable_resources, weights_source
from orchestration.workers.resources import Resources

Photographs = str | PathLike[str] | Sequence[str | PathLike[str]] | pd.DataFrame


def predict(
    blend: str | PathLike[str],
    photographs: Photographs,
    *,
    out: str | PathLike[str] | None = None,
    ensemble: str | None = None,
    unit: str | None = None,
    area: float | None = None,
    level: float | Sequence[float] = (0.8, 0.9),
    joint: bool = False,
    by: str | Sequence[str] = (),
    date: str | None = None,
    data: str | PathLike[str] | None = None,
    weights: str | None = None,
    cache: str | PathLike[str] | None = None,
    cache_gb: float | None = None,
    threads: int = 1,
    scale_out: bool = False,
    address: str | None = None,
) -> pd.DataFrame:
    """Masses of any photographs with intervals, a row a photograph (`biomass predict`).

    blend: a study or a bundle; photographs: folders, patterns, lists, tables, or a DataFrame with a column of paths.
    by: columns that name groups; the rows are then groups with their mean masses. out: a .csv or .parquet that is
    written as well; then what is finished is kept when the work is stopped. The other options are those of the command.
    Raises UserError (LedgerError, BundleError and others).
    """
    from orchestration.answers.asked import made_with_as_asked, opened_as_asked, work_as_asked
    from orchestration.answers.lock import output_lock
    from orchestration.answers.opened import BlendPlace
    from orchestration.answers.photographs import read_photographs, require_not_read
    from orchestration.answers.predict import Answer, answer, write_answer
    from orchestration.answers.table import FORMATS, TableOptions, output_paths

    if out is not None and Path(out).suffix.lower() not in FORMATS:
        raise UserError(f"out is a table {' or '.join(FORMATS)}, got {out}; name it {Path(out).with_suffix('.csv')}")
    options = TableOptions(
        levels=_levels(level),
        joint=joint,
        by=(by,) if isinstance(by, str) else tuple(by),
        date=date,
    )
    typed = [] if isinstance(photographs, pd.DataFrame) else _texts(photographs)
    given = _given(photographs) if isinstance(photographs, pd.DataFrame) else read_photographs(typed)
    if out is not None:
        require_not_read(output_paths(Path(out).expanduser(), options), typed, given, "out")
    resources = _resources(cache=cache, cache_gb=cache_gb, address=address, scale_out=scale_out)
    place = BlendPlace(address_of(blend), ensemble, None if weights is None else weights_source(weights))
    data_dir = None if data is None else require_data(Path(data).expanduser())

    def answered() -> Answer:
        usable = usable_resources(resources, say)
        opened, converted = opened_as_asked(
            place, given, unit=unit, area=area, data_dir=data_dir, resources=usable, say=say
        )
        work = work_as_asked(opened, usable, threads=threads, say=say)
        made_with = made_with_as_asked(usable, threads=threads)
        with TemporaryDirectory() as folder:
            target = Path(folder, "masses.csv") if out is None else Path(out).expanduser()
            with output_lock(output_paths(target, options), say):
                found = answer(opened, given, target, converted, options, work=work, made_with=made_with, say=say)
                if out is not None:
                    write_answer(opened, found, target)
        return found

    found = at_work(say, answered)
    for note in found.notes:
        say(f"note: {note}")
    return found.photographs if found.means is None else found.means


def _given(table: pd.DataFrame) -> pd.DataFrame:
    from orchestration.answers.photographs import of_table

    return of_table(table.reset_index(drop=True), Path(), "the DataFrame")


def _levels(level: object) -> tuple[float, ...]:
    """A number of Python's or numpy's, or several. Raises OptionError."""
    several = isinstance(level, Iterable) and not isinstance(level, str) and getattr(level, "ndim", 1) > 0
    values: list[Any] = list(level) if several else [level]  # type: ignore[call-overload]
    if not values or not all(isinstance(one, Real) and not isinstance(one, bool) for one in values):
        raise OptionError(f"level is a number such as 0.8, or a list of such, got {level!r}")
    # 0.8 of 32 bits is 0.8, not the number above it that it is kept as
    return tuple(dict.fromkeys(float(str(one) if isinstance(one, np.floating) else one) for one in values))


def _texts(photographs: str | PathLike[str] | Sequence[str | PathLike[str]]) -> list[str]:
    one = isinstance(photographs, str | PathLike)
    return [str(each) for each in ([photographs] if one else photographs)]  # type: ignore[union-attr]


def _resources(*, scale_out: bool, **where: object) -> Resources:
    from orchestration.workers.address import is_cluster

    typed = typed_options(where)
    return Resources(**typed, inline=not scale_out and not is_cluster(typed.get("address")))
