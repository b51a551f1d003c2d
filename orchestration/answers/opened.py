"""A blend that predicts photographs, opened from a study or from a bundle: the same card, models and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from biomass_models.backbones.adapter import Backbone
from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.frames import Fit
from biomass_models.errors import UserError
from biomass_models.features.likeness import Likeness
from biomass_models.features.states import StateModel
from ensembles.card import Card
from ensembles.intervals.levels import Intervals
from orchestration.blending.likeness import Encoder, keep_likeness, kept_likeness, stored_likeness
from orchestration.blending.shown import newest_of, stored_ensembles
from orchestration.bundle.predict import MARKER, WEIGHTS, read_bundle, weights_of
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger, LedgerError, open_ledger, predicting_models
from orchestration.study.mass_unit import MassUnit
from orchestration.study.records import Params, TrialRef
from orchestration.study.seeds import content_id
from orchestration.study.storage import Storage
from orchestration.workers.shards import require_packages
from orchestration.workers.weights_here import source_of_bank, source_of_trials

IN_MEMORY = 512 << 20  # bytes of a blend's models that are kept; larger ones are read again for each shard


class BlendPlace(NamedTuple):
    """Where a blend is: what a process needs to open it."""

    where: str  # study or bundle
    ensemble: str | None  # of a study; None: the newest
    weights: WeightsSource | None  # of backbones, where they were typed


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenMember:
    """A member and its models, whose mean predicts."""

    name: str
    family: str
    config: Params
    fit: Fit
    read: Callable[[], Iterator[bytes]]  # safetensors of each model
    _kept: list[bytes] = field(default_factory=list)

    def models(self, limit: int) -> Sequence[bytes] | Iterator[bytes]:
        """Their tensors; kept in memory where all fit into so many bytes."""
        if self._kept:
            return self._kept
        found: list[bytes] = []
        for model in self.read():
            found.append(model)
            if sum(map(len, found)) > limit:
                return self.read()
        self._kept.extend(found)
        return self._kept


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenBlend:
    """What predicts photographs, and what is known of their masses."""

    place: BlendPlace
    name: str  # of the ensemble
    study: str  # that it was made in
    card: Card
    card_id: str  # content of the card as it is stored: another one, other numbers
    study_card: str  # content of the card as the study has it, for its traces
    members: tuple[OpenMember, ...]
    source: WeightsSource
    measured: tuple[str, ...]
    mass_unit: MassUnit
    photograph_size: tuple[int, int] | None  # px that it was trained on
    likeness: Likeness | None  # None: embeddings of the training photographs are not kept
    frozen: dict[str, Backbone] = field(default_factory=dict)  # backbones that shards share

    @cached_property
    def intervals(self) -> Intervals | None:
        return None if self.card.intervals is None else Intervals(self.card.intervals.calibration)

    @cached_property
    def state_model(self) -> StateModel | None:
        return None if self.card.state_rule is None else StateModel.from_json(self.card.state_model or {})

    @property
    def fits(self) -> frozenset[Fit]:
        """By which photographs are seen."""
        banks = [one.bank.fit for one in (self.likeness, self.state_model) if one is not None]
        return frozenset([*banks, *(member.fit for member in self.members)])

    @property
    def member_limit(self) -> int:
        """Bytes of one member's models that may stay in memory."""
        return IN_MEMORY // max(1, len(self.members))


def is_bundle(where: str) -> bool:
    return "://" not in where and (Path(where).expanduser() / MARKER).is_file()


def open_blend(place: BlendPlace) -> OpenBlend:
    """Raises LedgerError, BundleError or UserError: no such ensemble, members that are files, other weights, a package
    that a member needs and that is not here."""
    blend = _of_bundle(place) if is_bundle(place.where) else _of_study(place)
    require_packages(blend.members)
    return blend


def with_likeness(blend: OpenBlend, encoder: Encoder) -> OpenBlend:
    """The blend of a study, once embeddings of the training photographs are kept. LedgerError for other photographs."""
    ledger = open_ledger(blend.place.where)
    refs = ledger.ensemble(blend.name).trials
    keep_likeness(ledger, blend.card, refs, encoder)
    return replace(blend, likeness=kept_likeness(ledger, blend.card, refs))


def _of_study(place: BlendPlace) -> OpenBlend:
    ledger = open_ledger(place.where)
    name = place.ensemble or _newest(ledger)
    record = ledger.ensemble(name)
    card, refs = Card.from_json(record.card), record.trials
    if files := [member for member in card.members if member not in refs]:
        raise LedgerError(
            f"photographs are predicted by trials, members {', '.join(files[:3])} came as files; blend the study alone"
        )
    own = StudyData(ledger)
    source = source_of_trials([refs[member] for member in card.members], place.weights)
    if card.state_rule is not None:
        source = source_of_bank(source, StateModel.from_json(card.state_model or {}).bank)
    return OpenBlend(
        place=BlendPlace(ledger.storage.uri, name, place.weights),
        name=name,
        study=ledger.storage.uri,
        card=card,
        card_id=content_id(record.card),
        study_card=content_id(record.card),
        members=tuple(_member(member, refs[member], card.all_rows) for member in card.members),
        source=source,
        measured=own.measured,
        mass_unit=own.record.mass_unit,
        photograph_size=own.record.photograph_size,
        likeness=kept_likeness(ledger, card, refs),
    )


def _newest(ledger: Ledger) -> str:
    newest = newest_of(each for each in stored_ensembles(StudyData(ledger)) if each.card is not None)
    if newest is None:
        raise LedgerError(
            f"photographs are predicted by a stored blend, {ledger.storage.uri} has none that this version can "
            f"read; make one: biomass ensemble {ledger.storage.uri}"
        )
    return newest.name


def _member(name: str, ref: TrialRef, all_rows: str) -> OpenMember:
    ledger = Ledger(Storage(ref.study))
    record = ledger.trial(ref.trial_id)
    return OpenMember(
        name=name,
        family=record.family,
        config=record.config,
        fit=ledger.study().settings.fit,
        read=lambda: (model for _, model in predicting_models(ledger, ref.trial_id, all_rows)),
    )


def _of_bundle(place: BlendPlace) -> OpenBlend:
    folder = Path(place.where).expanduser()
    marker = read_bundle(folder)
    if place.ensemble is not None and place.ensemble != marker.ensemble:
        raise UserError(f"the bundle {folder} holds the ensemble {marker.ensemble}, got --ensemble {place.ensemble}")
    weights = folder / WEIGHTS
    if place.weights is not None and place.weights.folder is not None:
        weights = place.weights.folder
    likeness = None
    if marker.likeness is not None and marker.embeddings is not None:
        likeness = stored_likeness(marker.likeness, pd.read_parquet(folder / marker.embeddings))

    def reader(paths: Sequence[str]) -> Callable[[], Iterator[bytes]]:
        return lambda: ((folder / path).read_bytes() for path in paths)

    return OpenBlend(
        place=BlendPlace(str(folder.resolve()), marker.ensemble, place.weights),
        name=marker.ensemble,
        study=marker.study,
        card=Card.from_json(marker.card),
        card_id=content_id(marker.card),
        study_card=marker.study_card or content_id(marker.card),
        members=tuple(
            OpenMember(
                name=member.name, family=member.family, config=member.config, fit=member.fit, read=reader(member.models)
            )
            for member in marker.members
        ),
        source=weights_of(marker.backbones, weights),
        measured=marker.measured,
        mass_unit=marker.mass_unit,
        photograph_size=marker.photograph_size,
        likeness=likeness,
    )
