"""Reference predictions that cost next to nothing and put every score in proportion.

N images, F colour statistics. pred_NT are out-of-fold predictions [N, 5] in grams, columns as TARGETS, clipped at 0,
rows as in `quadrats` (the wide table of table.read_train); NaN in targets that were never measured, and in rows that
no fold holds out. Each target is fitted on the rows in which it was. `folds` comes from folds.assign_folds, same order.
ordered: whether folds are blocks of time (fold_rows.py).

per_target_mean   the mean of the training folds
metadata_trees    NDVI, height, season, state, species; needs metadata, so it cannot predict the test set, and is left
                  out where metadata are missing
colour_ridge      ridge regression on colour statistics: what a photograph tells without any shape
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biomass_models.data.cell_weights import measured_alike, measured_masses, row_weights
from biomass_models.data.images import as_rgb, open_photograph
from biomass_models.errors import UserError
from biomass_models.fold_rows import folds_in, training_rows
from biomass_models.interrupt import OnProgress
from biomass_models.targets import TARGETS, FloatArray, weighted_r2_score, weights_in, weights_of

COLOUR_SIZE = (128, 64)  # px to which a photograph is reduced before its colours are counted
PERCENTILES = (5, 25, 50, 75, 95)
CHANNELS = ("red", "green", "blue", "hue_cos", "hue_sin", "saturation", "value", "excess_green", "excess_red")
COLOUR_NAMES: tuple[str, ...] = tuple(
    f"{channel}_{statistic}" for channel in CHANNELS for statistic in ("mean", "sd", *(f"p{p}" for p in PERCENTILES))
)
TREE_COLUMNS = ("Sampling_Date", "State", "Species", "Pre_GSHH_NDVI", "Height_Ave_cm")
ALPHAS = 10.0 ** np.arange(-1, 5.5, 0.5)  # ridge penalties tried on standardised statistics
INNER_FOLDS = 4
LONE_GROUP_ALPHA = 100.0  # where the training rows have one group only, no inner fold can choose


def reference_predictions(
    quadrats: pd.DataFrame, paths: Sequence[Path], on_progress: OnProgress, *, ordered: bool = False
) -> pd.DataFrame:
    """Out-of-fold masses of every reference on the folds of quadrats: reference, image_id and five targets in grams, a
    row for each image that is scored.

    paths: of the photographs, in the order of quadrats.
    """
    folds = quadrats[["image_id", "fold", "group"]]
    colour = []
    for row, path in enumerate(paths, start=1):
        colour.append(colour_statistics(path))
        on_progress(row, len(paths))
    predictions = {
        "per-target mean": per_target_mean(quadrats, folds, ordered=ordered),
        "colour ridge": colour_ridge(np.array(colour), quadrats, folds, ordered=ordered),
    }
    if not missing_metadata(quadrats):
        predictions["metadata trees"] = metadata_trees(quadrats, folds, ordered=ordered)
    frames, scored_N = [], (quadrats["fold"] >= 0).to_numpy()
    for name, pred_NT in predictions.items():
        frame = pd.DataFrame(pred_NT[scored_N], columns=list(TARGETS))
        frame.insert(0, "image_id", quadrats["image_id"].to_numpy()[scored_N])
        frame.insert(0, "reference", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def missing_metadata(quadrats: pd.DataFrame) -> list[str]:
    """Columns that metadata trees need and that are not there, or have blank cells."""
    return [name for name in TREE_COLUMNS if name not in quadrats or quadrats[name].isna().any()]


def per_target_mean(quadrats: pd.DataFrame, folds: pd.DataFrame, *, ordered: bool = False) -> FloatArray:
    """Each target's mean over the training folds, [N, 5] grams. It scores above 0: the metric has one grand mean."""
    labels = _Labels.of(quadrats)

    def fit_predict(train: NDArray[np.intp], held: NDArray[np.intp]) -> FloatArray:
        def fit(rows: NDArray[np.intp], mass_MT: FloatArray) -> FloatArray:
            weight_M = labels.weights(rows)
            mean_T = mass_MT.mean(axis=0) if weight_M is None else np.average(mass_MT, axis=0, weights=weight_M)
            return np.tile(mean_T, (len(held), 1))

        return labels.fit_predict(train, held, fit)

    return _out_of_fold(quadrats, folds, fit_predict, ordered)


