"""The only reader and writer of a study's files (layout.py): one class over the kinds of files in files/."""

from __future__ import annotations

import pandas as pd

from biomass_models.fold_rows import folds_in, predicting_folds
from orchestration.study.files.base import LedgerError
from orchestration.study.files.ensembles import EnsembleFiles
from orchestration.study.files.folds import FoldFiles
from orchestration.study.files.shared import SharedFiles
from orchestration.study.storage import Storage

__all__ = ["Ledger", "LedgerError", "folds_of", "open_ledger", "predicting_folds_of"]


class Ledger(FoldFiles, SharedFiles, EnsembleFiles):
    """Reads and writes one study: its record and tables, trials, folds, teachers and ensembles."""


def folds_of(quadrats: pd.DataFrame) -> list[int]:
    """The folds of a quadrats table, ascending, as plain numbers."""
    return folds_in(quadrats["fold"])


def predicting_folds_of(ledger: Ledger) -> list[int]:
    """The folds whose models predict new photographs, as a mean."""
    return predicting_folds(ledger.quadrats()["fold"], ordered=ledger.study().settings.ordered)


def open_ledger(study: str) -> Ledger:
    """The ledger of an existing study; LedgerError says what to do when there is none."""
    ledger = Ledger(Storage(study))
    ledger.study()
    return ledger
