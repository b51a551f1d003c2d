"""What a card records about where a submission comes from (derived/blends.Origin)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from biomass_models.data.table import train_file
from ensembles.card import Card
from ensembles.members.file_names import named_files
from orchestration.blending.members import FileMembers, Gathered
from orchestration.study.derived.blends import Origin, TestSet
from orchestration.study.environment import code_version
from orchestration.study.records import FoundFile, TrialRef, WrittenFile
from orchestration.study.seeds import content_id


def origin_of(
    card: Card,
    gathered: Gathered,
    files: FileMembers,
    *,
    image_ids: Sequence[str] | None,
    photographs: str | None,
    submission: tuple[str, bytes] | None,
    created_at: float,
) -> Origin:
    """created_at: one for all cards of a command, seconds since 1970; image_ids, photographs: of the test set and its
    fingerprint; submission: file name and content.
    """
    found = {"oof": named_files(files.oof), "test": named_files(files.tests)}
    members: dict[str, dict[str, FoundFile]] = {}
    for kind, paths in found.items():
        for name in card.members:
            if name not in gathered.trials and name in paths:
                members.setdefault(name, {})[kind] = _file(paths[name])
    return Origin(
        created_at=created_at,
        code=code_version(),
        submission=None if submission is None else _written(*submission),
        test=(
            None
            if image_ids is None
            else TestSet(images=len(image_ids), rows=content_id(*image_ids), photographs=photographs)
        ),
        truth=None if files.truth is None else _file(_table_of(files.truth)),
        trials=_trials(card.members, gathered),
        files=members,
    )


def _trials(members: Mapping[str, float], gathered: Gathered) -> dict[str, TrialRef]:
    return {name: gathered.trials[name] for name in members if name in gathered.trials}


def _table_of(truth: Path) -> Path:
    """The table of a data directory; any other truth is one."""
    return truth / train_file(truth) if truth.is_dir() else truth


def _file(path: Path) -> FoundFile:
    content = path.read_bytes()
    return FoundFile(path=str(path.resolve()), bytes=len(content), sha256=_digest(content))


def _written(name: str, content: bytes) -> WrittenFile:
    return WrittenFile(name=name, bytes=len(content), sha256=_digest(content))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