def metadata_trees(quadrats: pd.DataFrame, folds: pd.DataFrame, seed: int = 0, *, ordered: bool = False) -> FloatArray:
    """Extremely randomised trees on NDVI, height, season (sine and cosine), state and species, [N, 5] grams."""
    labels = _Labels.of(quadrats)
    angle = 2 * np.pi * quadrats["Sampling_Date"].dt.day_of_year.to_numpy(dtype=np.float64) / 365.25
    numbers = quadrats[["Pre_GSHH_NDVI", "Height_Ave_cm"]].to_numpy(dtype=np.float64)
    names = pd.get_dummies(quadrats[["State", "Species"]]).to_numpy(dtype=np.float64)
    metadata_NF = np.column_stack([numbers, np.sin(angle), np.cos(angle), names])

    def fit_predict(train: NDArray[np.intp], held: NDArray[np.intp]) -> FloatArray:
        def fit(rows: NDArray[np.intp], mass_MT: FloatArray) -> FloatArray:
            trees = ExtraTreesRegressor(n_estimators=200, min_samples_leaf=2, max_features=0.6, random_state=seed)
            trees.fit(metadata_NF[rows], _flat(mass_MT), sample_weight=labels.weights(rows))
            return trees.predict(metadata_NF[held]).reshape(len(held), -1)

        return labels.fit_predict(train, held, fit)

    return _out_of_fold(quadrats, folds, fit_predict, ordered)


def colour_ridge(
    colour_NF: FloatArray, quadrats: pd.DataFrame, folds: pd.DataFrame, *, ordered: bool = False
) -> FloatArray:
    """Ridge regression on standardised colour statistics, [N, 5] grams.

    The penalty is chosen within the training folds, by inner folds that keep the folds' groups together.
    Raises ValueError unless colour_NF has one finite row for each quadrat.
    """
    colour_NF = np.asarray(colour_NF, dtype=np.float64)
    if colour_NF.ndim != 2 or len(colour_NF) != len(quadrats) or not np.isfinite(colour_NF).all():
        raise ValueError(
            f"colour statistics must be finite, one row for each of {len(quadrats)} quadrats, got {colour_NF.shape}"
        )
    labels, group_N = _Labels.of(quadrats), pd.factorize(folds["group"])[0]

    def fit_predict(train: NDArray[np.intp], held: NDArray[np.intp]) -> FloatArray:
        alpha = _choose_alpha(colour_NF, labels, train, group_N[train])
        return _ridge_predictions(alpha, colour_NF, labels, train, held)

    return _out_of_fold(quadrats, folds, fit_predict, ordered)


def colour_statistics(path: Path) -> FloatArray:
    """Mean, spread and percentiles of colour channels of one photograph, [F] in the order of COLOUR_NAMES.

    Channels lie in [0, 1] (hue as cosine and sine, weighted by saturation); excess green is 2g - r - b and excess
    red 1.4r - g of the shares of red, green and blue.
    """
    with open_photograph(path) as photograph:
        photograph.draft("RGB", (2 * COLOUR_SIZE[0], 2 * COLOUR_SIZE[1]))
        photograph.load()
        small = as_rgb(photograph, path).resize(COLOUR_SIZE, Image.Resampling.BOX)
    rgb = np.asarray(small, dtype=np.float64).reshape(-1, 3) / 255
    hue, saturation, value = (np.asarray(small.convert("HSV"), dtype=np.float64).reshape(-1, 3) / 255).T
    red, green, blue = (rgb / np.maximum(rgb.sum(axis=1, keepdims=True), 1e-3)).T
    hue_cos, hue_sin = saturation * np.cos(2 * np.pi * hue), saturation * np.sin(2 * np.pi * hue)
    channel_CP = np.stack([*rgb.T, hue_cos, hue_sin, saturation, value, 2 * green - red - blue, 1.4 * red - green])
    percentile_CQ = np.percentile(channel_CP, PERCENTILES, axis=1).T
    return np.column_stack([channel_CP.mean(axis=1), channel_CP.std(axis=1), percentile_CQ]).ravel()


