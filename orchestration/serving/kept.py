"""`--keep DIR`: photographs of requests and their masses, each request in a folder of its own, names all of ours."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from biomass_models.whole_files import whole_folder
from orchestration.answers.opened import OpenBlend
from orchestration.answers.written import note_beside
from orchestration.serving.answer import Answer
from orchestration.serving.uploads import Upload

MASSES, ANSWER = "masses.csv", "answer.json"


def keep(folder: Path, blend: OpenBlend, uploads: Sequence[Upload], answer: Answer) -> Path:
    """Returns the new folder, which appears whole; its masses can be traced. Raises OSError."""
    own = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    files = []
    with whole_folder(own) as temporary:
        for upload, one in zip(uploads, answer.photographs, strict=True):
            if one.unreadable is None:
                shutil.copyfile(upload.path, temporary / upload.path.name)
            files.append(None if one.unreadable else upload.path.name)
        (temporary / MASSES).write_bytes(answer.table)
        note_beside(blend, temporary / MASSES, answer.table, photographs=answer.digests)
        content = answer.to_json()
        for photograph, file in zip(content["photographs"], files, strict=True):
            photograph["file"] = file
        (temporary / ANSWER).write_text(json.dumps(content, indent=1, allow_nan=False))
    return own
