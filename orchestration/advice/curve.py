"""`biomass learning-curve`: scores of a cheap probe that learned from fewer dates, or from fewer photographs of all.

Nested: each repeat shuffles a fold's training dates, and every size takes the first of them, so that a larger size has
all of a smaller one. Beside it as many photographs, of all dates. N photographs, D features.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from biomass_models.data.cell_weights import measured_masses
from biomass_models.families import registry
from biomass_models.features.likeness import Likeness
from biomass_models.fold_rows import training_rows
from biomass_models.ridge.chosen import RidgeSettings, fit_rows
from biomass_models.targets import TARGETS, FloatArray, IntArray, weighted_r2_score, weights_in
from biomass_models.training.fit import FitError, FoldRows
from orchestration.study.data import StudyData
from orchestration.study.derived.advice import CurvePoint, LearningCurveRecord
from orchestration.study.seeds import content_id, derive_seed

SIZES = 6  # numbers of dates at which a curve is measured
FEWEST = 2  # dates: a penalty is chosen by folds that keep them whole
REPEATS = 10
PURPOSE = "learning curve"


def measure_curve(
    data: StudyData,
    embeddings: Likeness,
    repeats: int,
    *,
    features: str,
    update: Callable[[int, int], None],
) -> LearningCurveRecord:
    """Measure the repeats that the study lacks, and keep each once it is done. features: in words.

    embeddings: of the study's photographs, in the order of its table.
    """
    curve = Sampled(data, embeddings)
    config = registry.family("probe").config_class(backbone=embeddings.bank.backbone)
    curve_id = content_id(
        embeddings.bank.to_json(), data.fold_hash, data.record.data_fingerprint, data.settings.seed, curve.sizes
    )
    stored = data.ledger.learning_curve()
    points: tuple[CurvePoint, ...] = ()
    if stored is not None and stored.curve_id == curve_id:
        points = stored.points
    done = {point.repeat for point in points}
    record = stored if done else None
    for repeat in range(repeats):
        update(repeat, repeats)
        if repeat in done:
            continue
        points += tuple(curve.point(config, repeat, size) for size in curve.sizes)
        record = LearningCurveRecord(
            curve_id=curve_id,
            made_at=time.time(),
            features=features,
            noun=data.group_noun,
            groups=data.learned["group"].nunique(),
            images=len(data.learned),
            points=points,
        )
        data.ledger.write_learning_curve(record)
    update(repeats, repeats)
    assert record is not None
    return record


class Sampled:
    """Subsets of a study's training rows, and what a probe scores that learns from them."""

    def __init__(self, data: StudyData, embeddings: Likeness) -> None:
        table = data.learned
        self._feature_ND = embeddings.feature_LD
        self._group_N = table["group"].astype(str).to_numpy()
        self._fold_N = table["fold"].to_numpy()
        self._mass_NT, self._weight = measured_masses(table)
        self._seed = data.settings.seed
        self._train = {
            fold: np.flatnonzero(training_rows(self._fold_N, fold, ordered=data.settings.ordered))
            for fold in data.folds
        }
        most = min(len(set(self._group_N[train_M])) for train_M in self._train.values())
        sizes = np.geomspace(FEWEST, max(FEWEST, most), SIZES).round().astype(int)
        self.sizes: tuple[int, ...] = tuple(sorted({int(size) for size in sizes}))

    def rows(self, repeat: int, fold: int, size: int) -> tuple[IntArray, IntArray]:
        """Training rows of so many whole groups, and as many rows of all groups."""
        train_M = self._train[fold]
        draw = np.random.default_rng(derive_seed(self._seed, PURPOSE, repeat, fold))
        groups = draw.permutation(sorted(set(self._group_N[train_M])))
        whole = train_M[np.isin(self._group_N[train_M], groups[:size])]
        shuffled = _two_groups_first(draw.permutation(train_M), self._group_N)
        return whole, np.sort(shuffled[: len(whole)])

    def point(self, config: RidgeSettings, repeat: int, size: int) -> CurvePoint:
        """Pooled scores over folds."""
        drawn = {fold: self.rows(repeat, fold, size) for fold in self._train}
        groups = [len(set(self._group_N[whole])) for whole, _ in drawn.values()]
        by_groups, by_images = (
            self._score(config, {fold: pair[kind] for fold, pair in drawn.items()}, repeat) for kind in (0, 1)
        )
        return CurvePoint(
            repeat=repeat,
            groups=float(np.mean(groups)),
            images=float(np.mean([len(whole) for whole, _ in drawn.values()])),
            by_groups=by_groups,
            by_images=by_images,
        )

    def _score(self, config: RidgeSettings, rows: dict[int, IntArray], repeat: int) -> float | None:
        """None where some fold cannot be fitted."""
        pred_NT = np.full((len(self._fold_N), len(TARGETS)), np.nan)
        for fold, train_M in rows.items():
            valid_M = np.flatnonzero(self._fold_N == fold)
            try:
                pred_NT[valid_M] = self._fitted(config, train_M, valid_M, repeat, fold)
            except FitError:
                return None
        scored_N = np.flatnonzero(self._fold_N >= 0)
        return weighted_r2_score(self._mass_NT[scored_N], pred_NT[scored_N], weight=weights_in(self._weight, scored_N))

    def _fitted(
        self, config: RidgeSettings, train_M: IntArray, valid_M: IntArray, repeat: int, fold: int
    ) -> FloatArray:
        rows = FoldRows(train_M, valid_M, np.arange(len(self._fold_N)), self._mass_NT, self._weight)
        seed = derive_seed(self._seed, PURPOSE, repeat, fold, "penalty")
        ridge, scaler, _, _ = fit_rows(config, self._feature_ND, rows, self._group_N, seed=seed)
        return scaler.grams(ridge.predict(self._feature_ND[valid_M]))


def _two_groups_first(row_M: IntArray, group_N: NDArray[np.object_]) -> IntArray:
    """The same rows, the second one of another group than the first: no subset is of one group alone."""
    other = np.flatnonzero(group_N[row_M] != group_N[row_M[0]])
    if len(other):
        row_M = row_M.copy()
        row_M[[1, other[0]]] = row_M[[other[0], 1]]
    return row_M
