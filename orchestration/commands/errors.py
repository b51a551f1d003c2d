"""The boundary of the command line: what goes wrong becomes one paragraph; the traceback only with --debug."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from orchestration.commands.options import INTERRUPTED, err_console, say
from orchestration.endings import debugging, explained


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
        err_console.print(text, style="red", highlight=False, soft_wrap=True)
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
        err_console.print(text, style="red", highlight=False, soft_wrap=True)
    return int(error.exit_code)
