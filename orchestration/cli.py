"""The command line: its commands in the order in which a study uses them.

Each parses, builds settings and calls one function. Heavy packages load inside the commands, so that help and file
checks need neither torch nor Ray.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from orchestration.commands import blend, dashboard, data, provenance, report, search, start, study
from orchestration.commands.errors import run_guarded, wrong_usage
from orchestration.commands.options import INTERRUPTED
from orchestration.endings import DEBUG
from orchestration.machine import complete_user, require_working_directory

data_app = typer.Typer(name="data", no_args_is_help=True, help="Check, draw and show data directories.")
data_app.command("check")(data.data_check)
data_app.command("make")(data.data_make)
data_app.command("show")(data.data_show)
submission_app = typer.Typer(name="submission", no_args_is_help=True, help="Check submission files.")
submission_app.command("check")(data.submission_check)

# The pipeline in run order, under the headings of `biomass --help`.
PIPELINE: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Start": (start.demo, start.recipes, data_app, search.doctor),
    "Search": (search.search, study.status, dashboard.dashboard),
    "Look": (
        study.leaderboard,
        report.report,
        study.audit,
        study.repair,
        provenance.refit,
        study.replay,
        blend.explain,
    ),
    "Blend and submit": (blend.ensemble, submission_app, blend.export, provenance.trace, data.score),
}


USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # click's, which typer carries along or not


class RunOrder(TyperGroup):
    """Lists commands as the pipeline does."""

    def list_commands(self, ctx: Any) -> list[str]:
        steps = (step for panel in PIPELINE.values() for step in panel)
        return [str(step.info.name if isinstance(step, typer.Typer) else step.__name__) for step in steps]

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; wrong usage is one line, as every other error is."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except USAGE_ERROR as error:
            if not standalone_mode:
                raise
            sys.exit(wrong_usage(error))
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)  # past click, which would print a line of its own


app = typer.Typer(
    name="biomass",
    cls=RunOrder,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="""Pasture biomass from photographs: check data, search, compare, blend, submit.

Exit codes: 0 done; 1 bad input, or a check that found something (the message
says what to do); 2 wrong usage; 70 a bug; 130 stopped by Ctrl-C, 143 by SIGTERM,
129 by SIGHUP (the same command goes on).

Commands that print a table or a list take --json: docs/commands.md has the
fields. Tab completion: biomass --install-completion.

Example:
$ biomass demo
""",
)


@app.callback()
def every_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", envvar=DEBUG)] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


for panel, steps in PIPELINE.items():
    for step in steps:
        if isinstance(step, typer.Typer):
            app.add_typer(step, rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel)(step)


def main() -> None:
    """Run the command line; what goes wrong becomes one paragraph and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without ± still gets its table
    run_guarded(run_app)


def run_app() -> None:
    """Parse and run, in a process that has a home and a user name, and a folder that is there."""
    complete_user(os.environ)
    require_working_directory()
    app(prog_name="biomass")
