"""What people see when a command cannot go on: one paragraph and an exit code; the traceback only with --debug.

An error that this project raises itself is the user's to mend, as is one of the operating system; any other exception
is a bug, or a file so damaged that a library stumbled over it, and says so.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from orchestration.commands.options import INTERRUPTED, err_console, say

BAD_INPUT, BUG = 1, 70
DEBUG = "BIOMASS_DEBUG"  # --debug sets it, so that worker processes know as well
PACKAGES = ("biomass_models", "ensembles", "orchestration", "search_spaces")
REMEDIES = {  # rule and remedy for what the operating system refuses
    errno.ENOSPC: ("a command needs room on the disk", "make room, or name another folder; what was finished is kept"),
    errno.EDQUOT: ("a command needs room in the quota", "make room, or name another folder; what was finished is kept"),
    errno.EACCES: ("files and folders must be ours to use", "check owner and mode, or name another folder"),
    errno.EPERM: ("files and folders must be ours to use", "check owner and mode, or name another folder"),
    errno.EROFS: ("a command writes into its folder", "name a folder on a disk that is mounted for writing"),
    errno.ENOENT: ("what is read must be there", "check the path"),
    errno.ENOTDIR: ("a folder is needed", "one part of the path is a file: move it away, or name another folder"),
    errno.EEXIST: ("a folder is needed", "a file has its name: move it away, or name another folder"),
    errno.EISDIR: ("a file is needed", "name a file in that folder"),
}


def run_guarded(command: Callable[[], None]) -> None:
    """Run the command line and leave the process with what went wrong as one paragraph."""
    try:
        command()
    except KeyboardInterrupt:
        say("Stopped.")
        sys.exit(INTERRUPTED)
    except Exception as error:  # the boundary to the user
        if debugging():
            raise
        text, code = explained(error)
        err_console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(code)


def wrong_usage(error: Any) -> int:
    """Print what click found wrong with a command line as one paragraph; returns the exit code."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        where = context.command_path if context is not None else "biomass"
        said = " ".join(error.format_message().split()).rstrip(".")
        text = f"error: {said}; {where} --help shows how"
        err_console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    return int(error.exit_code)


def debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def explained(error: Exception) -> tuple[str, int]:
    """One paragraph about an exception, and the exit code that goes with it."""
    cause = getattr(error, "cause", None)  # Ray wraps what a worker raised
    if isinstance(cause, Exception):
        error = cause
    if isinstance(error, OSError) and error.errno in REMEDIES:
        rule, remedy = REMEDIES[error.errno]
        where = f": {error.filename}" if error.filename else ""
        return f"error: {rule}, got {os.strerror(error.errno).lower()}{where}; {remedy}", BAD_INPUT
    where_from = _raised_in(error)
    if where_from == "ray":
        from orchestration.doctor import unreachable

        found = unreachable(error)
        return f"error: Ray must start, answer and stay, got {found.text}; {found.remedy}", BAD_INPUT
    if isinstance(error, OSError) and where_from == "pyarrow" and error.errno is None:
        said = " ".join(str(error).split())[:400]
        remedy = "check bucket, region, credentials and network"
        return f"error: a study on an object store must be reachable, got: {said}; {remedy}", BAD_INPUT
    if isinstance(error, OSError) or (isinstance(error, ValueError) and where_from in (*PACKAGES, "")):
        return f"error: {error}", BAD_INPUT
    kind = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
    said = " ".join(str(error).split())
    return (
        f"error: this is a bug, or a damaged file: {kind}: {said[:500]}; run `biomass --debug ...` again "
        "and report what it prints",
        BUG,
    )


def _raised_in(error: Exception) -> str:
    """Top package whose code raised it; empty for an exception that came from another process."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")).partition(".")[0] if frames else ""
