"""Where a study stands: its best complete trial and a first ensemble, read from the ledger as results come in.

M complete trials, N images in the order of the quadrats table, T = 5 targets, masses in grams.
The ensemble of the moment is the plain mean of the best five: good, cheap, and with no weights that could overfit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from biomass_models.targets import TARGETS, FloatArray, project_coherent, weighted_sst
from ensembles.gram import error_gram
from ensembles.honest import nested
from ensembles.rules import TopMean
from orchestration.search.pruning import PruneRule, decide
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import COMPLETE, Decision, TrialResult

IntArray = NDArray[np.int64]
BEST = 5
SHORTLIST = 50  # members that the blend of the moment is chosen from


class Standing:
    """Remembers what it has read: a result never changes, so each file is read once however often one asks."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._results: dict[str, TrialResult] = {}
        self._pred: dict[str, FloatArray] = {}
        self.torn: dict[str, str] = {}  # complete trials whose table cannot be read, and why: they are left out
        self._blend: tuple[int, float | None] = (0, None)  # complete trials it was computed from, score

    def refresh(self) -> None:
        """Take in the results that are new."""
        self._results.update(self._ledger.results(known=self._results))

    def admit(self, trial_id: str, result: TrialResult) -> None:
        """Take in one result: what a replay does instead of `refresh`, in the order in which trials ended."""
        self._results[trial_id] = result

    @property
    def results(self) -> Mapping[str, TrialResult]:
        """What has been taken in, by trial id."""
        return self._results

    @property
    def complete(self) -> list[str]:
        """Ids of the complete trials but the torn ones, best first; equal scores in the order of their ids."""
        results = {name: one for name, one in self._results.items() if name not in self.torn}
        scores = {name: one.score for name, one in results.items() if one.status == COMPLETE}
        return sorted(scores, key=lambda name: (-(scores[name] or 0.0), name))

    def best(self, most: int) -> list[str]:
        """Ids of the best complete trials whose tables can be read; those that cannot are noted in `torn`."""
        found: list[str] = []
        for name in self.complete:
            if len(found) == most:
                break
            try:
                self.pred_NT(name)
            except LedgerError as error:
                self.torn[name] = str(error)
            else:
                found.append(name)
        return found

    @cached_property
    def quadrats(self) -> pd.DataFrame:
        return self._ledger.quadrats()

    @cached_property
    def truth_NT(self) -> FloatArray:
        return self.quadrats[list(TARGETS)].to_numpy(dtype=np.float64)

    def pred_NT(self, trial_id: str) -> FloatArray:
        """Out-of-fold predictions of a complete trial, rows as the quadrats table's. Raises LedgerError."""
        if trial_id not in self._pred:
            oof = self._ledger.oof(trial_id).set_index("image_id")
            if list(oof.index) != list(self.quadrats["image_id"]):
                raise LedgerError(f"trial {trial_id} was pooled over other images than those of quadrats.parquet")
            self._pred[trial_id] = oof[list(TARGETS)].to_numpy(dtype=np.float64)
        return self._pred[trial_id]

    def ensemble_NT(self) -> FloatArray:
        """The mean of the best five, each projected onto the identities."""
        mean_NT: FloatArray = np.mean([project_coherent(self.pred_NT(name)) for name in self.best(BEST)], axis=0)
        return mean_NT

    def blend_score(self) -> float | None:
        """Nested score of the mean of the best five; None before two trials are complete or with a single fold."""
        shortlist = self.best(SHORTLIST)
        complete = self.complete
        if len(complete) < 2 or self.quadrats["fold"].nunique() < 2:
            return None
        if self._blend[0] != len(complete):
            coherent_MNT = project_coherent(np.stack([self.pred_NT(name) for name in shortlist]))
            gram = error_gram(coherent_MNT, self.truth_NT, self.quadrats["fold"], self.quadrats["group"])
            self._blend = (len(complete), nested(gram, TopMean(BEST)).score)
        return self._blend[1]

    def judge(self, rule: PruneRule, oof: pd.DataFrame, *, after_fold: int, folds_done: int) -> Decision | None:
        """Decide about a trial from the rows it has; None while no trial is complete.

        oof: image_id and the five targets of the finished folds.
        """
        self.refresh()
        rows = pd.Index(self.quadrats["image_id"]).get_indexer(oof["image_id"])
        return self.compare(
            rule, oof[list(TARGETS)].to_numpy(dtype=np.float64), rows, after_fold=after_fold, folds_done=folds_done
        )

    def compare(
        self, rule: PruneRule, pred_nT: FloatArray, row_n: IntArray, *, after_fold: int, folds_done: int
    ) -> Decision | None:
        """As `judge`, with what has been taken in; pred_nT: of the rows row_n of the quadrats table."""
        incumbents = self.best(1)
        if not incumbents:
            return None
        best = incumbents[0]
        return decide(
            rule,
            pred_nT,
            self.pred_NT(best)[row_n],
            self.ensemble_NT()[row_n],
            self.truth_NT[row_n],
            self.quadrats["group"].to_numpy()[row_n],
            incumbent=best,
            incumbent_score=self._results[best].score or 0.0,
            sst_an_image=weighted_sst(self.truth_NT) / len(self.truth_NT),
            after_fold=after_fold,
            folds_done=folds_done,
        )
