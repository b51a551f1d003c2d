"""What can be wrong with a search before anything heavy loads. Light to import: neither torch nor Ray nor Optuna."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from biomass_models.data.cell_weights import cell_weights, measured_masses
from biomass_models.data.check import require_clean
from biomass_models.data.dataset import QUADRATS_FILE
from biomass_models.data.folds import assign_folds
from biomass_models.data.frames import Fit
from biomass_models.data.images import file_digest
from biomass_models.data.importing import PHOTOGRAPH_SUFFIXES
from biomass_models.data.problems import grouped
from biomass_models.data.table import TEST_FILE, TRAIN_FILE, read_train
from biomass_models.families import registry
from biomass_models.families.base import Family
from biomass_models.fold_rows import folds_in, is_ordered, training_rows
from biomass_models.targets import IntArray
from ensembles.measured import counted_notice
from orchestration.progress import progress_bar
from orchestration.search.following import followed, known_images
from orchestration.search.opening import require_typed
from orchestration.search.presets.options import Preset
from orchestration.search.second_round import plan_second_round
from orchestration.study.ledger import Ledger
from orchestration.study.lock import require_free
from orchestration.study.records import Asked, StudyRecord
from orchestration.study.seeds import derive_seed
from orchestration.study.settings import StudyError
from orchestration.study.spaces import ADD_FAMILY, stored_space, with_changes
from orchestration.study.storage import Storage
from search_spaces.range_files import read_changes
from search_spaces.spaces import DEFAULT_BACKBONES, space_of


def check_search(study: str, data_dir: Path, asked: Preset, made_with: Asked, say: Callable[[str], None]) -> None:
    """Whether the study is free and is what was typed, the data are sound, and the folds can be dealt.

    Raises LockError, StudyError, DataError or FoldError; nothing is written. A driver that comes in between is met by
    the search itself.
    """
    ledger = Ledger(Storage(study))
    require_free(ledger.storage)
    record = ledger.find_study()
    check_ranges(record, asked)
    if record is None:
        _require_own_folder(ledger.storage)
    else:
        require_typed(ledger, asked, made_with)
    if asked.budget.second_round is not None:
        plan_second_round(ledger, asked.budget.second_round, asked.budget.pseudo_weight, data_dir)
    fit = record.settings.fit if record is not None else None if asked.study.fit == "auto" else asked.study.fit
    check_data(data_dir, say, cast("Fit | None", fit))
    if record is None:
        here = read_train(data_dir)
        searchable(study, data_dir, asked, made_with, here, say=lambda _: None)
        if notice := counted_notice(cell_weights(here)):
            say(notice)
    elif asked.study.fold_file:
        _folds_of(asked, read_train(data_dir))


def _require_own_folder(storage: Storage) -> None:
    """StudyError for a new study among photographs, or tables of them, which would be a study's folder from then on."""
    names = storage.children("") if storage.is_local else []
    tables = (TRAIN_FILE, QUADRATS_FILE, TEST_FILE)
    data = [name for name in names if name.lower().endswith(PHOTOGRAPH_SUFFIXES) or name in tables]
    if data:
        raise StudyError(
            f"a new study has a folder of its own; got {storage.uri}, which holds {data[0]}; name another one, such as "
            f"{storage.uri}-study"
        )


def check_ranges(record: StudyRecord | None, asked: Preset) -> None:
    """Whether the user's own ranges can be searched; RangesError with every problem.

    Where a machine decides the scale of a new study, only what each field says by itself is checked.
    """
    changes = read_changes(asked.study.space, asked.study.set_)
    if record is not None:
        families, backbones = record.settings.families, record.settings.backbones
        spaces = {family: space for family in families if (space := stored_space(record, family)) is not None}
        with_changes(spaces, changes, backbones, say=lambda _: None, scale=record.settings.scale)
    elif changes and asked.study.scale != "auto":
        backbones = asked.study.backbones or DEFAULT_BACKBONES
        spaces = {family: space_of(family, backbones, asked.study.scale) for family in asked.study.families}
        # which backbones are here is not known yet
        with_changes(spaces, changes, None, say=lambda _: None, scale=asked.study.scale, to_add=ADD_FAMILY)


def searchable(
    study: str, data_dir: Path, asked: Preset, made_with: Asked, quadrats: pd.DataFrame, say: Callable[[str], None]
) -> Preset:
    """The preset of a new study without families that cannot learn from these data; says which, and what they lack.

    Raises StudyError where such a family was typed, or where no other is left; FoldError.
    """
    follows, known = asked.study.from_, None
    if follows is not None:
        digests = [file_digest(data_dir / str(path)) for path in quadrats["image_path"]]
        known = known_images(followed(study, follows), quadrats, digests)
    fold_N, measured_NT = _folds_of(asked, quadrats, known), ~np.isnan(measured_masses(quadrats)[0])
    lacking: dict[str, tuple[str, str]] = {}  # rule and remedy by family
    for name in asked.study.families:
        family = registry.family(registry.known(name))
        if missing := [column for column in family.metadata if column not in quadrats or quadrats[column].isna().any()]:
            rule = f"the family {name} learns from metadata that not every photograph has here: {', '.join(missing)}"
            lacking[name] = rule, "add them to the data"
        elif reason := _unlearned(family, measured_NT, fold_N, ordered=is_ordered(_scheme(asked))):
            lacking[name] = f"the family {name} cannot learn {reason}", "measure more"
    left = [name for name in asked.study.families if name not in lacking]
    for rule, remedy in lacking.values():
        if "families" in made_with.overrides or not left:
            more = f" or search without it ({' '.join(f'--family {one}' for one in left)})" if left else ""
            raise StudyError(f"{rule}; {remedy}{more}")
        say(f"{rule}; it is left out of the search")
    if not lacking:
        return asked
    shares = dict(zip(asked.study.families, asked.study.shares, strict=False))
    return asked.with_fields(families=tuple(left), shares=tuple(shares[name] for name in left) if shares else ())


def _folds_of(asked: Preset, quadrats: pd.DataFrame, known: pd.DataFrame | None = None) -> IntArray:
    """The folds that a new study would have; known: as for assign_folds. Raises FoldError."""
    study = asked.study
    folds = assign_folds(
        quadrats,
        scheme=_scheme(asked),
        n_folds=study.folds,
        seed=derive_seed(study.seed, "folds"),
        file=study.fold_file,
        exam=study.exam,
        known=known,
    )
    return folds["fold"].to_numpy()


def _scheme(asked: Preset) -> str:
    return "file" if asked.study.fold_file else asked.study.scheme


def _unlearned(family: Family, measured_NT: NDArray[np.bool_], fold_N: IntArray, *, ordered: bool) -> str | None:
    """The reason of the first fold from whose training rows a family cannot learn."""
    for fold in folds_in(fold_N):
        if reason := family.learns(measured_NT[training_rows(fold_N, fold, ordered=ordered)]):
            return f"{reason} (fold {fold})"
    return None


def check_data(data_dir: Path, say: Callable[[str], None], fit: Fit | None = None) -> None:
    """Read all of a data directory; DataError with every problem, warnings are said.

    fit: what the study's models see of photographs; None as the data say.
    """
    with progress_bar("Checking data") as update:
        warnings = require_clean(data_dir, fit=fit, on_progress=update)
    for warning in grouped(warnings):
        say(str(warning))
