"""`biomass report`: one study as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from biomass_models.errors import UserError
from orchestration.report.data.context import read_context
from orchestration.report.new_photographs.advice import advice_sections
from orchestration.report.new_photographs.intervals import intervals_section
from orchestration.report.page import page
from orchestration.report.sections.ensemble import ensemble_section
from orchestration.report.sections.folds import folds_section
from orchestration.report.sections.photographs import Photographs
from orchestration.report.sections.predictions import predictions_section
from orchestration.report.sections.provenance import provenance_section
from orchestration.report.sections.ranking import ranking_section
from orchestration.report.sections.search import search_section
from orchestration.study.data_changes import data_notices
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage


def make_report(
    ledger: Ledger,
    data_dir: Path | None = None,
    compare: Sequence[Ledger] = (),
    say: Callable[[str], None] = lambda text: None,
    *,
    ensemble: str | None = None,
) -> str:
    """The page. data_dir: for thumbnails of the worst images; compare: studies of the same images with other folds;
    ensemble: the stored one to show, by default the newest that fits.

    What is torn is left out, named in the page and passed to `say`. Raises LedgerError for a study that is not there
    or is about other images.
    """
    context = read_context(ledger, compare, ensemble)
    for notice in (*context.notices, *(notice for other in context.others for notice in other.torn)):
        say(f"note: {notice}")
    sections = (
        ranking_section(context),
        search_section(context),
        folds_section(context),
        predictions_section(context, Photographs(data_dir, context.study.settings.fit)),
        ensemble_section(context),
        intervals_section(context),
        *advice_sections(context),
        provenance_section(context),
    )
    return page(context, sections)


def write_report(
    ledger: Ledger,
    out: Path | None,
    data_dir: Path | None = None,
    compare: Sequence[Ledger] = (),
    say: Callable[[str], None] = lambda text: None,
    *,
    ensemble: str | None = None,
) -> tuple[Path, int]:
    """The file that is written, and its bytes; out: an .html file, without it STUDY-report.html here.

    Passes to `say` what has changed in the data directory as well. Raises UserError for another `out`.
    """
    path = out or Path(f"{PurePosixPath(ledger.storage.uri).name}-report.html")
    if path.is_dir():
        raise UserError(f"--out is the HTML file to write, {path} is a folder; give {path / 'report.html'}")
    if path.suffix.lower() != ".html":
        raise UserError(f"--out is a .html file, got {path}; name it {path.with_suffix('.html')}")
    if data_dir is not None:
        for change in data_notices(ledger, data_dir):
            say(f"warning: {change}")
    content = make_report(ledger, data_dir, compare, say, ensemble=ensemble).encode()
    Storage(path.parent).write(path.name, content)
    return path, len(content)
