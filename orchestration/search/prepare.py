"""What a search begins with: sound data, the study's record, references, and the proposer rebuilt from its ledger."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from biomass_models.counted import counted, plural
from biomass_models.data.folds import assign_folds, fold_hash
from biomass_models.data.photographs import ImageSet, common_size, cut_off
from biomass_models.data.table import fit_of, read_train
from biomass_models.families.introduced import fill_config
from biomass_models.fold_rows import EXAM
from biomass_models.fold_units import unscored_notice
from biomass_models.interrupt import OnProgress
from orchestration.progress import Say
from orchestration.search.following import begin_with, changes_since, follow_moved, followed, known_images
from orchestration.search.gains.aims import new_aim
from orchestration.search.gains.turns import new_turns
from orchestration.search.opening import go_on_with, open_study, take_new_weights
from orchestration.search.preflight import check_data
from orchestration.search.presets.options import PSEUDO_WEIGHT
from orchestration.search.proposer import Proposer
from orchestration.search.second_round import (
    SecondRound,
    families_without,
    keep_second_round,
    plan_second_round,
    require_searched,
)
from orchestration.study.data import StudyData
from orchestration.study.data_changes import data_fingerprint, photograph_table, require_same_data
from orchestration.study.ledger import Ledger
from orchestration.study.mass_unit import mass_unit_of
from orchestration.study.record import SCHEMA
from orchestration.study.records import FAILED, Asked, OwnRange, Params, StudyRecord, TrialRecord, refused_for
from orchestration.study.seeds import derive_seed
from orchestration.study.settings import StudyError, StudySettings
from orchestration.study.spaces import ADD_FAMILY, open_spaces, spaces_of, stored_space, to_json, with_changes
from search_spaces.domain import SearchSpace
from search_spaces.nearest import has_backbone, moved_to
from search_spaces.range_files import Change


def prepare_search(
    ledger: Ledger,
    data_dir: Path,
    settings: StudySettings,
    *,
    fold_file: Path | None = None,
    fingerprints: Mapping[str, str],
    max_trials: int | None,
    hours: float | None = None,
    say: Say,
    retry_failed: bool = False,
    made_with: Asked | None = None,
    spaces: dict[str, SearchSpace] | None = None,
    data_checked: bool = False,
    follows: str | None = None,
    changes: Sequence[Change] = (),
    second_round: str | None = None,
    pseudo_weight: float = PSEUDO_WEIGHT,
) -> Proposer:
    """Check the data, make or find the study, and rebuild what comes next from its ledger. Needs the study's lock.

    The study's references are not among it: see make_references.
    second_round, pseudo_weight: see second_round.plan_second_round.
    """
    if second_round is not None:
        require_searched(ledger)
    if not data_checked:
        check_data(data_dir, say, settings.fit)
    here = read_train(data_dir)
    images = ImageSet.from_table(data_dir, here)
    record = ledger.find_study()
    if record is None:
        old = None if follows is None else followed(ledger.storage.uri, follows)
        plain, scale = spaces or spaces_of(settings), settings.scale
        own = with_changes(plain, changes, settings.backbones, say, scale=scale, to_add=ADD_FAMILY)
        record = _new(ledger, data_dir, here, images, settings, fold_file, fingerprints, *own, made_with, old, say)
    else:
        record = _found(ledger, record, data_dir, here, images, settings, fold_file, spaces, say)
        record = change_ranges(ledger, record, changes, say)
        record = follow_moved(ledger, record, follows, say)
    reopen(ledger, settings.max_fold_seconds, retry_failed, say)
    for sentence in take_new_weights(ledger, fingerprints):
        say(sentence)
    opened, planned = open_spaces(record, say), None
    if second_round is not None:
        planned = plan_second_round(ledger, second_round, pseudo_weight, data_dir, fingerprints)
        opened = _of_second_round(planned, opened, say)
    proposer = Proposer(
        opened,
        ledger,
        seed=settings.seed,
        fold_hash=record.fold_hash,
        weights=fingerprints,
        engine=settings.engine,
        turns=new_turns(settings.sharing, settings.share_of, StudyData(ledger)),
        aim=new_aim(settings.aim, StudyData(ledger)),
        max_trials=max_trials,
        deadline=None if hours is None else time.time() + 3600 * hours,
        max_fold_seconds=settings.max_fold_seconds,
        second_round=None if planned is None else planned.of_trial,
        first=None if planned is None else _within(planned.first, opened, say),
    )
    _say_what_waits(proposer, say)
    if planned is not None:
        _require_places(proposer)
        keep_second_round(ledger, planned)
    return proposer


def _of_second_round(planned: SecondRound, spaces: Mapping[str, SearchSpace], say: Say) -> dict[str, SearchSpace]:
    """The spaces of the families that learn from pseudo-labels; says what the round is."""
    for line in planned.lines:
        say(line)
    if without := families_without(list(spaces)):
        say(f"note: the second round is without {', '.join(without)}, whose fits do not take pseudo-labels")
    return {name: space for name, space in spaces.items() if name not in without}


def _within(
    first: Mapping[str, Sequence[TrialRecord]], spaces: Mapping[str, SearchSpace], say: Say
) -> dict[str, list[Params]]:
    """The members' settings nearest in today's ranges, each once; notices of what moves or is left out."""
    found: dict[str, list[Params]] = {}
    for family, space in spaces.items():
        points = found.setdefault(family, [])
        for record in first.get(family, ()):
            config, name = fill_config(family, record.config), f"the settings of {record.trial_id} ({family})"
            moved = moved_to(space, config)
            if not has_backbone(space, config):
                say(f"{name} are left out: {config['backbone']} is not searched any more")
            elif moved.refusal is not None:
                say(f"{name} are left out: within the ranges of now the configuration refuses them ({moved.refusal})")
            elif moved.params not in points:
                points.append(moved.params)
                if moved.fields:
                    say(f"{name} are moved to the ranges of now: {', '.join(moved.fields)}")
    return found


def _require_places(proposer: Proposer) -> None:
    """Raise StudyError where a second round could not have a single trial."""
    wanted, trials = proposer.second_round, proposer.trials
    if wanted is None or proposer.max_trials is None or trials.of_round(wanted) or trials.places < proposer.max_trials:
        return
    raise StudyError(
        f"--trials counts all trials of the study, those of the first round too, which has {trials.places}, got "
        f"{proposer.max_trials}; give more, such as --trials {trials.places + 12}"
    )


def _say_what_waits(proposer: Proposer, say: Say) -> None:
    """Trials of the study that this search cannot learn from or go on with."""
    if count := len(proposer.unobserved):
        lie = counted(count, "trial lies", "trials lie")
        say(f"{lie} outside of the study's ranges: kept, but proposals learn nothing from that")
    if aside := proposer.trials.set_aside:
        wait = counted(len(aside), "open trial waits", "open trials wait")
        say(f"{wait} for a family or weights that are not here, such as {aside[0].trial_id}")


def reopen(ledger: Ledger, max_fold_seconds: float, retry_failed: bool, say: Say) -> None:
    """Take failed trials up again where that was asked for, and refused ones that are within the limit now."""
    results = ledger.results()
    estimates = {name: seconds for name, result in results.items() if (seconds := refused_for(result)) is not None}
    within = [name for name, seconds in estimates.items() if seconds <= max_fold_seconds]
    if not retry_failed:
        if within:
            now = counted(len(within), "refused trial is", "refused trials are")
            them = plural(len(within), "it", "them")
            say(f"{now} within --max-fold-seconds now; --retry-failed takes {them} up")
        return
    failed = [name for name, result in results.items() if result.status == FAILED and name not in estimates]
    for name in failed + within:
        ledger.reopen(name)
    more = f", and {counted(len(within), 'that was', 'that were')} refused" if within else ""
    say(f"{counted(len(failed), 'failed trial is', 'failed trials are')} taken up again{more}")


def _new(
    ledger: Ledger,
    data_dir: Path,
    here: pd.DataFrame,
    images: ImageSet,
    settings: StudySettings,
    fold_file: Path | None,
    fingerprints: Mapping[str, str],
    spaces: dict[str, SearchSpace],
    own_ranges: tuple[OwnRange, ...],
    made_with: Asked | None,
    old: StudyData | None,
    say: Say,
) -> StudyRecord:
    """Make the study."""
    folds = assign_folds(
        here,
        scheme=settings.scheme,
        n_folds=settings.folds,
        seed=derive_seed(settings.seed, "folds"),
        file=fold_file,
        exam=settings.exam,
        known=None if old is None else known_images(old, here, images.digests),
    )
    quadrats = here.merge(folds, on="image_id", validate="one_to_one")
    if len(kept := folds[folds["fold"] == EXAM]):
        dates = counted(kept["group"].nunique(), "date")
        say(f"An exam keeps {counted(len(kept), 'image')} of {dates} from all that learns")
    if notice := unscored_notice(quadrats, ordered=settings.ordered):
        say(f"note: {notice}")
    if old is not None:
        say(changes_since(old, here, images.digests))
        if old.settings.fit != settings.fit:
            say(f"{old.name} was searched with fit = {old.settings.fit}, this study has {settings.fit}")
        spaces = begin_with(old, spaces, say)
    ledger.write_photographs(photograph_table(here, images.digests))
    size = common_size(images.paths)
    if size is not None and (hidden := cut_off(size, settings.fit)):
        say(f"note: {hidden}")
    return open_study(
        ledger,
        settings,
        quadrats=quadrats,
        data_fingerprint=data_fingerprint(quadrats, images.digest),
        fold_hash=fold_hash(folds, ordered=settings.ordered),
        weights=fingerprints,
        spaces=to_json(spaces),
        own_ranges=own_ranges,
        made_with=made_with,
        photograph_size=size,
        mass_unit=mass_unit_of(data_dir, here),
        follows=None if old is None else old.ledger.storage.uri,
    )


def _found(
    ledger: Ledger,
    record: StudyRecord,
    data_dir: Path,
    here: pd.DataFrame,
    images: ImageSet,
    settings: StudySettings,
    fold_file: Path | None,
    spaces: dict[str, SearchSpace] | None,
    say: Say,
) -> StudyRecord:
    """The record of the study that is there; what a study of 0.1.0 did not store is resolved and stored."""
    record = go_on_with(ledger, record, settings, _folds_of_file(record, here, fold_file))
    require_same_data(ledger, data_dir, here, images.digests)
    own, today = record.settings.fit, fit_of(data_dir)
    if "fit" not in record.made_with.overrides and own != today:
        say(f"note: the study keeps its fit = {own}, {data_dir} says {today} now; another folder takes that up")
    if not record.spaces:
        known = spaces or {name: one for name in settings.families if (one := stored_space(record, name))}
        record = replace(record, schema=SCHEMA, spaces=to_json(known))
        ledger.update_study(record)
    return record


def change_ranges(ledger: Ledger, record: StudyRecord, changes: Sequence[Change], say: Say) -> StudyRecord:
    """The record of a study, with what the user changes of its ranges now; all its trials stay."""
    if not changes:
        return record
    stored = {family: space for family in record.settings.families if (space := stored_space(record, family))}
    settings, trials = record.settings, len(ledger.trials())
    found, notes = with_changes(stored, changes, settings.backbones, say, scale=settings.scale, trials=trials)
    if notes:
        changed = to_json({note.family: found[note.family] for note in notes})
        own = (*record.own_ranges, *notes)
        record = replace(record, schema=SCHEMA, spaces={**record.spaces, **changed}, own_ranges=own)
        ledger.update_study(record)
        say(f"{counted(len(notes), 'range is another', 'ranges are others')} from here on; all trials stay")
    return record


def make_references(ledger: Ledger, data_dir: Path, say: Say, on_progress: OnProgress) -> None:
    """Write the study's references, which no proposal and no fold looks at, unless they are there."""
    from biomass_models.data.references import missing_metadata, reference_predictions  # here: it loads scikit-learn

    if ledger.references() is not None:
        return
    quadrats = ledger.quadrats()
    if missing := missing_metadata(quadrats):
        say(f"metadata trees are left out of the references: no {', '.join(missing)} in every row")
    paths = [data_dir / str(path) for path in quadrats["image_path"]]
    ordered = ledger.study().settings.ordered
    ledger.write_references(reference_predictions(quadrats, paths, on_progress, ordered=ordered))


def _folds_of_file(record: StudyRecord, here: pd.DataFrame, fold_file: Path | None) -> list[tuple[str, object, object]]:
    """What require_same compares where the user gives folds."""
    if fold_file is None:
        return []
    given = assign_folds(here, scheme="file", n_folds=record.settings.folds, seed=0, file=fold_file)
    return [("fold_hash", record.fold_hash, fold_hash(given))]
