"""`biomass report`: one study as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

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
from orchestration.study.ledger import Ledger


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
