"""Which backbones can be used: those whose weights are here. Where the weights of a study's trials come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from biomass_models.backbones.weights import (
    WeightsError,
    WeightsFileError,
    WeightsSource,
    canonical_name,
    fingerprint,
    verify_weights,
)
from orchestration.progress import Say
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import StudyRecord, TrialRef
from orchestration.study.storage import Storage
from search_spaces.spaces import DEFAULT_BACKBONES


def available_backbones(asked: tuple[str, ...], source: WeightsSource, say: Say) -> dict[str, str]:
    """Fingerprint of the weights of each backbone; those the user named must all be there, of the default ones some.

    Raises WeightsError that says which file to put where.
    """
    found, missing = _fingerprints(asked or DEFAULT_BACKBONES, source)
    if missing and (asked or not found):
        raise WeightsError("\n".join(missing.values()))
    for reason in missing.values():
        say(f"Left out of the search, because its weights are not here: {reason}")
    return found


def backbones_of_study(record: StudyRecord, source: WeightsSource, say: Say) -> dict[str, str]:
    """Fingerprint of each of a study's backbones whose weights are here.

    What is not here waits: its open trials stay open, and no trial with it is proposed. Raises WeightsError where
    none is here.
    """
    found, missing = _fingerprints(record.settings.backbones, source)
    if not found:
        raise WeightsError("\n".join(missing.values()))
    for name, reason in missing.items():
        say(f"Weights of {name} are not here: its open trials wait, the others go on ({reason})")
    return found


def source_of_study(record: StudyRecord) -> WeightsSource | None:
    """Where the weights of a study came from when it was made; None for a folder that is not there any more."""
    if record.settings.weights != "folder":
        return WeightsSource(kind=record.settings.weights)
    folder = record.made_with.overrides.get("weights")
    return WeightsSource("folder", Path(folder)) if folder and Path(folder).is_dir() else None


def searched_source(ledger: Ledger) -> WeightsSource:
    """Where a study's weights came from, or `auto` where that is not there any more."""
    return source_of_study(ledger.study()) or WeightsSource()


def source_of_trials(refs: Iterable[TrialRef], typed: WeightsSource | None) -> WeightsSource:
    """The source with the weights that these trials were trained on: as typed, else that of their search.

    Raises LedgerError where it has none or others, and where searches had different ones.
    """
    refs = tuple(refs)
    found = {ref.study: typed or searched_source(Ledger(Storage(ref.study))) for ref in refs}
    if len(others := list(dict.fromkeys(found.values()))) > 1:
        raise LedgerError(
            f"members of a blend take their weights from one source, got {' and '.join(map(_named, others))} (as "
            "searched); name one that has all with --weights, or blend the studies apart"
        )
    for ref in refs:
        _require_same_weights(ref, found[ref.study], typed=typed is not None)
    return others[0] if others else WeightsSource()


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
