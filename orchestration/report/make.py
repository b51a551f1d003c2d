"""`biomass report`: one study as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from orchestration.report.data.story import tell
from orchestration.report.page import page
from orchestration.report.sections.ensemble import ensemble_section
from orchestration.report.sections.folds import folds_section
from orchestration.report.sections.photographs import Photographs
from orchestration.report.sections.predictions import predictions_section
from orchestration.report.sections.provenance import provenance_section
from orchestration.report.sections.search import search_section
from orchestration.report.sections.standing import standing_section
from orchestration.study.ledger import Ledger


def make_report(
    ledger: Ledger,
    data_dir: Path | None = None,
    compare: Sequence[Ledger] = (),
    say: Callable[[str], None] = lambda text: None,
) -> str:
    """The page. data_dir: for thumbnails of the worst images; compare: studies of the same images with other folds.

    What is torn is left out, named in the page and passed to `say`. Raises LedgerError for a study that is not there
    or is about other images.
    """
    story = tell(ledger, compare)
    for evidence in (story.evidence, *story.others):
        for notice in evidence.notices:
            say(f"note: {notice}")
    sections = (
        standing_section(story),
        search_section(story),
        folds_section(story),
        predictions_section(story, Photographs(data_dir)),
        ensemble_section(story),
        provenance_section(story),
    )
    return page(story, sections)
