"""One library from any mix of studies and files: who its members are, and how each predicts a test set.

Members of a study are its complete trials; with several studies they are called <study>/<trial>. Needs neither torch
nor Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.data.alignment import masses_of, places_of
from biomass_models.data.cell_weights import WEIGHT_COLUMNS, cell_weights
from biomass_models.data.dataset import QUADRATS_FILE
from biomass_models.data.folds import assign_folds
from biomass_models.data.table import read_train
from biomass_models.families.readable import label_of
from biomass_models.fold_units import unit_name, units_of
from biomass_models.targets import TARGETS, FloatArray, measured_targets, norm_of
from ensembles.members.file_names import named_files
from ensembles.members.fold_files import join_folds
from ensembles.members.library import Library, LibraryError, check_members, library_from_arrays
from ensembles.members.matched_tests import MatchedTests, match_tests
from ensembles.members.oof_files import DEFAULT_GROUPS, read_members, read_truth
from ensembles.members.too_good import splits_groups
from orchestration.study.data import StudyData
from orchestration.study.ledger import LedgerError, open_ledger
from orchestration.study.mass_unit import GRAMS, MassUnit, mass_unit_of, table_unit
from orchestration.study.records import COMPLETE, TrialRef
from orchestration.study.seeds import derive_seed

TRUTH_COLUMNS = ("image_id", "fold", "group", "unit", "State", *TARGETS, *WEIGHT_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class FileMembers:
    """What is given about members that come as files."""

    oof: tuple[str, ...] = ()  # patterns of out-of-fold predictions
    truth: Path | None = None  # measured masses; None where a study has them
    groups: tuple[str, ...] = DEFAULT_GROUPS  # the truth's columns whose combinations are never split
    folds: int = 5  # to deal groups into, where the truth has no column `fold`
    tests: tuple[str, ...] = ()  # patterns of test predictions


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """A library, and where its members' test predictions come from."""

    library: Library
    trials: dict[str, TrialRef]  # members that can predict photographs
    labels: dict[str, str]  # what those are: family, backbone, size, what differs from the published setting
    tests: MatchedTests | None  # of members that come as files
    references: dict[str, FloatArray]  # what a blend must beat, rows as the library's
    study: StudyData | None  # that all members are trials of; None for several studies, and with files
    seed: int
    mass_unit: MassUnit  # of the measured masses
    measured: tuple[str, ...]  # targets that they have

    @property
    def table_unit(self) -> MassUnit | None:
        """As records.table_unit."""
        return table_unit(self.mass_unit, self.measured)


def gather(
    studies: Sequence[str],
    files: FileMembers,
    *,
    test_ids: Sequence[str] | None,
    seed: int,
    say: Callable[[str], None],
    preferred: Callable[[Mapping[str, TrialRef]], Collection[str]] | None = None,
) -> Gathered:
    """Everything that can be blended. test_ids: images of the test set, of a data directory.

    preferred: which of the trials stay where they repeat a better member that is not among them.

    Raises LedgerError and LibraryError: no complete trial, studies of other images, no readable file, no truth.
    """
    ledgers = {ledger.storage.uri: ledger for ledger in map(open_ledger, studies)}
    sources = {uri: StudyData(ledger) for uri, ledger in ledgers.items()}
    first = next(iter(sources.values()), None)
    truth = _common_truth(list(sources.values()), say) if sources else None
    if first is not None:
        unit, mass_unit = first.unit, first.record.mass_unit
    if truth is None:
        if files.truth is None:
            raise LibraryError("members that come as files need --truth, a table of the measured masses; got none")
        truth, unit, mass_unit = _file_truth(files.truth, files, seed)
    elif files.truth is not None:
        raise LibraryError("the measured masses are a study's where one is given; leave --truth out")
    trials = _trials(sources)
    pred, torn_trials = _predictions(trials, sources, truth["image_id"])
    for name, reason in torn_trials:
        say(f"note: member {name} is left out: {reason}")
    files_of = named_files(files.oof)
    weight = cell_weights(truth)
    measured = measured_targets(weight)
    read, unreadable = read_members(files_of, say, measured)
    joined = join_folds(files_of, read, pd.Index(truth["image_id"].astype(str)))
    for remark in joined.remarks:
        say(remark)
    read, unreadable = joined.frames, [*unreadable, *joined.left_out, *torn_trials]
    if twice := set(read) & set(pred):
        raise LibraryError(f"each member needs a name of its own, {', '.join(sorted(twice))} is a trial and a file")
    checked = check_members({**pred, **read}, truth, files=read)
    sound, remarks = checked.sound, list(checked.remarks)
    unreadable += checked.left_out
    for name, frame in read.items():
        if name in sound and (split := splits_groups(frame, truth)):
            remarks.append((name, split))
    tests = None
    if files.tests and any(name in sound for name in read):
        found, torn = read_members(named_files(files.tests), say, measured)
        own = {name: frame for name, frame in read.items() if name in sound}
        tests = match_tests(own, found, torn, test_ids, parts=joined.parts, norm_T=norm_of(weight))
        unreadable += tests.left_out
        remarks += tests.remarks
        sound = {name: pred_NT for name, pred_NT in sound.items() if name in tests.pred_NT or name in pred}
    for name, remark in remarks:
        say(f"{name}: {remark}")
    library = library_from_arrays(
        list(sound), list(sound.values()), truth, left_out=unreadable, checked=True, unit=unit,
        preferred=() if preferred is None else preferred(trials),
    )  # fmt: skip
    return Gathered(
        library=library,
        labels={name: member_label(sources[ref.study], ref.trial_id) for name, ref in trials.items()},
        trials={name: ref for name, ref in trials.items() if name in library.names},
        tests=tests,
        references={} if first is None else comparable_references(first),
        study=first if len(sources) == 1 and not read else None,
        seed=seed if first is None else derive_seed(first.settings.seed, "blend"),
        mass_unit=mass_unit,
        measured=measured,
    )


