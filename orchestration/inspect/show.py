"""One trial, whole: what it is, how it came about, its folds, its cost, and what it is worth in the blend.

Made from the ledger alone; loads neither torch nor Ray.
"""

from __future__ import annotations

import shlex
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np

from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.families.introduced import fill_config
from biomass_models.families.readable import label_of
from ensembles.honest import Estimate, paired_difference
from ensembles.nests import nested_all
from orchestration.blending.nested import rule_of
from orchestration.blending.shown import MOST_MEMBERS, shown_blend, within
from orchestration.study.data import StudyData, Trial
from orchestration.study.ledger import LedgerError
from orchestration.study.records import COMPLETE, FoldMetrics
from orchestration.study.spaces import stored_space
from search_spaces.conditions import range_text


@dataclass(frozen=True, kw_only=True)
class SettingRow:
    """A setting of the trial that differs from the published one, or whose range the user has changed."""

    name: str
    value: Any
    published: Any  # None where the family has no such value
    range: str  # in the study now: a domain in words, "fixed", or "not searched"
    own: str | None = None  # where the user has changed that range, and after how many trials


@dataclass(frozen=True, kw_only=True)
class FoldRow:
    """A finished fold."""

    fold: int
    score: float | None
    seconds: float
    gpu_seconds: float
    peak_gb: float
    device: str  # GPU or processor
    host: str


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What the trial is worth in the blend that pages show."""

    ensemble: str | None  # None: the default blend, which is not stored
    within: str | None  # minutes and machine, of a blend within a budget
    weight: float
    nested_score: float  # of the blend's rule over all members, without follow-ups
    gain: Estimate | None  # of that score over the same without this trial
    no_gain: str | None = None  # why that is not known


@dataclass(frozen=True, kw_only=True)
class ShownTrial:
    """All that a study knows of one trial."""

    study: str
    trial_id: str
    family: str
    label: str  # backbone, size, and what differs from the published setting
    number: int  # order of proposal
    status: str
    score: float | None
    estimate: float | None  # of a pruned one
    reason: str  # why it is not complete
    why: str  # first trial, or proposed by ENGINE, with its aim where that is the blend
    proposed_at: float
    ended_at: float | None
    exempt: str | None  # why it is never pruned
    pseudo_weight: float | None  # of one of a second round: what a photograph counts that models have labelled
    weights: str  # fingerprint of the backbone's
    seed: int
    settings: tuple[SettingRow, ...]
    folds: tuple[FoldRow, ...]
    decisions: tuple[str, ...]  # of pruning
    seconds: float
    gpu_seconds: float
    peak_gb: float
    worth: Worth | None
    no_worth: str | None  # why it is not known
    commands: tuple[str, ...]  # that fit it again and explain it


def show_trial(data: StudyData, trial_id: str) -> ShownTrial:
    """trial_id: whole. Raises LedgerError where its record cannot be read."""
    trial = data.by_id.get(trial_id)
    if trial is None:
        data.ledger.trial(trial_id)  # raises, with the remedy
        raise LedgerError(f"{trial_id} is no trial of {data.ledger.storage.uri}; the leaderboard lists them")
    record, result = trial.record, trial.result
    folds = data.fold_metrics(trial_id)
    found, no_worth = _worth(data, trial)
    return ShownTrial(
        study=data.ledger.storage.uri,
        trial_id=trial_id,
        family=trial.family,
        label=label_of(record.family, record.config),
        number=record.number,
        status=trial.status,
        score=trial.score,
        estimate=None if result is None else result.estimate,
        reason=trial.reason,
        why=record.why,
        proposed_at=record.proposed_at,
        ended_at=trial.ended_at,
        exempt=record.spared,
        pseudo_weight=None if record.second_round is None else record.second_round.weight,
        weights=record.weights,
        seed=record.seed,
        settings=tuple(_settings(data, trial)),
        folds=tuple(_fold_row(fold, metrics) for fold, metrics in sorted(folds.items())),
        decisions=() if result is None else tuple(map(str, result.decisions)),
        seconds=sum(one.seconds for one in folds.values()),
        gpu_seconds=sum(one.gpu_seconds for one in folds.values()),
        peak_gb=max((one.peak_memory_mb for one in folds.values()), default=0.0) / 1024,
        worth=found,
        no_worth=no_worth,
        commands=_commands(data, trial),
    )


def _settings(data: StudyData, trial: Trial) -> list[SettingRow]:
    """In the order of the configuration; of a family that is not here, what the search drew."""
    family, config = trial.family, fill_config(trial.family, trial.record.config)
    try:
        published = {one.name: one.default for one in fields(registry.family(family).config_class)}
    except UserError:
        return [
            SettingRow(name=name, value=value, published=None, range="") for name, value in trial.record.params.items()
        ]
    own = {note.field: note for note in data.record.own_ranges if note.family == family}
    space = stored_space(data.record, family)
    rows = []
    for name in (*published, *(one for one in config if one not in published)):
        usual, value = published.get(name, MISSING), config.get(name)
        if value == usual and name not in own:
            continue
        if space is None:
            now = ""
        elif name in space.domains:
            now = range_text(space, name)
        else:
            now = "fixed" if name in space.fixed else "not searched"
        note = own.get(name)
        since = "" if note is None or not note.trials else f", after {counted(note.trials, 'trial')}"
        said = None if note is None else f"{note.place}{since}"
        rows.append(
            SettingRow(name=name, value=value, published=None if usual is MISSING else usual, range=now, own=said)
        )
    return rows


def _fold_row(fold: int, metrics: FoldMetrics) -> FoldRow:
    made = metrics.environment
    on_gpu = made.get("gpu") if metrics.gpu_seconds else None
    return FoldRow(
        fold=fold,
        score=metrics.score,
        seconds=metrics.seconds,
        gpu_seconds=metrics.gpu_seconds,
        peak_gb=metrics.peak_memory_mb / 1024,
        device=str(on_gpu or made.get("processor") or "not recorded"),
        host=metrics.host,
    )


def _worth(data: StudyData, trial: Trial) -> tuple[Worth | None, str | None]:
    """What the blend gains by the trial, or why that is not known."""
    if trial.status != COMPLETE:
        return None, f"a blend is made of complete trials, this one is {trial.status}"
    try:
        shown = shown_blend(data, most=MOST_MEMBERS)
        library, left_out = shown.library(), dict(shown.card.left_out)
        gram, seed = library.gram, shown.card.seed
        if better := dict(shown.card.merged).get(trial.trial_id):
            return None, f"it repeats {better}, which is a member"
        if trial.trial_id in left_out or trial.trial_id not in library.names:
            return None, f"left out: {left_out.get(trial.trial_id, 'its rows cannot be read')}"
        rule = rule_of(shown.card, library.names)
        (whole,) = nested_all(gram, [rule], seed=seed)
    except UserError as error:
        return None, str(error)
    others = np.array([place for place, name in enumerate(library.names) if name != trial.trial_id], dtype=np.int64)
    gain, no_gain = None, None if len(others) else "there is no other member"
    try:
        if len(others):
            (without,) = nested_all(gram.keep(others), [rule], seed=seed)
            gain = paired_difference(gram, whole.loss_RC, without.loss_RC)
    except UserError as error:  # within a budget the others may be too expensive
        no_gain = str(error)
    weight = shown.card.members.get(trial.trial_id, 0.0)
    found = Worth(
        ensemble=shown.name,
        within=within(shown.card),
        weight=weight,
        nested_score=whole.score,
        gain=gain,
        no_gain=no_gain,
    )
    return found, None


def _commands(data: StudyData, trial: Trial) -> tuple[str, ...]:
    if trial.status != COMPLETE:
        return ()
    study, image = shlex.quote(data.ledger.storage.uri), shlex.quote(str(data.quadrats["image_id"].iloc[0]))
    return (
        f"biomass refit {study} {trial.trial_id} --data DIR",
        f"biomass explain {study} {trial.trial_id} --image {image} --data DIR",
    )
