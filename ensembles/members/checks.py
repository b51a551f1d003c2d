"""Members that must not enter a library, each with its reason in words.

N images, T = 5 targets; masses in grams. A broken file seldom looks broken: rows in the order of the folds, columns in
another order, kilograms, log space, one NaN. Checks go from the plain to the suspected, and the first that fails is
the reason. A member that is merely bad is no such member: who has skill is decided inside of each nest (nests.py).
truth_NT is NaN where nothing was measured: such cells are not compared, and predictions of a target that was never
measured are not looked at.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import (
    TARGETS,
    TOTAL,
    FloatArray,
    IntArray,
    norm_of,
    project_coherent,
    weight_T,
    weighted_r2_score,
    weights_in,
    weights_of,
)
from ensembles.measured import SHORT, images_by_target, sums_by_target
from ensembles.members.spaces import UNITS, size, spaces, unit_text

_FAR = (1000.0, 0.001)  # matched within half an order of magnitude; the other factors must match within 25 %
_NEAR = tuple(factor for factor in UNITS if factor not in _FAR and not 0.2 < factor < 4)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What members are compared with: the truth, and the score of the per-target mean."""

    truth_NT: FloatArray
    weight: FloatArray  # of the cells in the metric
    mean_score: float  # of the per-target mean, out of fold
    orders: dict[str, IntArray]  # plausible wrong orders of rows: order[i] is the image that stands in row i

    @classmethod
    def of(
        cls,
        truth_NT: FloatArray,
        fold_N: IntArray,
        image_id_N: NDArray[np.str_],
        weight: FloatArray | None = None,
    ) -> Comparison:
        """weight: by default weights_of(truth_NT)."""
        weight = weights_of(truth_NT) if weight is None else weight
        return cls(
            truth_NT=truth_NT if weight.ndim == 1 else np.where(weight > 0, truth_NT, np.nan),
            weight=weight,
            mean_score=weighted_r2_score(truth_NT, per_target_mean(truth_NT, fold_N, weight), weight),
            orders={
                "folds": np.argsort(fold_N, kind="stable"),
                "sorted image ids": np.argsort(image_id_N, kind="stable"),
                "reversed rows": np.arange(len(truth_NT))[::-1],
            },
        )

    @property
    def norm_T(self) -> FloatArray:
        """Weight of each target in a projection; 0 for one that was never measured."""
        return norm_of(self.weight)

    def score(self, pred_NT: FloatArray) -> float:
        """Weighted R2 of predictions once they hold the identities."""
        return weighted_r2_score(self.truth_NT, project_coherent(pred_NT, self.norm_T), self.weight)


def per_target_mean(truth_NT: FloatArray, fold_N: IntArray, weight: FloatArray = weight_T) -> FloatArray:
    """Each target's mean over the other folds, [N, 5] grams; over all rows where there is one fold only, or where the
    other folds have none of a target."""
    every_T = _target_means(truth_NT, weight)
    pred_NT = np.tile(every_T, (len(truth_NT), 1))
    for fold in np.unique(fold_N):
        others_N = fold_N != fold
        if others_N.any():
            known_T = np.broadcast_to(weights_in(weight, others_N) > 0, truth_NT[others_N].shape).any(0)
            mean_T = _target_means(truth_NT[others_N], weights_in(weight, others_N))
            pred_NT[fold_N == fold] = np.where(known_T, mean_T, every_T)
    return pred_NT


def _target_means(truth_NT: FloatArray, weight: FloatArray) -> FloatArray:
    return sums_by_target(truth_NT, weight) / images_by_target(weight, len(truth_NT))