@dataclass(frozen=True)
class _Labels:
    """Masses of all rows, NaN where not measured, and what cells and rows count."""

    mass_NT: FloatArray
    weight: FloatArray  # of the cells, [5] or [N, 5]
    weight_N: FloatArray | None  # of the rows; None: all alike

    @classmethod
    def of(cls, quadrats: pd.DataFrame) -> _Labels:
        mass_NT, weight = measured_masses(quadrats)
        return cls(mass_NT, weight, None if weight.ndim == 1 else row_weights(weight, len(quadrats)))

    def weights(self, rows: NDArray[np.intp]) -> FloatArray | None:
        return None if self.weight_N is None else self.weight_N[rows]

    def fit_predict(
        self,
        train: NDArray[np.intp],
        held: NDArray[np.intp],
        fit: Callable[[NDArray[np.intp], FloatArray], FloatArray],
    ) -> FloatArray:
        """Predictions [held, 5] of one fit for each set of targets that were measured in the same training rows; NaN in
        targets without any. fit(rows, masses): predictions [held, targets of the set]."""
        if self.weight.ndim == 1:
            return fit(train, self.mass_NT[train])
        pred_NT = np.full((len(held), len(TARGETS)), np.nan)
        for columns, places in measured_alike(self.mass_NT[train]):
            rows = train[places]
            pred_NT[:, columns] = fit(rows, self.mass_NT[np.ix_(rows, columns)])
        return pred_NT


def _choose_alpha(colour_NF: FloatArray, labels: _Labels, train: NDArray[np.intp], group_M: NDArray[np.intp]) -> float:
    """The penalty with the best pooled score on inner folds of the training rows by group."""
    n_groups = len(np.unique(group_M))
    if n_groups < 2:
        return LONE_GROUP_ALPHA
    inner = list(GroupKFold(min(INNER_FOLDS, n_groups)).split(colour_NF[train], groups=group_M))
    mass_MT, weight = labels.mass_NT[train], weights_in(labels.weight, train)
    scores = []
    for alpha in ALPHAS:
        pred_MT = np.empty_like(mass_MT)
        for own, held in inner:
            pred_MT[held] = _ridge_predictions(alpha, colour_NF, labels, train[own], train[held])
        # a target that no inner training row has is not predicted there
        scores.append(weighted_r2_score(mass_MT, np.maximum(pred_MT, 0), weights_of(pred_MT, weight)))
    return float(ALPHAS[int(np.argmax(scores))])


def _ridge_predictions(
    alpha: float, colour_NF: FloatArray, labels: _Labels, train: NDArray[np.intp], held: NDArray[np.intp]
) -> FloatArray:
    def fit(rows: NDArray[np.intp], mass_MT: FloatArray) -> FloatArray:
        ridge = make_pipeline(StandardScaler(), Ridge(alpha=alpha))
        ridge.fit(colour_NF[rows], mass_MT, ridge__sample_weight=labels.weights(rows))
        return ridge.predict(colour_NF[held]).reshape(len(held), -1)

    return labels.fit_predict(train, held, fit)


def _flat(mass_MT: FloatArray) -> FloatArray:
    """As scikit-learn's trees want a single target: without an axis for it."""
    return mass_MT[:, 0] if mass_MT.shape[1] == 1 else mass_MT


def _out_of_fold(
    quadrats: pd.DataFrame,
    folds: pd.DataFrame,
    fit_predict: Callable[[NDArray[np.intp], NDArray[np.intp]], FloatArray],
    ordered: bool,
) -> FloatArray:
    """Predict every fold from its training rows, [N, 5] grams, clipped at 0; NaN in rows that no fold holds out."""
    if not np.array_equal(quadrats["image_id"].to_numpy(dtype=str), folds["image_id"].to_numpy(dtype=str)):
        raise ValueError("quadrats and folds must list the same image ids in the same order; assign the folds anew")
    fold_N = folds["fold"].to_numpy()
    pred_NT = np.full((len(quadrats), len(TARGETS)), np.nan)
    for fold in folds_in(fold_N):
        train, held = training_rows(fold_N, fold, ordered=ordered), fold_N == fold
        if not train.any():
            raise UserError(f"out-of-fold predictions need training rows for every fold, fold {fold} has none")
        held = np.flatnonzero(held)
        pred_NT[held] = fit_predict(np.flatnonzero(train), held)
    return np.maximum(pred_NT, 0.0)
