"""The only reader and writer of a study's files (layout.py): one class over the kinds of files in files/."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from biomass_models.fold_rows import INSTEAD, NONE, folds_in, predicting_folds
from orchestration.study.files.advice import AdviceFiles
from orchestration.study.files.all_rows import AllRowsFiles
from orchestration.study.files.base import LedgerError
from orchestration.study.files.ensembles import EnsembleFiles
from orchestration.study.files.folds import FoldFiles
from orchestration.study.files.second_rounds import SecondRoundFiles
from orchestration.study.files.shared import SharedFiles
from orchestration.study.storage import Storage

__all__ = ["Ledger", "LedgerError", "folds_of", "open_ledger", "predicting_folds_of", "predicting_models"]


class Ledger(FoldFiles, AllRowsFiles, SharedFiles, SecondRoundFiles, EnsembleFiles, AdviceFiles):
    """Reads and writes one study: its record and tables, trials, folds, teachers, second rounds, ensembles, advice."""


def folds_of(quadrats: pd.DataFrame) -> list[int]:
    """The folds of a quadrats table, ascending, as plain numbers."""
    return folds_in(quadrats["fold"])


def predicting_folds_of(ledger: Ledger) -> list[int]:
    """The folds whose models predict new photographs, as a mean."""
    return predicting_folds(ledger.quadrats()["fold"], ordered=ledger.study().settings.ordered)


def predicting_models(ledger: Ledger, trial_id: str, all_rows: str = NONE) -> Iterator[tuple[str, bytes]]:
    """Name and safetensors bytes of each of a trial's models, whose mean predicts new photographs.

    all_rows: whether its model on all rows is one of them (beside), the only one (instead), or none.
    """
    if all_rows != INSTEAD:
        for fold in predicting_folds_of(ledger):
            yield f"fold-{fold}", ledger.fold_model(trial_id, fold)
    if all_rows != NONE:
        model = ledger.all_rows_model(trial_id)
        if model is None:
            raise LedgerError(
                f"--all-rows {all_rows} needs each member's model on all rows, trial {trial_id} in "
                f"{ledger.storage.uri} has none that is whole; give --data, that of the search, to fit it"
            )
        yield "all-rows", model


def open_ledger(study: str) -> Ledger:
    """The ledger of an existing study; LedgerError says what to do when there is none."""
    ledger = Ledger(Storage(study))
    ledger.study()
    return ledger
