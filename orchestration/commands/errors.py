"""The boundary of the command line: what goes wrong becomes one paragraph; the traceback only with --debug."""

from __future__ import annotations

import sys
from collections.abc import Callable

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
