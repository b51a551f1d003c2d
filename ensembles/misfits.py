"""Members that must not enter a blend, each with its reason in words.

N images, T = 5 targets; masses in grams. A broken file seldom looks broken: rows in the order of the folds, kilograms,
one NaN. Checks go from the plain to the suspected, and the first that fails is the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import TARGETS, TOTAL, FloatArray, project_coherent, weight_T, weighted_r2_score
from ensembles.gram import IntArray

UNIT_FACTORS = {1000.0: "milligrams", 0.001: "kilograms"}  # what a mass in grams is multiplied by


@dataclass(frozen=True, kw_only=True, eq=False)
class Yardstick:
    """The truth that members are held against."""

    truth_NT: FloatArray
    baseline_score: float  # of the per-target mean, out of fold
    orders: dict[str, IntArray]  # plausible wrong orders of rows: order[i] is the image that stands in row i

    @classmethod
    def of(cls, truth_NT: FloatArray, fold_N: IntArray, image_id_N: NDArray[np.str_]) -> Yardstick:
        return cls(
            truth_NT=truth_NT,
            baseline_score=weighted_r2_score(truth_NT, per_target_mean(truth_NT, fold_N)),
            orders={
                "folds": np.argsort(fold_N, kind="stable"),
                "sorted image ids": np.argsort(image_id_N, kind="stable"),
                "reversed rows": np.arange(len(truth_NT))[::-1],
            },
        )


def per_target_mean(truth_NT: FloatArray, fold_N: IntArray) -> FloatArray:
    """Each target's mean over the other folds, [N, 5] grams; over all rows where there is one fold only."""
    pred_NT = np.tile(truth_NT.mean(0), (len(truth_NT), 1))
    for fold in np.unique(fold_N):
        if (fold_N != fold).any():
            pred_NT[fold_N == fold] = truth_NT[fold_N != fold].mean(0)
    return pred_NT


def misfit_reason(pred_NT: FloatArray, yardstick: Yardstick) -> str | None:
    """Why predictions [N, 5] (grams, rows as the truth's) must be left out, or None when they are sound."""
    bad_N = ~np.isfinite(pred_NT).all(1)
    if bad_N.any():
        return f"{int(bad_N.sum())} of {len(pred_NT)} images have NaN or infinite predictions"
    return _constant(pred_NT) or _wrong_unit(pred_NT, yardstick.truth_NT) or _no_skill(pred_NT, yardstick)


def _constant(pred_NT: FloatArray) -> str | None:
    spread_T = np.ptp(pred_NT, axis=0)
    constant_T = spread_T <= 1e-9 * np.maximum(np.abs(pred_NT).max(0), 1.0)
    if weight_T[constant_T].sum() < 0.5:
        return None
    names = ", ".join(name for name, same in zip(TARGETS, constant_T, strict=True) if same)
    return f"predictions are constant over all images ({names})"


def _wrong_unit(pred_NT: FloatArray, truth_NT: FloatArray) -> str | None:
    """A factor near 1000 or 0.001 between predictions and truth that, once undone, leaves predictions with skill."""
    pred_size_T = np.sqrt((pred_NT**2).mean(0))
    truth_size_T = np.sqrt((truth_NT**2).mean(0))
    wrong = {}
    for target, name in enumerate(TARGETS):
        if pred_size_T[target] <= 0 or truth_size_T[target] <= 0:
            continue
        ratio = pred_size_T[target] / truth_size_T[target]
        for factor, unit in UNIT_FACTORS.items():
            pred_N, truth_N = pred_NT[:, target], truth_NT[:, target]
            undone_is_better = ((pred_N / factor - truth_N) ** 2).sum() < ((pred_N - truth_N) ** 2).sum()
            if abs(np.log10(ratio / factor)) < 0.5 and undone_is_better and _correlation(pred_N, truth_N) > 0.2:
                wrong[name] = (factor, unit)
    if not wrong:
        return None
    factor, unit = next(iter(wrong.values()))
    return f"wrong units: {', '.join(wrong)} about {factor:g} times the truth; convert {unit} to grams"


def _no_skill(pred_NT: FloatArray, yardstick: Yardstick) -> str | None:
    score = weighted_r2_score(yardstick.truth_NT, project_coherent(pred_NT))
    if score >= yardstick.baseline_score:
        return None
    floor = f"scores {score:.3f}, below the per-target mean's {yardstick.baseline_score:.3f}"
    pred_N, truth_N = pred_NT[:, TOTAL], yardstick.truth_NT[:, TOTAL]
    aligned = _correlation(pred_N, truth_N)
    for name, order in yardstick.orders.items():
        undone_N = np.empty_like(pred_N)
        undone_N[order] = pred_N
        if _correlation(undone_N, truth_N) > max(0.5, aligned + 0.3):
            return f"rows look permuted: they fit the truth in the order of {name}; {floor}"
    # sorted, any two samples correlate; those of a sound model whose rows were permuted also agree in grams
    if aligned < 0.3 and _r2(np.sort(pred_N), np.sort(truth_N)) > 0.6:
        return (
            f"rows look permuted or misaligned: total masses agree with the truth when both are sorted, "
            f"but correlate {aligned:.2f} image by image; {floor}"
        )
    return floor


def _correlation(left_N: FloatArray, right_N: FloatArray) -> float:
    left, right = left_N - left_N.mean(), right_N - right_N.mean()
    size = np.sqrt((left @ left) * (right @ right))
    return float(left @ right / size) if size > 0 else 0.0


def _r2(pred_N: FloatArray, truth_N: FloatArray) -> float:
    spread = float(((truth_N - truth_N.mean()) ** 2).sum())
    return 1 - float(((truth_N - pred_N) ** 2).sum()) / spread if spread > 0 else 0.0
