"""What timm was found to say of names and of weights files, noted on this machine, so that it need not be loaded again
to say it: torch and timm take seconds of a search that computes nothing itself.

Derived from what is installed: the file may be deleted at any time, and one of another timm, torch or code is not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from biomass_models.hashes import hash_of
from biomass_models.whole_files import write_whole

FOLDER = "backbones"
_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextlib.contextmanager
def notes_in(folder: Path) -> Iterator[None]:
    """Inside, `noted` reads and writes notes in a folder of this machine."""
    before = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(before)


def noted(kind: str, key: str, found: Callable[[], str]) -> str:
    """What was found for a key; `found` is called where there is no note of it. What it raises is not noted.

    kind: of the keys, such as "name".
    """
    folder = _folder.get()
    if folder is None:
        return found()
    path = folder / FOLDER / f"{_of_what()}.json"
    note = _read(path).get(kind, {}).get(key)
    if note is None:
        note = found()
        notes = _read(path)
        notes.setdefault(kind, {})[key] = note
        with contextlib.suppress(OSError):  # a full disk, or one that is only read: it is found again
            write_whole(path, json.dumps(notes, indent=1, sort_keys=True).encode())
    return note


def _read(path: Path) -> dict[str, dict[str, str]]:
    """The notes of a file; none where it is away, torn, or not of this form."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        kind: {key: note for key, note in notes.items() if isinstance(note, str)}
        for kind, notes in content.items()
        if isinstance(notes, dict)
    }


def _of_what() -> str:
    """Names what the notes depend on: the packages, and the code here."""
    own = hashlib.blake2b(digest_size=8)
    for file in sorted(files(__package__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            own.update(file.read_bytes())
    return hash_of({**{name: version(name) for name in ("timm", "torch")}, "code": own.hexdigest()})
