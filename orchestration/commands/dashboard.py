"""The command that shows a study live in tools that people know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.commands.options import Json, Study, print_json, print_line, print_remark
from orchestration.interrupts import say_way_back

if TYPE_CHECKING:
    from orchestration.dashboard.serve import Addresses


def dashboard(
    study: Study,
    host: Annotated[str, typer.Option(help="Address to listen on; another than loopback lets others read.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65534, help="Port of optuna-dashboard, TensorBoard has the next; default: free ones."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a study in optuna-dashboard and TensorBoard, live, until Ctrl-C.

    Follows the study's files, from any machine that sees them, and writes
    nothing into it. Ends with exit code 0.

    Example:
    $ biomass dashboard runs/first
    """
    say_way_back("the same command shows them again")
    from orchestration.dashboard.serve import run_dashboard

    def show(addresses: Addresses) -> None:
        if as_json:
            print_json(addresses)
            return
        print_line(f"optuna-dashboard  {addresses.optuna}")
        print_line(f"TensorBoard       {addresses.tensorboard}")
        if addresses.ray is not None:
            print_line(f"Ray               {addresses.ray}")
        print_remark("Ctrl-C stops them.")

    run_dashboard(study, host=host, port=port, show=show, say=print_remark)
    print_remark("Stopped.")
