"""Errors of complete trials as Gram matrices by fold, read from the ledger trial by trial.

M trials, N scored images, T = 5 targets, K folds, E = N * T; masses in grams.
error_ME       root of the metric's weight times what a trial's coherent prediction is off, over the root of the SST;
               0 in what was not measured, so that error_ME @ error_ME.T = gram_KMM.sum(0)
gram_KMM       the same over the rows of each fold: 1 - weight_M @ gram_KMM.sum(0) @ weight_M is the score of a blend
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import FloatArray, norm_of, project_coherent, weighted_sst
from orchestration.study.data import StudyData
from orchestration.study.ledger import LedgerError


class Errors(Protocol):
    """Where the errors of complete trials come from."""

    def of(self, trial_ids: Sequence[str]) -> tuple[list[str], FloatArray]:
        """Those of the trials that can be read, in the given order, and their gram_KMM."""
        ...


class FoldErrors:
    """Errors from a study's ledger; each trial is read and multiplied once, as long as it is asked for."""

    def __init__(self, data: StudyData) -> None:
        self._data = data
        self._error_E: dict[str, FloatArray] = {}  # by trial id, in the order of the Gram matrices
        self._gram_KMM = np.zeros((0, 0, 0))
        self._torn: set[str] = set()

    def of(self, trial_ids: Sequence[str]) -> tuple[list[str], FloatArray]:
        """As Errors; all other trials are forgotten."""
        self._forget_others(set(trial_ids))
        for trial_id in trial_ids:
            if trial_id not in self._error_E and trial_id not in self._torn:
                self._read(trial_id)
        place = {name: number for number, name in enumerate(self._error_E)}
        found = [trial_id for trial_id in trial_ids if trial_id in place]
        order = [place[trial_id] for trial_id in found]
        return found, self._gram_KMM[:, order][:, :, order]

    @cached_property
    def _metric(self) -> _Metric:
        return _Metric.of(self._data)

    def _forget_others(self, wanted: Container[str]) -> None:
        kept = [place for place, name in enumerate(self._error_E) if name in wanted]
        if len(kept) < len(self._error_E):
            self._error_E = {name: error_E for name, error_E in self._error_E.items() if name in wanted}
            self._gram_KMM = self._gram_KMM[:, kept][:, :, kept]

    def _read(self, trial_id: str) -> None:
        data = self._data
        try:  # with the images named: what is read once need not be kept
            pred_NT = data.pred_NT(trial_id, data.quadrats["image_id"])
        except LedgerError:  # one torn file must not cost the search
            self._torn.add(trial_id)
            return
        error_E = self._error_E[trial_id] = self._metric.error_E(pred_NT, data.truth_NT)
        error_ME = np.stack(list(self._error_E.values()))
        # einsum, which sums up each row alike: the last bit of a matrix product may depend on the rows beside it
        rows = [(np.ascontiguousarray(error_ME[:, own_E]), error_E[own_E]) for own_E in self._metric.of_fold_KE]
        new_KM = np.stack([np.einsum("me,e->m", own_ME, own_E) for own_ME, own_E in rows])
        grown_KMM = np.zeros((len(new_KM), len(error_ME), len(error_ME)))
        if len(error_ME) > 1:
            grown_KMM[:, :-1, :-1] = self._gram_KMM
        grown_KMM[:, -1], grown_KMM[:, :, -1] = new_KM, new_KM
        self._gram_KMM = grown_KMM


@dataclass(frozen=True, kw_only=True)
class _Metric:
    """What a prediction is compared with."""

    of_fold_KE: NDArray[np.bool_]
    root_NT: FloatArray  # of the metric's weights, over the root of the SST
    norm_T: FloatArray

    @classmethod
    def of(cls, data: StudyData) -> _Metric:
        fold_N, shape = data.quadrats["fold"].to_numpy(), data.truth_NT.shape
        root_NT = np.sqrt(np.broadcast_to(data.weight, shape) / weighted_sst(data.truth_NT, data.weight))
        of_fold_KN = fold_N == np.unique(fold_N)[:, None]
        return cls(of_fold_KE=np.repeat(of_fold_KN, shape[1], axis=1), root_NT=root_NT, norm_T=norm_of(data.weight))

    def error_E(self, pred_NT: FloatArray, truth_NT: FloatArray) -> FloatArray:
        off_NT = project_coherent(pred_NT, self.norm_T) - truth_NT
        return np.where(self.root_NT > 0, self.root_NT * off_NT, 0.0).reshape(-1)