def broken_reason(pred_NT: FloatArray, comparison: Comparison) -> str | None:
    """Why predictions [N, 5] (grams, rows as the truth's) are broken, or None when they are sound."""
    measured_T = comparison.norm_T > 0
    bad_NT = ~np.isfinite(pred_NT) & measured_T
    blank_T = np.isnan(pred_NT).all(0) & measured_T
    if blank_T.any() and (blank_T != measured_T).any():
        lacking = ", ".join(SHORT[name] for name, blank in zip(TARGETS, blank_T, strict=True) if blank)
        return f"there are no predictions of {lacking}; what was measured must be predicted"
    if bad_NT.any():
        return f"{int(bad_NT.any(1).sum())} of {len(pred_NT)} images have NaN or infinite predictions"
    pred_NT = np.where(measured_T, pred_NT, np.nan)
    truth_NT = comparison.truth_NT
    return (
        constant_reason(pred_NT, comparison.norm_T)
        or _other_unit(pred_NT, truth_NT, _FAR)
        or _other_space(pred_NT, comparison)
        or _other_unit(pred_NT, truth_NT, _NEAR)
        or column_order(pred_NT, truth_NT)
        or _row_order(pred_NT, comparison)
    )


def constant_reason(pred_NT: FloatArray, norm_T: FloatArray = weight_T) -> str | None:
    """Why predictions without spread are of no use, or None. norm_T: weights of the targets, 0 if never measured."""
    known_NT = np.where(norm_T > 0, pred_NT, 0.0)
    constant_T = np.ptp(known_NT, axis=0) <= 1e-9 * np.maximum(np.abs(known_NT).max(0), 1.0)
    if norm_T[constant_T].sum() < 0.5 * norm_T.sum():
        return None
    names = ", ".join(name for name, same in zip(TARGETS, constant_T & (norm_T > 0), strict=True) if same)
    return f"predictions are constant over all images ({names})"


def _other_unit(pred_NT: FloatArray, truth_NT: FloatArray, factors: tuple[float, ...]) -> str | None:
    """Targets that are near one of the factors times the truth, which agree with it once that is undone.

    1000 and 0.001 may be off by half an order; nearer factors must be met within 25 % and halve the error, since a shy
    member is small as well.
    """
    wrong: dict[str, float] = {}
    for target, name in enumerate(TARGETS):
        known_N = np.isfinite(truth_NT[:, target])
        pred_N, truth_N = pred_NT[known_N, target], truth_NT[known_N, target]
        if not pred_N.any() or not truth_N.any():
            continue
        ratio = np.sqrt((pred_N**2).mean() / (truth_N**2).mean())
        for factor in factors:
            far, least, gain = (0.5, 0.2, 1.0) if factor in _FAR else (0.1, 0.5, 0.5)
            undone = ((pred_N / factor - truth_N) ** 2).sum() < gain * ((pred_N - truth_N) ** 2).sum()
            if abs(np.log10(ratio / factor)) < far and undone and _correlation(pred_N, truth_N) > least:
                wrong.setdefault(name, factor)
    if not wrong:
        return None
    return f"wrong units: {', '.join(wrong)} {unit_text(next(iter(wrong.values())))}"


def _other_space(pred_NT: FloatArray, comparison: Comparison) -> str | None:
    """The space or unit of predictions without skill that, once undone, gives some: more than the per-target mean."""
    as_is = comparison.score(pred_NT)
    if as_is >= comparison.mean_score:
        return None
    found: list[tuple[float, str]] = []
    for space in spaces(comparison.truth_NT):
        found.append((comparison.score(space.grams(pred_NT)), f"looks like {space.name}: {space.remedy}"))
    factor = size(pred_NT, comparison.weight) / size(comparison.truth_NT, comparison.weight)
    if not 0.45 < factor < 2.2:
        found.append((comparison.score(pred_NT / factor), f"wrong units: all masses {unit_text(factor)}"))
    best = max(score for score, _ in found)
    text = next(text for score, text in found if score >= best - 0.02)  # alike: the more usual space is named
    if best < max(comparison.mean_score + 0.05, as_is + 0.1):
        return None
    return f"{text} (scores {as_is:.3g} as it is, {best:.3f} then)"


