"""The incumbent: the best complete trial and a first ensemble, read from the ledger as results come in.

M complete trials, N images in the order of the quadrats table, T = 5 targets, masses in grams.
The ensemble of the moment is the plain mean of the best five: good, cheap, and with no weights that could overfit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from biomass_models.data.alignment import places_of
from biomass_models.targets import TARGETS, FloatArray, IntArray, norm_of, project_coherent, squared_error
from ensembles.gram import error_gram
from ensembles.nests import nested
from ensembles.rules import TopMean
from orchestration.search.pruning import COMPARED, Compared, PruneRule, decide
from orchestration.study.data import StudyData
from orchestration.study.ledger import LedgerError
from orchestration.study.records import COMPLETE, Decision, TrialResult

BEST = 5
SHORTLIST = 50  # members that the blend of the moment is chosen from


class Incumbent:
    """Remembers what it has read: a result never changes, so each file is read once however often it is asked for."""

    def __init__(self, data: StudyData) -> None:
        self.data = data
        self._results: dict[str, TrialResult] = {}
        self._complete: tuple[int, int, list[str]] = (0, 0, [])  # results and torn ones that it was sorted from
        self._blend: tuple[int, float | None] = (0, None)  # complete trials it was computed from, score
        self._exempt: dict[str, bool] = {}  # by trial id: whether it could not be pruned
        self._compared: tuple[tuple[str, ...], Compared] | None = None  # readable trials they were chosen from

    def refresh(self) -> None:
        """Take in the results that are new."""
        self._results.update(self.data.ledger.results(known=self._results))

    def admit(self, trial_id: str, result: TrialResult) -> None:
        """Take in one result: what a replay does instead of `refresh`, in the order in which trials ended."""
        self._results[trial_id] = result

    @property
    def results(self) -> Mapping[str, TrialResult]:
        """What has been taken in, by trial id."""
        return self._results

    @property
    def torn(self) -> Mapping[str, str]:
        """Complete trials whose table cannot be read, and why: they are left out."""
        return self.data.unread

    @property
    def complete(self) -> list[str]:
        """Ids of the complete trials but the torn ones, best first; equal scores in the order of their ids."""
        size = len(self._results), len(self.torn)  # neither loses an entry
        if self._complete[:2] != size:
            results = {name: one for name, one in self._results.items() if name not in self.torn}
            scores = {name: one.score or 0.0 for name, one in results.items() if one.status == COMPLETE}
            self._complete = (*size, sorted(scores, key=lambda name: (-scores[name], name)))
        return self._complete[2]

    def best(self, most: int) -> list[str]:
        """Ids of the best complete trials whose tables can be read; those that cannot are noted in `torn`."""
        return list(self.data.predictions(self.complete, most))

    def ensemble_NT(self) -> FloatArray:
        """The mean of the best five, each projected onto the identities."""
        best, norm_T = self.data.predictions(self.complete, BEST).values(), norm_of(self.data.weight)
        mean_NT: FloatArray = np.mean([project_coherent(pred_NT, norm_T) for pred_NT in best], axis=0)
        return mean_NT

    def blend_score(self) -> float | None:
        """Nested score of the mean of the best five; None before two trials are complete or with a single fold."""
        shortlist = self.data.predictions(self.complete, SHORTLIST)
        complete, quadrats = self.complete, self.data.truth
        if len(complete) < 2 or quadrats["fold"].nunique() < 2:
            return None
        if self._blend[0] != len(complete):
            weight = self.data.weight
            coherent_MNT = project_coherent(np.stack(list(shortlist.values())), norm_of(weight))
            cells = quadrats["fold"], quadrats["group"], quadrats["unit"]
            gram = error_gram(coherent_MNT, self.data.truth_NT, *cells, weight)
            self._blend = (len(complete), nested(gram, TopMean(BEST), seed=self.data.blend_seed).score)
        return self._blend[1]

    def decide(self, rule: PruneRule, oof: pd.DataFrame, *, after_fold: int, folds_done: int) -> Decision | None:
        """Decide about a trial from the rows that it has; None while no trial is complete.

        oof: image_id and the five targets of the finished folds.
        """
        self.refresh()
        row_n = places_of(self.data.quadrats["image_id"], oof["image_id"])
        pred_nT = oof[list(TARGETS)].to_numpy(dtype=np.float64)
        return self.compare(rule, pred_nT, row_n, after_fold=after_fold, folds_done=folds_done)

    def compare(
        self, rule: PruneRule, pred_nT: FloatArray, row_n: IntArray, *, after_fold: int, folds_done: int
    ) -> Decision | None:
        """As `decide`, with what has been taken in; pred_nT: of the rows row_n of the quadrats table."""
        compared = self.compared()
        if compared is None:
            return None
        return decide(
            rule,
            pred_nT,
            compared,
            self.data.truth_NT,
            self.data.quadrats["group"].to_numpy(),
            row_n,
            after_fold=after_fold,
            folds_done=folds_done,
            folds=len(self.data.folds),
            weight=self.data.weight,
        )

    def compared(self) -> Compared | None:
        """What a trial is compared with; None while no trial is complete."""
        best = self.best(COMPARED)
        if not best:
            return None
        ended = tuple(self.complete)
        if self._compared is None or self._compared[0] != ended:
            exempt = [name for name in self.complete if name not in best and self._is_exempt(name)]
            self._compared = (
                ended,
                Compared(
                    names=tuple(best),
                    loss_N=np.mean(self._losses(best), axis=0),
                    score=float(np.mean([self._results[name].score or 0.0 for name in best])),
                    ensemble_NT=self.ensemble_NT(),
                    exempt_MN=self._losses(exempt),
                ),
            )
        return self._compared[1]

    def _is_exempt(self, trial_id: str) -> bool:
        """Whether a trial could not be pruned; not asked of `data`, whose list of trials is that of one moment."""
        if trial_id not in self._exempt:
            try:
                self._exempt[trial_id] = self.data.ledger.trial(trial_id).spared is not None
            except LedgerError:  # its record is torn
                self._exempt[trial_id] = False
        return self._exempt[trial_id]

    def _losses(self, trial_ids: Sequence[str]) -> FloatArray:
        """Squared errors of trials, [M, N]."""
        truth_NT, weight = self.data.truth_NT, self.data.weight
        found = self.data.predictions(trial_ids).values()
        return np.array([squared_error(truth_NT, pred_NT, weight) for pred_NT in found]).reshape(-1, len(truth_NT))