def _file_truth(path: Path, files: FileMembers, seed: int) -> tuple[pd.DataFrame, str, MassUnit]:
    """Measured masses of members that come as files, what an error unit is called, and the unit of the masses.

    path: a table, or a data directory (or its quadrats.csv), which says itself what folds keep whole.
    """
    if not path.is_dir() and path.name != QUADRATS_FILE:
        truth = read_truth(path, groups=files.groups, folds=files.folds, seed=seed)
        return truth, "date" if "unit" in truth else "group", GRAMS
    data_dir = path if path.is_dir() else path.parent
    here = read_train(data_dir)
    truth = here.merge(assign_folds(here, n_folds=files.folds, seed=seed), on="image_id", validate="one_to_one")
    truth = truth.assign(unit=units_of(truth, "date"))
    unit = unit_name(truth, "date")
    return truth[[name for name in TRUTH_COLUMNS if name in truth]], unit, mass_unit_of(data_dir, here)


def _common_truth(studies: Sequence[StudyData], say: Callable[[str], None]) -> pd.DataFrame:
    """Labels, groups and folds of the first study, if all others are about the same images and masses."""
    uri, first = studies[0].ledger.storage.uri, studies[0].truth
    for study in studies[1:]:
        here, other = study.ledger.storage.uri, study.quadrats
        if strange := set(other["image_id"]) ^ set(first["image_id"]):
            raise LedgerError(
                f"studies are blended over the same images; {len(strange)} are in only one of {uri} "
                f"and {here}, such as {min(strange)}; blend them apart"
            )
        if not np.allclose(masses_of(other, first["image_id"]), studies[0].truth_NT, atol=1e-6, equal_nan=True):
            raise LedgerError(f"studies are blended over the same masses; those of {here} differ")
        if not _same_weights(other, studies[0].quadrats):
            raise LedgerError(f"studies are blended by the same weights of masses and quadrats; those of {here} differ")
        if study.fold_hash != studies[0].fold_hash:
            say(f"{here} has other folds; folds are those of {uri}")
    return first[[name for name in TRUTH_COLUMNS if name in first]]


def _same_weights(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether the cells of two tables of the same images count alike."""
    weights = [np.broadcast_to(cell_weights(table), (len(table), len(TARGETS))) for table in (one, other)]
    order = places_of(one["image_id"], other["image_id"])
    return np.allclose(weights[0][order], weights[1], rtol=1e-9, atol=0)


def _trials(studies: Mapping[str, StudyData]) -> dict[str, TrialRef]:
    """Complete trials by member name; several studies are named by the ends of their paths that differ."""
    parts = [uri.split("/") for uri in studies]
    depth = 1
    while len({tuple(part[-depth:]) for part in parts}) < len(parts):
        depth += 1
    found: dict[str, TrialRef] = {}
    for (uri, study), part in zip(studies.items(), parts, strict=True):
        stem = "/".join(part[-depth:])
        complete = sorted(trial.trial_id for trial in study.of(COMPLETE))
        if not complete:
            raise LedgerError(f"a blend needs at least one complete trial, {uri} has none; search until one is")
        for trial_id in complete:
            found[f"{stem}/{trial_id}" if len(studies) > 1 else trial_id] = TrialRef(uri, trial_id)
    return found


def member_label(study: StudyData, trial_id: str) -> str:
    """What a trial is: family, backbone, size, what differs from the published setting."""
    record = study.by_id[trial_id].record
    return f"{record.family}: {label_of(record.family, record.config)}"


def _predictions(
    trials: Mapping[str, TrialRef], studies: Mapping[str, StudyData], image_ids: pd.Series
) -> tuple[dict[str, FloatArray], list[tuple[str, str]]]:
    """Out-of-fold predictions by member, and the members whose table is torn with the reason."""
    found: dict[str, FloatArray] = {}
    torn: list[tuple[str, str]] = []
    for name, ref in trials.items():
        try:
            found[name] = studies[ref.study].pred_NT(ref.trial_id, image_ids)
        except LedgerError as error:
            torn.append((name, str(error)))
    return found, torn


def comparable_references(study: StudyData) -> dict[str, FloatArray]:
    """What a blend must beat to be worth its trouble: those that can predict a test set."""
    return {name: each.pred_NT for name, each in study.references.items() if each.predicts_tests}