def column_order(pred_NT: FloatArray, truth_NT: FloatArray) -> str | None:
    """Why columns seem to stand in another order than TARGETS, or None. Of the targets that the truth has.

    The columns that move must fit their new targets clearly better: half of the error, and a correlation that is higher
    by .3.
    """
    targets = np.flatnonzero(np.isfinite(truth_NT).any(0))
    names = [TARGETS[target] for target in targets]
    pred_Nt, truth_Nt = pred_NT[:, targets], truth_NT[:, targets]
    error_tt = np.nanmean((pred_Nt[:, :, None] - truth_Nt[:, None, :]) ** 2, axis=0)  # column, target
    places = range(len(targets))
    if (error_tt.argmin(1) == places).all():  # each column fits its own target best
        return None
    straight = np.trace(error_tt)
    others = list(itertools.permutations(places))[1:]  # every column order except the right one
    order = min(others, key=lambda columns: float(error_tt[list(columns), places].sum()))
    moved = [target for target, column in enumerate(order) if column != target]
    now = sum(error_tt[target, target] for target in moved)
    then = sum(error_tt[order[target], target] for target in moved)
    if straight <= 0 or then > 0.5 * now:
        return None

    def fit(column: int, target: int) -> float:
        known_N = np.isfinite(truth_Nt[:, target])
        return _correlation(pred_Nt[known_N, column], truth_Nt[known_N, target])

    fits_now = float(np.mean([fit(target, target) for target in moved]))
    fits_then = float(np.mean([fit(order[target], target) for target in moved]))
    if fits_then < max(0.5, fits_now + 0.3) and not (fits_then > 0.5 and then < 0.2 * now):
        return None
    held = ", ".join(names[order.index(column)] for column in places)
    return f"columns look permuted: they fit the truth as {held}; put them in the order {', '.join(names)}"


def _row_order(pred_NT: FloatArray, comparison: Comparison) -> str | None:
    """Why the rows of predictions without skill seem to stand in another order, or None: by the heaviest target."""
    score = comparison.score(pred_NT)
    if score >= comparison.mean_score:
        return None
    floor = no_skill_reason(score, comparison.mean_score)
    target = heaviest_target(comparison.norm_T)
    known_N = np.isfinite(comparison.truth_NT[:, target])
    pred_N, truth_n = pred_NT[:, target], comparison.truth_NT[known_N, target]
    aligned = _correlation(pred_N[known_N], truth_n)
    for name, order in comparison.orders.items():
        undone_N = np.empty_like(pred_N)
        undone_N[order] = pred_N
        if _correlation(undone_N[known_N], truth_n) > max(0.5, aligned + 0.3):
            return f"rows look permuted: they fit the truth in the order of {name}; {floor}"
    # sorted, any two samples correlate; those of a sound model whose rows were permuted also agree in grams
    if aligned < 0.3 and _r2(np.sort(pred_N[known_N]), np.sort(truth_n)) > 0.6:
        return (
            f"rows look permuted or misaligned: {SHORT[TARGETS[target]]} masses agree with the truth when both are "
            f"sorted, but correlate {aligned:.2f} image by image; {floor}"
        )
    return None


def heaviest_target(norm_T: FloatArray) -> int:
    """The total where it was measured, else the target with the largest weight."""
    return TOTAL if norm_T[TOTAL] > 0 else int(norm_T.argmax())


def no_skill_reason(score: float, mean_score: float) -> str:
    """Why a member has no weight; score: of its projected rows."""
    return f"projected onto the identities it scores {score:.3f}, below the per-target mean's {mean_score:.3f}"


def _correlation(left_N: FloatArray, right_N: FloatArray) -> float:
    left, right = left_N - left_N.mean(), right_N - right_N.mean()
    size = np.sqrt((left @ left) * (right @ right))
    return float(left @ right / size) if size > 0 else 0.0


def _r2(pred_N: FloatArray, truth_N: FloatArray) -> float:
    spread = float(((truth_N - truth_N.mean()) ** 2).sum())
    return 1 - float(((truth_N - pred_N) ** 2).sum()) / spread if spread > 0 else 0.0
