"""One library from any mix of studies and files: who its members are, and how each predicts a test set.

Members of a study are its complete trials; with several studies they are called <study>/<trial>. Needs neither torch
nor Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.data.folds import fold_hash
from biomass_models.targets import TARGETS, FloatArray
from ensembles.members.file_names import named_files
from ensembles.members.fold_files import join_folds
from ensembles.members.library import Library, LibraryError, check_members, library_from_arrays
from ensembles.members.matched_tests import MatchedTests, match_tests
from ensembles.members.oof_files import DEFAULT_GROUPS, read_members, read_truth
from ensembles.members.too_good import splits_groups
from orchestration.study.ledger import Ledger, LedgerError, open_ledger
from orchestration.study.records import COMPLETE, TrialRef
from orchestration.study.seeds import derive_seed
from orchestration.study.storage import Storage

TRUTH_COLUMNS = ("image_id", "fold", "group", "State", *TARGETS)


@dataclass(frozen=True, kw_only=True)
class FileMembers:
    """What a user says about members that come as files."""

    oof: tuple[str, ...] = ()  # patterns of out-of-fold predictions
    truth: Path | None = None  # measured masses; None where a study has them
    groups: tuple[str, ...] = DEFAULT_GROUPS  # the truth's columns whose combinations are never split
    folds: int = 5  # nests, where the truth has no column `fold`
    tests: tuple[str, ...] = ()  # patterns of test predictions


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """A library, and where its members' test predictions come from."""

    library: Library
    trials: dict[str, TrialRef]  # members that can predict photographs
    tests: MatchedTests | None  # of members that come as files
    references: dict[str, FloatArray]  # what a blend must beat, rows as the library's
    seed: int


def gather(
    studies: Sequence[str],
    files: FileMembers,
    *,
    test_ids: Sequence[str] | None,
    seed: int,
    say: Callable[[str], None],
) -> Gathered:
    """Everything that can be blended. test_ids: images of the test set, where a data directory says so.

    Raises LedgerError and LibraryError: no complete trial, studies of other images, no readable file, no truth.
    """
    ledgers = list({ledger.storage.uri: ledger for ledger in map(open_ledger, studies)}.values())
    truth = _common_truth(ledgers, say) if ledgers else None
    if truth is None:
        if files.truth is None:
            raise LibraryError("members that come as files need --truth, a table of the measured masses; got none")
        truth = read_truth(files.truth, groups=files.groups, folds=files.folds, seed=seed)
    elif files.truth is not None:
        raise LibraryError("the measured masses are a study's where one is given; leave --truth out")
    trials = _trials(ledgers)
    frames, torn_trials = _tables(trials)
    for name, reason in torn_trials:
        say(f"note: member {name} is left out: {reason}")
    files_of = named_files(files.oof)
    read, unreadable = read_members(files_of, say)
    joined = join_folds(files_of, read, pd.Index(truth["image_id"].astype(str)))
    for remark in joined.remarks:
        say(remark)
    read, unreadable = joined.frames, [*unreadable, *joined.left_out, *torn_trials]
    if twice := set(read) & set(frames):
        raise LibraryError(f"each member needs a name of its own, {', '.join(sorted(twice))} is a trial and a file")
    checked = check_members(frames | read, truth, files=read)
    sound, remarks = checked.sound, list(checked.remarks)
    unreadable += checked.left_out
    for name, frame in read.items():
        if name in sound and (split := splits_groups(frame, truth)):
            remarks.append((name, split))
    tests = None
    if files.tests and any(name in sound for name in read):
        found, torn = read_members(named_files(files.tests), say)
        own = {name: frame for name, frame in read.items() if name in sound}
        tests = match_tests(own, found, torn, test_ids, parts=joined.parts)
        unreadable += tests.left_out
        remarks += tests.remarks
        sound = {name: pred_NT for name, pred_NT in sound.items() if name in tests.pred_NT or name in frames}
    for name, remark in remarks:
        say(f"{name}: {remark}")
    library = library_from_arrays(list(sound), list(sound.values()), truth, left_out=unreadable, checked=True)
    return Gathered(
        library=library,
        trials={name: ref for name, ref in trials.items() if name in library.names},
        tests=tests,
        references=_references(ledgers[0], library) if ledgers else {},
        seed=derive_seed(ledgers[0].study().settings.seed, "blend") if ledgers else seed,
    )


def _common_truth(ledgers: Sequence[Ledger], say: Callable[[str], None]) -> pd.DataFrame:
    """Labels, groups and folds of the first study, if all others are about the same images and masses."""
    first = ledgers[0].quadrats()
    for ledger in ledgers[1:]:
        other = ledger.quadrats()
        if strange := set(other["image_id"]) ^ set(first["image_id"]):
            raise LedgerError(
                f"studies are blended over the same images; {len(strange)} are in only one of {ledgers[0].storage.uri} "
                f"and {ledger.storage.uri}, such as {min(strange)}; blend them apart"
            )
        aligned = other.set_index("image_id").loc[first["image_id"]]
        if not np.allclose(aligned[list(TARGETS)], first[list(TARGETS)], atol=1e-6):
            raise LedgerError(f"studies are blended over the same masses; those of {ledger.storage.uri} differ")
        if fold_hash(other) != fold_hash(first):
            say(f"{ledger.storage.uri} has other folds; nests are those of {ledgers[0].storage.uri}")
    return first[list(TRUTH_COLUMNS)]


def _trials(ledgers: Sequence[Ledger]) -> dict[str, TrialRef]:
    parts = [ledger.storage.uri.split("/") for ledger in ledgers]
    depth = 1
    while len({tuple(part[-depth:]) for part in parts}) < len(parts):
        depth += 1
    found: dict[str, TrialRef] = {}
    for ledger, part in zip(ledgers, parts, strict=True):
        stem = "/".join(part[-depth:])
        known = {record.trial_id for record in ledger.trials()}
        complete = [name for name, one in ledger.results().items() if one.status == COMPLETE and name in known]
        if not complete:
            raise LedgerError(
                f"a blend needs at least one complete trial, {ledger.storage.uri} has none; search until one is"
            )
        for trial_id in complete:
            found[f"{stem}/{trial_id}" if len(ledgers) > 1 else trial_id] = TrialRef(ledger.storage.uri, trial_id)
    return found


def _tables(trials: Mapping[str, TrialRef]) -> tuple[dict[str, pd.DataFrame], list[tuple[str, str]]]:
    """Out-of-fold tables by member, and the members whose table is torn with the reason."""
    frames: dict[str, pd.DataFrame] = {}
    torn: list[tuple[str, str]] = []
    for name, ref in trials.items():
        try:
            frames[name] = Ledger(Storage(ref.study)).oof(ref.trial_id)
        except LedgerError as error:
            torn.append((name, str(error)))
    return frames, torn


def _references(ledger: Ledger, library: Library) -> dict[str, FloatArray]:
    """What a blend must beat to be worth its trouble; metadata trees are left out, they cannot predict a test set."""
    table = ledger.references()
    found = {} if table is None else dict(iter(table.groupby("reference", sort=False)))
    return {
        str(name): frame.set_index("image_id").loc[list(library.image_id_N)][list(TARGETS)].to_numpy()
        for name, frame in found.items()
        if name != "metadata trees"
    }
