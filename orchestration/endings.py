"""What a command says when it cannot go on, and with which exit code: one paragraph from an exception.

Only UserError, what the operating system refuses and what Ray or an object store do not answer are the user's to mend
(exit code 1); every other exception is a bug and says so (exit code 70). Light: a bundle's predict.py uses it too.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback

from biomass_models.errors import StoreError, UserError

BAD_INPUT, BUG = 1, 70
DEBUG = "BIOMASS_DEBUG"  # --debug sets it, so that worker processes know as well
REMEDIES = {  # rule and remedy for what the operating system refuses
    errno.ENOSPC: ("a command needs room on the disk", "make room, or name another folder; what was finished is kept"),
    errno.EDQUOT: ("a command needs room in the quota", "make room, or name another folder; what was finished is kept"),
    errno.EACCES: ("files and folders must be ours to use", "check owner and mode, or name another folder"),
    errno.EPERM: ("files and folders must be ours to use", "check owner and mode, or name another folder"),
    errno.EROFS: ("a command writes into its folder", "name a folder on a disk that is mounted for writing"),
    errno.ENOENT: ("files and folders that are named must be there", "check the path"),
    errno.ENOTDIR: ("a folder is needed", "one part of the path is a file: move it away, or name another folder"),
    errno.EEXIST: ("a folder is needed", "a file has its name: move it away, or name another folder"),
    errno.ENOLCK: ("processes share a folder by file locks", "name one on a disk that has them (--cache, TMPDIR)"),
    errno.EISDIR: ("a file is needed", "name a file in that folder"),
}
OTHERWISE = ("the operating system must allow it", "check the path, the disk and the network")


def debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def explained(error: BaseException) -> tuple[str, int]:
    """One paragraph about an exception, and the exit code that goes with it."""
    error = _unwrapped(error)
    if isinstance(error, UserError | StoreError):
        return f"error: {error}", BAD_INPUT
    if isinstance(error, OSError) and error.errno is not None:
        rule, remedy = REMEDIES.get(error.errno, OTHERWISE)
        where = f": {error.filename}" if error.filename else ""
        return f"error: {rule}, got {os.strerror(error.errno).lower()}{where}; {remedy}", BAD_INPUT
    if isinstance(error, OSError) and _raised_in(error) == "pyarrow":
        return f"error: {StoreError.of(error)}", BAD_INPUT
    if _is_of_ray(error):
        from orchestration.workers.cluster import refusal

        return f"error: {refusal(error)}", BAD_INPUT
    kind = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
    return (
        f"error: this is a bug: {kind}: {_in_a_line(error)}; run `biomass --debug ...` again and report what it prints",
        BUG,
    )


def _unwrapped(error: BaseException) -> BaseException:
    """What Ray wraps: the exception of a worker, or that on which Tune gave up."""
    while type(error).__module__.partition(".")[0] == "ray":
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, Exception):
            break
        error = inner
    return error


def _is_of_ray(error: BaseException) -> bool:
    """Whether Ray itself reports a lost node, actor or connection; a process without Ray has no such error."""
    ray = sys.modules.get("ray.exceptions")
    return ray is not None and isinstance(error, ray.RayError)


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _raised_in(error: BaseException) -> str:
    """Top package whose code raised it; empty for an exception that came from another process."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")).partition(".")[0] if frames else ""
