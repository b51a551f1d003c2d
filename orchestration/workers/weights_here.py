"""Which backbones can be used: those whose weights are here."""

from __future__ import annotations

from collections.abc import Sequence

from biomass_models.backbones.weights import (
    WeightsError,
    WeightsFileError,
    WeightsSource,
    canonical_name,
    fingerprint,
    verify_weights,
)
from orchestration.progress import Say
from orchestration.study.records import StudyRecord
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
