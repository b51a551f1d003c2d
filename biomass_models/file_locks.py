"""Which folders have the kernel's file locks, and where features are kept when the folder that was named has none.

Lustre without `-o flock`, NFS without a lock service and some FUSE mounts refuse `flock`. Torch-free.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def lock_problem(folder: Path) -> str:
    """Why files in an existing folder cannot be locked, tried on one of them; "" where they can."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return os.strerror(error.errno).lower()
    return ""


def usable_cache(asked: Path) -> tuple[Path, str]:
    """The folder in which this node keeps features, and why it is not the one that was asked for ("" if it is).

    A folder that cannot be made, written or locked is replaced by one of this user's in the temporary folder. One that
    others have filled is read as it is. Raises OSError where not even the replacement can be made.
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
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise
        if folder.is_dir() and any(folder.iterdir()):
            return folder, ""
        why = os.strerror(error.errno).lower()
    instead = own_temp_folder("cache")
    return instead, f"features cannot be kept in {asked} ({why}), and are kept in {instead}"


def own_temp_folder(purpose: str) -> Path:
    """A folder of this user's in the temporary folder, the same for each of its processes; nobody else may enter it."""
    folder = Path(tempfile.gettempdir()) / f"biomass-{purpose}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "the folder belongs to somebody else; name another in TMPDIR", str(folder))
    return folder
