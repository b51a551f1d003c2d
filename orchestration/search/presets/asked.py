"""A search as it is asked for, on the command line or from Python: checked before torch and Ray load, then started.

What both of them take and refuse is here; how a value is written and what is printed is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomass_models.backbones.noted import notes_in
from biomass_models.backbones.weights import WeightsSource
from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.features.cache_folder import usable_cache
from orchestration.progress import Say
from orchestration.search.ending import Ending
from orchestration.search.preflight import check_search
from orchestration.search.presets.named import overridden
from orchestration.search.presets.options import Preset
from orchestration.study.ledger import Ledger
from orchestration.study.records import Asked
from orchestration.study.storage import Storage, nearest_folder
from orchestration.workers.address import is_cluster, require_answer
from orchestration.workers.resources import Resources

TABLES = ("train.csv", "quadrats.csv", "test.csv")  # one of them makes a folder a data directory


def asked_preset(study: str, preset: str | None, typed: Mapping[str, Any]) -> tuple[Preset, Asked]:
    """What a search of this study comes to, and the note of what was typed (named.overridden).

    typed: by field; families as NAME or NAME=SHARE. Raises UserError for a name that does not exist.
    """
    if families := typed.get("families"):
        names, shares = families_of(families, lambda: _families_of_study(study))
        typed = {**typed, "families": names, "shares": shares}
    return overridden(preset, typed)


def search_as_asked(
    study: str, data_dir: Path, asked: Preset, made_with: Asked, *, say: Say, detail: Say = lambda text: None
) -> Ending:
    """Check all that can be wrong, and search. detail: is given each setting.

    Raises UserError (StudyError, DataError, LedgerError, ClusterError and others).
    """
    study_apart(study, data_dir)
    source = weights_source(asked.study.weights)  # what can be wrong is found before torch and Ray load
    resources = usable_resources(asked.resources, say)
    for name, value in asked.values().items():
        detail(f"{name}: {value}")
    with notes_in(resources.cache.expanduser()):
        check_search(study, data_dir, asked, made_with, say)
        from orchestration.search.start import start_search  # only now: it knows Ray

        return start_search(
            study,
            data_dir,
            asked,
            weights=source,
            resources=resources,
            say=say,
            retry_failed=asked.budget.retry_failed,
            made_with=made_with,
            data_checked=True,
        )


def require_data(directory: Path) -> Path:
    """A data directory that is there; UserError otherwise, before anything heavy loads."""
    if any((directory / name).exists() for name in TABLES):
        return directory
    hint = nearest_folder(directory, "train.csv")
    if directory.is_dir() and not hint:
        return directory  # its problems are listed with all others
    got = "without them" if directory.is_dir() else "a file" if directory.exists() else "no such folder"
    hint = hint or "; check the path"
    raise UserError(
        f"a data directory is a folder with train.csv (or quadrats.csv, test.csv) and photographs; {directory} is "
        f"{got}{hint}"
    )


def study_apart(study: str, data_dir: Path) -> None:
    """A study and the data that it learns from are folders apart; UserError where one lies in the other."""
    if "://" in study:
        return
    own, photographs = Path(study).expanduser().resolve(), data_dir.expanduser().resolve()
    if own.is_relative_to(photographs) or photographs.is_relative_to(own):
        where = "is" if own == photographs else "lies in" if own.is_relative_to(photographs) else "holds"
        raise UserError(
            f"a study is a folder apart from its data, {study} {where} the data directory {data_dir}; name another, "
            f"such as {photographs.with_name(f'{photographs.name}-study')}"
        )


def weights_source(weights: str) -> WeightsSource:
    """Where backbone weights come from, as `--weights` names it."""
    return WeightsSource(kind=weights) if weights in ("auto", "random") else WeightsSource("folder", Path(weights))


def usable_resources(resources: Resources, say: Say) -> Resources:
    """The same with the cache that this machine can use. A cluster that does not answer is an error at once."""
    require_answer(resources.address)
    if is_cluster(resources.address):  # each node looks for itself
        return resources
    return replace(resources, cache=local_cache(resources.cache, say))


def local_cache(cache: Path, say: Say) -> Path:
    """The folder in which this machine keeps features, with a note where it is not the named one."""
    folder, why = usable_cache(cache)
    if why:
        say(f"note: {why}")
    return folder


def families_of(
    typed: Collection[str] | None, of_study: Callable[[], Collection[str]] = tuple
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Families and their shares of the trials; without a name this project's, without a share no shares.

    of_study: families that may be named although they are not known here. Raises UserError for a family that does not
    exist or a share that is no number above 0.
    """
    typed = list(typed or sorted(registry.BUILT_IN))
    pairs = {name: share for name, _, share in (text.partition("=") for text in typed)}
    try:
        shares = tuple(float(share or 1) for share in pairs.values())
        if "" in pairs or not all(math.isfinite(share) and share > 0 for share in shares):
            raise ValueError
    except ValueError:
        rule = "a family is given as NAME or NAME=SHARE, a number above 0 such as probe=2"
        raise UserError(f"{rule}, got {' '.join(typed)}") from None
    strange = [name for name in pairs if name not in registry.names()]
    known = of_study() if strange else ()
    for name in strange:
        if name not in known:
            registry.known(name)
    return tuple(pairs), shares if any(pairs.values()) else ()


def _families_of_study(study: str) -> tuple[str, ...]:
    """What may be named again although it is not installed here any more."""
    record = Ledger(Storage(study)).find_study()
    return () if record is None else record.settings.families
