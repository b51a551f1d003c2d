"""Errors of complete trials as Gram matrices by fold, read from the ledger trial by trial.

M trials, N scored images, T = 5 targets, K folds, E = N * T; masses in grams.
error_ME       root of the metric's weight times what a trial's coherent prediction is off, over the root of the SST;
               0 in what was not measured, so that error_ME @ error_ME.T = gram_KMM.sum(0)
gram_KMM       the same over the rows of each fold: 1 - weight_M @ gram_KMM.sum(0) @ weight_M is the score of a blend
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from biomass_models.targets import FloatArray, norm_of, project_coherent, weighted_sst
from orchestration.study.data import StudyData
from orchestration.study.ledger import LedgerError


class FoldErrors:
    """Gram matrices of some trials; each trial is read and multiplied once, as long as it is asked for."""

    def __init__(self, data: StudyData) -> None:
        self._data = data
        self._names: list[str] = []
        self._torn: set[str] = set()
        fold_N = data.quadrats["fold"].to_numpy()
        self._fold_E = np.repeat(fold_N, data.truth_NT.shape[1])
        self._folds = np.unique(fold_N)
        self._root_NT = np.sqrt(np.broadcast_to(data.weight, data.truth_NT.shape))
        self._norm_T, self._root_sst = norm_of(data.weight), float(np.sqrt(weighted_sst(data.truth_NT, data.weight)))
        self._error_ME = np.zeros((0, len(self._fold_E)))
        self._gram_KMM = np.zeros((len(self._folds), 0, 0))

    @property
    def folds(self) -> int:
        """Folds that are scored."""
        return len(self._folds)

    def of(self, trial_ids: Sequence[str]) -> tuple[list[str], FloatArray]:
        """Those of the trials that can be read, in the given order, and their gram_KMM; all others are forgotten."""
        wanted = set(trial_ids)
        kept = [place for place, name in enumerate(self._names) if name in wanted]
        self._keep(kept)
        known = set(self._names)
        for trial_id in trial_ids:
            if trial_id not in known and trial_id not in self._torn:
                self._read(trial_id)
        place = {name: number for number, name in enumerate(self._names)}
        found = [trial_id for trial_id in trial_ids if trial_id in place]
        order = [place[trial_id] for trial_id in found]
        return found, self._gram_KMM[:, order][:, :, order]

    def _keep(self, places: list[int]) -> None:
        if len(places) < len(self._names):
            self._names = [self._names[place] for place in places]
            self._error_ME = self._error_ME[places]
            self._gram_KMM = self._gram_KMM[:, places][:, :, places]

    def _read(self, trial_id: str) -> None:
        data = self._data
        try:  # with the images named: what is read once need not be kept
            pred_NT = data.pred_NT(trial_id, data.quadrats["image_id"])
        except LedgerError:  # one torn file must not cost the search
            self._torn.add(trial_id)
            return
        off_NT = project_coherent(pred_NT, self._norm_T) - data.truth_NT
        error_NT = np.where(self._root_NT > 0, self._root_NT * off_NT, 0.0) / self._root_sst
        self._error_ME = np.concatenate([self._error_ME, error_NT.reshape(1, -1)])
        self._names.append(trial_id)
        new_KM = np.stack(
            [self._error_ME[:, own_E] @ self._error_ME[-1, own_E] for own_E in self._fold_E == self._folds[:, None]]
        )
        grown_KMM = np.empty((len(self._folds), len(self._names), len(self._names)))
        grown_KMM[:, :-1, :-1] = self._gram_KMM
        grown_KMM[:, -1], grown_KMM[:, :, -1] = new_KM, new_KM
        self._gram_KMM = grown_KMM
