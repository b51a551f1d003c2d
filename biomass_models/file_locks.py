"""Which folders have the kernel's file locks, and where features are kept when the folder that was named has none.

Lustre without `-o flock`, NFS without a lock service and some FUSE mounts refuse `flock`. Torch-free.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # of this machine alone, and for everybody
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def lock_problem(folder: Path) -> str:
    """Why files in an existing folder cannot be locked, tried on one of them; "" where they can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return os.strerror(error.errno).lower()
        error.filename = str(folder)  # not the name that was tried
        raise
    return ""


def usable_cache(asked: Path) -> tuple[Path, str]:
    """The folder in which this node keeps features, and why it is not the one that was asked for ("" if it is).

    A folder that may not be made or written, or has no file locks, is replaced by one of this user's in the temporary
    folder. One that others have filled is read as it is, and a wrong name is not replaced. Raises OSError where not
    even the replacement can be made.
    """
    try:
        folder = asked.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if not (why := lock_problem(folder)):
            return folder, ""
        why = f"files there cannot be locked: {why}"
    except RuntimeError:
        why = "this user has no home directory"
    except OSError as error:
        if error.errno not in (*READ_ONLY, errno.ENOENT):  # a wrong name, no room: said by who uses it
            return asked.expanduser(), ""
        if error.errno in READ_ONLY and folder.is_dir() and any(folder.iterdir()):
            return folder, ""
        why = os.strerror(error.errno).lower()
    instead = own_temp_folder("cache")
    return instead, f"features cannot be kept in {asked} ({why}), and are kept in {instead}"


def own_temp_folder(purpose: str) -> Path:
    """A folder of this user's, the same for each of its processes, which nobody else may enter and has file locks.

    In the temporary folder where that will do. Raises OSError without any.
    """
    refused: list[OSError] = []
    for top in dict.fromkeys((tempfile.gettempdir(), *SHORT_FOLDERS)):
        folder = Path(top) / f"biomass-{purpose}-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise PermissionError(errno.EACCES, "it belongs to somebody else", str(folder))
            if why := lock_problem(folder):
                raise OSError(errno.ENOLCK, why, str(folder))
        except OSError as error:
            refused.append(error)
            continue
        return folder
    raise refused[0]
