"""What a card records about where a submission comes from, so that `biomass trace` finds the way back from the file.

created_at    seconds since 1970
code          version, source hash, commit (environment.code_version)
submission    file name, bytes, sha256 of the submission; None for a card alone
test          how many images; `rows` hashes their ids; `photographs` their contents, where trials predicted them
truth         path and sha256 of the measured masses, where they came as a file
trials        member -> [study, trial id]
files         member -> {"oof": {path, sha256}, "test": {path, sha256}}, where it came as files
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensembles.card import Card
from ensembles.file_names import named_files
from orchestration.environment import code_version
from orchestration.members import FileMembers, Gathered
from orchestration.seeds import content_id


def origin_of(
    card: Card,
    gathered: Gathered,
    files: FileMembers,
    *,
    image_ids: Sequence[str] | None,
    photographs: str | None,
    submission: tuple[str, bytes] | None,
) -> dict[str, Any]:
    """JSON-able. image_ids, photographs: of the test set and its fingerprint; submission: file name and content."""
    found = {"oof": named_files(files.oof), "test": named_files(files.tests)}
    members: dict[str, dict[str, Any]] = {}
    for kind, paths in found.items():
        for name in card.members:
            if name not in gathered.trials and name in paths:
                members.setdefault(name, {})[kind] = _file(paths[name])
    test = None
    if image_ids is not None:
        test = {"images": len(image_ids), "rows": content_id(*image_ids), "photographs": photographs}
    return {
        "created_at": time.time(),
        "code": code_version(),
        "submission": None if submission is None else {"name": submission[0], **_content(submission[1])},
        "test": test,
        "truth": None if files.truth is None else _file(files.truth),
        "trials": _trials(card.members, gathered),
        "files": members,
    }


def _trials(members: Mapping[str, float], gathered: Gathered) -> dict[str, list[str]]:
    refs = {name: gathered.trials[name] for name in members if name in gathered.trials}
    return {name: [ref.study, ref.trial_id] for name, ref in refs.items()}


def _file(path: Path) -> dict[str, Any]:
    return {"path": str(path.resolve()), **_content(path.read_bytes())}


def _content(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
