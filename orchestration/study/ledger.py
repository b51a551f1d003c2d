"""The only reader and writer of a study's files (layout.py): one class over the kinds of files in files/."""

from __future__ import annotations

import pandas as pd

from orchestration.study.files.base import LedgerError
from orchestration.study.files.ensembles import EnsembleFiles
from orchestration.study.files.folds import FoldFiles
from orchestration.study.files.shared import SharedFiles
from orchestration.study.storage import Storage

__all__ = ["Ledger", "LedgerError", "folds_of", "open_ledger"]


class Ledger(FoldFiles, SharedFiles, EnsembleFiles):
    """Reads and writes one study: its record and tables, trials, folds, teachers and ensembles."""


def folds_of(quadrats: pd.DataFrame) -> list[int]:
    """The folds of a quadrats table, ascending, as plain numbers."""
    return sorted(int(fold) for fold in quadrats["fold"].unique())


def open_ledger(study: str) -> Ledger:
    """The ledger of an existing study; LedgerError says what to do when there is none."""
    ledger = Ledger(Storage(study))
    ledger.study()
    return ledger
