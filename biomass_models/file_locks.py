"""Which folders have the kernel's file locks, and a folder of the user's that has them.

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
