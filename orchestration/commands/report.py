"""The command that writes a study as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands.options import OptionalData, Study, print_line, print_remark


def report(
    study: Study,
    data: OptionalData = None,
    out: Annotated[Path | None, typer.Option(help="HTML file to write; STUDY-report.html without it.")] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="STUDY2", help="Study of the same images, searched with other folds; repeat."),
    ] = None,
    ensemble: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stored ensemble to show; the newest that fits without it.")
    ] = None,
) -> None:
    """Write a study as one page.

    What is best, how sure that is, why the others lost, which images fail. One
    HTML file that needs no network; with --data it shows the worst photographs.

    Example:
    $ biomass report runs/first --data csiro-biomass/ --out report.html
    """
    from orchestration.report.make import write_report
    from orchestration.study.ledger import open_ledger

    others = [open_ledger(other) for other in compare or ()]
    path, size = write_report(open_ledger(study), out, data, others, print_remark, ensemble=ensemble)
    print_line(f"Wrote {path} ({size / 1e6:.1f} MB); it opens in any browser, without network")
