"""The command that writes a study as one page."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from biomass_models.errors import UserError
from orchestration.commands.options import OptionalData, Study, out_file, print_line, print_remark


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
    from orchestration.report.make import make_report
    from orchestration.study.data_changes import data_notices
    from orchestration.study.ledger import open_ledger
    from orchestration.study.storage import Storage

    ledger = open_ledger(study)
    path = out or Path(f"{PurePosixPath(ledger.storage.uri).name}-report.html")
    if path.is_dir():
        raise UserError(f"--out is the HTML file to write, {path} is a folder; give {path / 'report.html'}")
    out_file(path, ".html")
    if data is not None:
        for change in data_notices(ledger, data):
            print_remark(f"warning: {change}")
    others = [open_ledger(other) for other in compare or ()]
    content = make_report(ledger, data, others, print_remark, ensemble=ensemble).encode()
    Storage(path.parent).write(path.name, content)
    print_line(f"Wrote {path} ({len(content) / 1e6:.1f} MB); it opens in any browser, without network")
