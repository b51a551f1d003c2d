"""The boundary of the command line: what goes wrong becomes one paragraph; the traceback only with --debug."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from orchestration.commands.options import INTERRUPTED, err_console
from orchestration.endings import debugging, explained
from orchestration.interrupts import RESUMES, Interrupts
from orchestration.processes import kill_own

KILL_SECONDS = 2.0  # for killed processes to be gone


def run_guarded(command: Callable[[], None]) -> None:
    """Run the command line and leave the process with what went wrong as one paragraph.

    Once a signal has come, whatever the command ends with is the end that was asked for.
    """
    interrupts = Interrupts()
    try:  # around the handlers as well: a signal may come while they are installed
        with interrupts.handled():
            command()
    except KeyboardInterrupt:
        _stop(interrupts)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED or (leaving.code and interrupts.first is not None):
            _stop(interrupts)
        raise
    except Exception as error:  # the boundary to the user
        if interrupts.first is not None:
            _stop(interrupts)
        if debugging():
            raise
        text, code = explained(error)
        err_console.print(text, style="red", highlight=False, soft_wrap=True)
        sys.exit(code)


def _stop(interrupts: Interrupts) -> NoReturn:
    """Say how to go on, and leave; no process that the command started stays."""
    kill_own(KILL_SECONDS)
    if interrupts.first is not None:
        interrupts.wait_for_acknowledgement()
    kept = " What was finished is kept;" if interrupts.way_back == RESUMES else ""
    text = f"Stopped.{kept} {interrupts.way_back}." if kept else f"Stopped; {interrupts.way_back}."
    err_console.print(text, highlight=False, soft_wrap=True)
    sys.exit(interrupts.exit_code)


def wrong_usage(error: Any) -> int:
    """Print what click found wrong with a command line as one paragraph; returns the exit code."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        where = context.command_path if context is not None else "biomass"
        problem = " ".join(error.format_message().split()).rstrip(".")
        text = f"error: {problem}; {where} --help shows how"
        err_console.print(text, style="red", highlight=False, soft_wrap=True)
    return int(error.exit_code)
