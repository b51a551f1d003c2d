"""Where a node keeps features: the folder that is named, or one of the user's where that cannot be. Torch-free."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from biomass_models.features.rows import CacheError
from biomass_models.file_locks import lock_problem, own_temp_folder

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = (*READ_ONLY, errno.ENOENT)  # the machine's doing, not a wrong name


def usable_cache(asked: Path) -> tuple[Path, str]:
    """The folder in which this node keeps features, and why it is not the one that was asked for ("" if it is).

    A folder that may not be made or written, or has no file locks, is replaced by one of this user's in the temporary
    folder. One that others have filled is read as it is. Raises CacheError for a wrong name, a full disk, and where not
    even the replacement can be made.
    """
    try:
        folder = asked.expanduser()
        if not (why := _problem(folder)):
            return folder, ""
    except RuntimeError:
        why = "this user has no home directory"
    except OSError as error:
        raise _unusable(asked, error) from error
    try:
        instead = own_temp_folder("cache")
    except OSError as error:
        raise _unusable(asked, error) from error
    return instead, f"features cannot be kept in {asked} ({why}), and are kept in {instead}"


def require_usable(folder: Path) -> None:
    """Raise CacheError where a folder that was usable is so no more: what lies in it is not looked for elsewhere."""
    try:
        why = _problem(folder)
    except OSError as error:
        raise _unusable(folder, error) from error
    if why:
        raise _unusable(folder, why)


def _problem(folder: Path) -> str:
    """Why this machine cannot keep files in a folder, which is made; "" where it can. OSError for any other reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"here")
        why = lock_problem(folder)
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise
        if error.errno in READ_ONLY and folder.is_dir() and any(folder.iterdir()):
            return ""
        return os.strerror(error.errno).lower()
    return f"files there cannot be locked: {why}" if why else ""


def _unusable(folder: Path, why: OSError | str) -> CacheError:
    if isinstance(why, OSError):
        why = os.strerror(why.errno).lower() if why.errno else str(why)
    return CacheError(
        f"the feature cache must be a folder that can be written, got {folder}: {why}; give --cache (or BIOMASS_CACHE) "
        "a folder on a disk of this machine that has room"
    )
