"""The command that writes a study as one page."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from orchestration.commands.options import Study, tell


def report(
    study: Study,
    data: Annotated[Path | None, typer.Option(help="Data directory, for thumbnails of the worst images.")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file to write; STUDY-report.html without it.")] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="Study of the same images with other folds; repeat.")
    ] = None,
) -> None:
    """Write one self-contained page that tells a study's story.

    With --data it shows the photographs that the models get wrong.

    Example:
    $ biomass report runs/first --data csiro-biomass/ --out report.html
    """
    from orchestration.ledger import open_ledger
    from orchestration.report.make import make_report
    from orchestration.storage import Storage

    if data is not None and not data.is_dir():
        raise ValueError(f"--data is the folder with the photographs, {data} is none; check the path or leave it out")
    ledger = open_ledger(study)
    path = out or Path(f"{PurePosixPath(ledger.storage.uri).name}-report.html")
    if path.is_dir():
        raise ValueError(f"--out is the HTML file to write, {path} is a folder; give {path / 'report.html'}")
    content = make_report(ledger, data, [open_ledger(other) for other in compare or ()]).encode()
    Storage(path.parent).write(path.name, content)
    tell(f"Wrote {path} ({len(content) / 1e6:.1f} MB); it opens in any browser, without network")
