"""The Python face: what the commands do, as functions that return DataFrames and plain objects (docs/python.md).

    from orchestration.api import open_study, search

    study = search("runs/first", "csiro-biomass", trials=60)
    study.leaderboard()

Importing this loads neither torch nor Ray and changes nothing. Every function calls what its command calls, so that the
numbers are the same. Errors that the user can mend are UserError, by kind; an interrupt raises SearchStopped.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomass_models.data.problems import DataError
from biomass_models.errors import UserError
from orchestration.python.blend import Blend
from orchestration.python.masses import predict
from orchestration.python.shown import address_of, say
from orchestration.python.study import Study, open_study
from orchestration.python.typed import OptionError, options_text, signature_with_options, typed_options
from orchestration.python.work import SearchStopped, at_work
from orchestration.search.presets.asked import asked_preset, require_data, search_as_asked
from orchestration.study.ledger import LedgerError
from orchestration.study.lock import LockError
from orchestration.study.settings import StudyError
from orchestration.workers.address import ClusterError

if TYPE_CHECKING:
    import pandas as pd

    from orchestration.search.ending import Ending

__all__ = [
    "Blend",
    "ClusterError",
    "DataError",
    "LedgerError",
    "LockError",
    "OptionError",
    "SearchStopped",
    "Study",
    "StudyError",
    "UserError",
    "check_data",
    "import_data",
    "open_study",
    "predict",
    "search",
]


def search(
    study: str | PathLike[str], data: str | PathLike[str], *, preset: str | None = None, **options: Any
) -> Study:
    """Search for good models until the end that is asked for; the same call again resumes a study (`biomass search`).

    study: folder or URI; data: data directory; preset: a named study, over which options win. Ray does the work, as
    for the command; with inline=True this process does. An interrupt (Ctrl-C, the stop button of a notebook) raises
    SearchStopped; every finished fold is kept. Raises OptionError, StudyError, LockError, DataError, ClusterError.

    Options, None where they are not given:
    """
    from orchestration.workers.machine import complete_user, require_working_directory

    typed, name = typed_options(options), address_of(study)
    directory = require_data(Path(data).expanduser())
    chosen, made_with = asked_preset(name, preset, typed)
    if not chosen.budget.ends:
        raise OptionError("a search needs an end, got none; give trials=N or hours=H, or a preset")

    def searched() -> Ending:
        require_working_directory()
        complete_user(os.environ)
        return search_as_asked(name, directory, chosen, made_with, say=say)

    ending = at_work(say, searched)
    for line in ending.lines:
        say(line)
    return Study(open_study(name).ledger, ending)


search.__signature__ = signature_with_options(search)  # type: ignore[attr-defined]
search.__doc__ = f"{inspect.cleandoc(search.__doc__ or '')}\n{options_text()}"


def import_data(
    table: str | PathLike[str],
    photos: str | PathLike[str],
    out: str | PathLike[str],
    *,
    unit: str | None = None,
    area: float | str | None = None,
    groups: Sequence[str] = (),
    **columns: str,
) -> pd.DataFrame:
    """Make a data directory `out` of a table and a folder of photographs; returns what was understood, masses in grams
    (`biomass data import`).

    unit: of the masses, g (per quadrat), g/m2 or kg/ha; area: of a quadrat in m2, or a column; groups: columns that
    folds keep whole; columns: which column holds what (photo, total, date, ...), where its name does not say it.
    Raises DataError for what a search would refuse, UserError for what cannot be read; check_data(out) has warnings.
    """
    from biomass_models.config_rules import known_name
    from biomass_models.data.dataset import ROLES
    from biomass_models.data.importing import import_table, write_import
    from biomass_models.data.problems import raise_errors
    from biomass_models.data.quadrats import inspect_quadrats

    for role in columns:
        known_name("what a column holds", role, ROLES, OptionError)
    folder, place = Path(photos).expanduser(), Path(out).expanduser()
    size = None if area is None else str(area)
    imported = import_table(Path(table).expanduser(), folder, given=columns, unit=unit, area=size, groups=groups)
    write_import(imported, folder, place)
    for note in imported.notes:
        say(f"note: {note}")
    read, problems = inspect_quadrats(place)
    raise_errors(problems)
    return read


def check_data(data: str | PathLike[str]) -> pd.DataFrame:
    """Everything that is wrong with a data directory, a row each; empty where nothing is (`biomass data check`).

    A search goes on with warnings and refuses errors.
    """
    from biomass_models.data.check import check_directory
    from orchestration.progress import progress_bar
    from orchestration.python.tables import problems_table

    with progress_bar("Checking images") as update:
        return problems_table(check_directory(require_data(Path(data).expanduser()), on_progress=update))
