"""What a prediction and a bundle record about themselves, so that `biomass trace` finds the way back from the file."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from biomass_models.whole_files import write_whole
from orchestration.answers.opened import OpenBlend, is_bundle
from orchestration.study import layout
from orchestration.study.derived.blends import GivenRecord, TestSet
from orchestration.study.environment import code_version
from orchestration.study.ledger import open_ledger
from orchestration.study.records import WrittenFile
from orchestration.study.seeds import content_id


def note_written(blend: OpenBlend, path: Path, sha256: str, size: int, *, photographs: tuple[str, ...]) -> None:
    """In the study, or beside the file: of a bundle, and of a study that cannot be written."""
    record = _record(blend, path.name, sha256, size, photographs)
    if not is_bundle(blend.place.where):
        try:
            open_ledger(blend.place.where).write_given(record)
            return
        except OSError:  # a study that others own is read as it is
            pass
    _write_beside(path, record)


def note_beside(blend: OpenBlend, path: Path, content: bytes, *, photographs: tuple[str, ...]) -> None:
    """As `<file>.origin.json`, of a study too: of what a server writes, which leaves studies as they are."""
    digest = hashlib.sha256(content).hexdigest()
    _write_beside(path, _record(blend, path.name, digest, len(content), photographs))


def _record(blend: OpenBlend, name: str, sha256: str, size: int, photographs: tuple[str, ...]) -> GivenRecord:
    return GivenRecord(
        kind="prediction",
        ensemble=blend.name,
        card=blend.study_card,
        created_at=time.time(),
        code=code_version(),
        file=WrittenFile(name=name, bytes=size, sha256=sha256),
        photographs=TestSet(images=len(photographs), rows=content_id(*photographs)),
        study=blend.study,
    )


def _write_beside(path: Path, record: GivenRecord) -> None:
    content = json.dumps(record.to_json(), indent=1, allow_nan=False) + "\n"
    write_whole(path.with_name(f"{path.name}{layout.ORIGIN}"), content.encode())
