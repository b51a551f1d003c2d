"""Which rows of a table of N quadrats a fold trains on, which are scored, and which nothing sees.

fold_N    the fold that holds each row out, from 0; ALWAYS or EXAM where none does
ordered   whether folds are blocks of time in order: a fold is then predicted from what lies before it, and the last
          one's model, which has seen most, predicts new photographs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

ALWAYS = -1  # in the training rows of every fold, never scored
EXAM = -2  # kept out of everything, for an exam
EXAM_WORD = "exam"  # what a file calls it
TIME = "time"  # the scheme whose folds are ordered
PSEUDO = "pseudo_labelled"  # column of a fit's table: whether models have labelled the row (families/pseudo_rows.py)
NONE, INSTEAD, BESIDE = ALL_ROWS = ("none", "instead", "beside")  # of the fold models: one fitted on all rows predicts


def is_ordered(scheme: str) -> bool:
    """Whether the folds of a scheme are in the order of time."""
    return scheme == TIME


def training_rows(fold_N: ArrayLike, fold: int, *, ordered: bool = False) -> NDArray[np.bool_]:
    """Which rows a fold is predicted from, [N]: those that are always trained on, and the other folds, or the earlier
    ones where folds are ordered."""
    own_N = np.asarray(fold_N, dtype=np.int64)
    others_N = own_N < fold if ordered else own_N != fold
    return (own_N == ALWAYS) | ((own_N >= 0) & others_N)


def folds_in(fold_N: ArrayLike) -> list[int]:
    """The folds that hold rows out, ascending, as plain numbers."""
    return [int(fold) for fold in np.unique(np.asarray(fold_N, dtype=np.int64)) if fold >= 0]


def predicting_folds(fold_N: ArrayLike, *, ordered: bool = False) -> list[int]:
    """The folds whose models predict new photographs, as a mean: all, or the last where folds are ordered."""
    folds = folds_in(fold_N)
    return folds[-1:] if ordered else folds


def labelled_rows(quadrats: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows of a fit's table were weighed, [N]: all but those that models have labelled."""
    if PSEUDO not in quadrats:
        return np.ones(len(quadrats), dtype=np.bool_)
    return ~quadrats[PSEUDO].to_numpy(dtype=np.bool_)


def scored_rows(quadrats: pd.DataFrame) -> pd.DataFrame:
    """The rows that some fold holds out, in their order: what truth, scores and pages are about."""
    held_out = quadrats["fold"] >= 0
    return quadrats if held_out.all() else quadrats[held_out].reset_index(drop=True)
