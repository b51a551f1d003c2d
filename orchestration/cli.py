"""The command line: its commands in the order in which a study uses them.

Each parses, builds settings and calls one function. Heavy packages load inside the commands, so that help and file
checks need neither torch nor Ray.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from orchestration.commands import (
    answers,
    blend,
    dashboard,
    data,
    presets,
    provenance,
    report,
    search,
    space,
    start,
    study,
    weights,
)
from orchestration.commands.errors import run_guarded, wrong_usage
from orchestration.commands.options import INTERRUPTED, print_line
from orchestration.endings import DEBUG
from orchestration.old_names import COMMANDS, OPTIONS
from orchestration.verbosity import set_verbosity
from orchestration.workers.machine import complete_user, require_working_directory

QUIET, VERBOSE = ("--quiet", "-q"), ("--verbose", "-v")


class OwnSpelling:
    """Takes old spellings of options, paths that no shell wrote out, --quiet and --verbose as `biomass` itself does."""

    params: list[Any]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed, rest = _until_dashes(args)
        own = {option for parameter in self.params for option in parameter.opts}
        volume = {word for word in typed if word in (*QUIET, *VERBOSE)} - own
        if volume:
            before = ctx.find_root().params
            quiet = bool(before.get("quiet") or volume & set(QUIET))
            set_volume(quiet=quiet, verbose=bool(before.get("verbose") or volume & set(VERBOSE)))
        known = [_of_today(word, own) for word in typed if word not in volume] + rest
        return super().parse_args(ctx, list(map(_written_out, known)))  # type: ignore[misc]


class OwnCommand(OwnSpelling, TyperCommand):
    """A command."""


class OwnGroup(OwnSpelling, TyperGroup):
    """A command that does something by itself, and has others."""


def _until_dashes(args: list[str]) -> tuple[list[str], list[str]]:
    """What may be options, and what follows a `--`."""
    end = args.index("--") if "--" in args else len(args)
    return args[:end], args[end:]


def _written_out(word: str) -> str:
    """A path under the home directory as shells hand it on; they leave one in quotes, and mostly that of --name=~/path,
    as it is."""
    name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{name}{equals}{Path.home()}{value[1:]}" if value == "~" or value.startswith("~/") else word


def _of_today(word: str, own: set[str]) -> str:
    name, equals, value = word.partition("=")
    new = OPTIONS.get(name, name)
    return f"{new}{equals}{value}" if new in own else word


def set_volume(*, quiet: bool, verbose: bool) -> None:
    """Raises BadParameter for both, wherever each was typed."""
    if quiet and verbose:
        raise typer.BadParameter("a command is quiet or verbose, got both: give -q or -v")
    set_verbosity(quiet=quiet, verbose=verbose)


data_app = typer.Typer(name="data", no_args_is_help=True, help="Check, draw and show data directories.")
data_app.command("check", cls=OwnCommand)(data.data_check)
data_app.command("import", cls=OwnCommand)(data.data_import)
data_app.command("make", cls=OwnCommand)(data.data_make)
data_app.command("show", cls=OwnCommand)(data.data_show)
submission_app = typer.Typer(name="submission", no_args_is_help=True, help="Check submission files.")
submission_app.command("check", cls=OwnCommand)(data.submission_check)

weights_app = typer.Typer(name="weights", cls=OwnGroup, help="Backbone weights: which are here, and getting some.")
weights_app.callback(invoke_without_command=True)(weights.weights)
weights_app.command("get", cls=OwnCommand)(weights.get)

# The pipeline in run order, under the headings of `biomass --help`.
PIPELINE: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Start": (start.demo, presets.presets, weights_app, data_app, search.doctor),
    "Search": (space.space, search.search, study.status, dashboard.dashboard),
    "Look": (
        study.leaderboard,
        study.show,
        report.report,
        study.audit,
        study.repair,
        provenance.refit,
        study.replay,
        blend.explain,
    ),
    "Blend and submit": (blend.ensemble, blend.exam, submission_app, blend.export, provenance.trace, data.score),
    "New photographs": (answers.predict, answers.serve, answers.next, answers.learning_curve),
}


USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # click's, which typer carries along or not


class RunOrder(TyperGroup):
    """Lists commands as the pipeline does."""

    def list_commands(self, ctx: Any) -> list[str]:
        steps = (step for panel in PIPELINE.values() for step in panel)
        names = (step.info.name if isinstance(step, typer.Typer) else step.__name__ for step in steps)
        return [str(name).replace("_", "-") for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, COMMANDS.get(cmd_name, cmd_name))

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
    context_settings={"help_option_names": ["--help", "-h"]},
    help="""Pasture biomass from photographs: check data, search, compare, blend, submit.

Exit codes: 0 done; 1 bad input, or a check that found something (the message
says what to do); 2 wrong usage; 70 a bug; 130 stopped by Ctrl-C, 143 by
SIGTERM, 129 by SIGHUP (run the same command again to resume).

Commands that print a table or a list take --json: docs/commands.md has the
fields. Tab completion: biomass --install-completion.

Example:
$ biomass demo
""",
)


def print_version(typed: bool) -> None:
    """Print the version, and of code in a checkout its commit, and leave."""
    if not typed:
        return
    from orchestration.study.environment import code_version

    code = code_version()
    changed = ", changed since" if code.changed else ""
    print_line(f"biomass {code.version}{f' (commit {code.commit[:12]}{changed})' if code.commit else ''}")
    raise typer.Exit


@app.callback()
def every_command(
    quiet: Annotated[bool, typer.Option(*QUIET, help="Only results and errors; before or after COMMAND.")] = False,
    verbose: Annotated[
        bool, typer.Option(*VERBOSE, help="Also print chosen settings and Ray's log, before or after COMMAND.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", envvar=DEBUG)] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"
    set_volume(quiet=quiet, verbose=verbose)


for panel, steps in PIPELINE.items():
    for step in steps:
        if isinstance(step, typer.Typer):
            app.add_typer(step, rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel, cls=OwnCommand)(step)


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
