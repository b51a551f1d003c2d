"""What can be wrong with a search before anything heavy loads. Light to import: neither torch nor Ray nor Optuna."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pandas as pd

from biomass_models.data.check import require_clean
from biomass_models.data.folds import assign_folds
from biomass_models.data.frames import Fit
from biomass_models.data.problems import grouped
from biomass_models.data.table import read_train
from biomass_models.families import registry
from orchestration.progress import progress_bar
from orchestration.search.following import followed, known_images
from orchestration.search.opening import require_typed
from orchestration.search.presets import Preset
from orchestration.study.ledger import Ledger
from orchestration.study.lock import require_free
from orchestration.study.records import Asked
from orchestration.study.seeds import derive_seed
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage


def check_search(study: str, data_dir: Path, asked: Preset, made_with: Asked, say: Callable[[str], None]) -> None:
    """Whether the study is free and is what was typed, the data are sound, and the folds can be dealt.

    Raises LockError, StudyError, DataError or FoldError; nothing is written. A driver that comes in between is met by
    the search itself.
    """
    ledger = Ledger(Storage(study))
    require_free(ledger.storage)
    record = ledger.find_study()
    if record is not None:
        require_typed(ledger, asked, made_with)
    fit = record.settings.fit if record is not None else None if asked.study.fit == "auto" else asked.study.fit
    check_data(data_dir, say, cast("Fit | None", fit))
    if record is None:
        searchable(asked, made_with, read_train(data_dir), say=lambda _: None)
    if record is None or asked.study.fold_file:
        file, follows = asked.study.fold_file, asked.study.from_
        old = followed(study, follows) if record is None and follows is not None else None
        scheme, seed = "file" if file else asked.study.scheme, derive_seed(asked.study.seed, "folds")
        assign_folds(
            read_train(data_dir),
            scheme=scheme,
            n_folds=asked.study.folds,
            seed=seed,
            file=file,
            exam=asked.study.exam,
            known=None if old is None else known_images(old),
        )


def searchable(asked: Preset, made_with: Asked, quadrats: pd.DataFrame, say: Callable[[str], None]) -> Preset:
    """The preset without families that learn from metadata which these data lack; says which, and what is missing.

    Raises StudyError where such a family was typed, or where no other is left.
    """
    lacking = {}
    for name in asked.study.families:
        needed = registry.family(registry.known(name)).metadata
        if missing := [column for column in needed if column not in quadrats or quadrats[column].isna().any()]:
            lacking[name] = ", ".join(missing)
    left = [name for name in asked.study.families if name not in lacking]
    for name, columns in lacking.items():
        rule = f"the family {name} learns from metadata that not every photograph has here: {columns}"
        if "families" in made_with.overrides or not left:
            more = f" or search without it ({' '.join(f'--family {one}' for one in left)})" if left else ""
            raise StudyError(f"{rule}; add them to the data{more}")
        say(f"{rule}; it is left out of the search")
    if not lacking:
        return asked
    shares = dict(zip(asked.study.families, asked.study.shares, strict=False))
    return asked.with_fields(families=tuple(left), shares=tuple(shares[name] for name in left) if shares else ())


def check_data(data_dir: Path, say: Callable[[str], None], fit: Fit | None = None) -> None:
    """Read all of a data directory; DataError with every problem, warnings are said.

    fit: what the study's models see of photographs; None as the data say.
    """
    with progress_bar("Checking data") as update:
        warnings = require_clean(data_dir, fit=fit, on_progress=update)
    for warning in grouped(warnings):
        say(str(warning))
