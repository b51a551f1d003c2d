"""Texts in and out: remarks as they come, pages of text as HTML that stored notebooks keep, names of places."""

from __future__ import annotations

import sys
from html import escape
from os import PathLike
from pathlib import Path

from biomass_models.visible import visible
from orchestration.terminal import PlainConsole
from orchestration.verbosity import is_quiet


def say(remark: str) -> None:
    """Print what is going on, unless it shall be quiet: below the cell of a notebook, else on standard error."""
    if not is_quiet():
        print(visible(remark), file=sys.stdout if PlainConsole().is_jupyter else sys.stderr, flush=True)


def as_html(text: str) -> str:
    """Text as it is, columns kept."""
    return f"<pre>{escape(text)}</pre>"


def address_of(study: str | PathLike[str]) -> str:
    """A folder or URI as text, `~` resolved."""
    text = str(study)
    return text if "://" in text else str(Path(text).expanduser())
