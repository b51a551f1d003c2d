"""Members that must not enter a library, each with its reason in words.

N images, T = 5 targets; masses in grams. A broken file seldom looks broken: rows in the order of the folds, columns in
another order, kilograms, log space, one NaN. Checks go from the plain to the suspected, and the first that fails is
the reason. A member that is merely bad is no such member: who has skill is decided inside of each nest (nests.py).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import TARGETS, TOTAL, FloatArray, IntArray, project_coherent, weight_T, weighted_r2_score
from ensembles.members.spaces import UNITS, size, spaces, unit_text

_FAR = (1000.0, 0.001)  # matched within half an order of magnitude; the other factors must match within 25 %
_NEAR = tuple(factor for factor in UNITS if factor not in _FAR and not 0.2 < factor < 4)
_ORDERS = [list(order) for order in itertools.permutations(range(len(TARGETS)))][
    1:
]  # every column order except the right one


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What members are compared with: the truth, and the score of the per-target mean."""

    truth_NT: FloatArray
    mean_score: float  # of the per-target mean, out of fold
    orders: dict[str, IntArray]  # plausible wrong orders of rows: order[i] is the image that stands in row i

    @classmethod
    def of(cls, truth_NT: FloatArray, fold_N: IntArray, image_id_N: NDArray[np.str_]) -> Comparison:
        return cls(
            truth_NT=truth_NT,
            mean_score=weighted_r2_score(truth_NT, per_target_mean(truth_NT, fold_N)),
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


def broken_reason(pred_NT: FloatArray, comparison: Comparison) -> str | None:
    """Why predictions [N, 5] (grams, rows as the truth's) are broken, or None when they are sound."""
    bad_N = ~np.isfinite(pred_NT).all(1)
    if bad_N.any():
        return f"{int(bad_N.sum())} of {len(pred_NT)} images have NaN or infinite predictions"
    truth_NT = comparison.truth_NT
    return (
        constant_reason(pred_NT)
        or _other_unit(pred_NT, truth_NT, _FAR)
        or _other_space(pred_NT, comparison)
        or _other_unit(pred_NT, truth_NT, _NEAR)
        or column_order(pred_NT, truth_NT)
        or _row_order(pred_NT, comparison)
    )


def constant_reason(pred_NT: FloatArray) -> str | None:
    """Why predictions without spread are of no use, or None."""
    spread_T = np.ptp(pred_NT, axis=0)
    constant_T = spread_T <= 1e-9 * np.maximum(np.abs(pred_NT).max(0), 1.0)
    if weight_T[constant_T].sum() < 0.5:
        return None
    names = ", ".join(name for name, same in zip(TARGETS, constant_T, strict=True) if same)
    return f"predictions are constant over all images ({names})"


def _other_unit(pred_NT: FloatArray, truth_NT: FloatArray, factors: tuple[float, ...]) -> str | None:
    """Targets that are near one of the factors times the truth, which agree with it once that is undone.

    1000 and 0.001 may be off by half an order; nearer factors must be met within 25 % and halve the error, since a shy
    member is small as well.
    """
    pred_size_T = np.sqrt((pred_NT**2).mean(0))
    truth_size_T = np.sqrt((truth_NT**2).mean(0))
    wrong: dict[str, float] = {}
    for target, name in enumerate(TARGETS):
        if pred_size_T[target] <= 0 or truth_size_T[target] <= 0:
            continue
        ratio = pred_size_T[target] / truth_size_T[target]
        pred_N, truth_N = pred_NT[:, target], truth_NT[:, target]
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
    truth_NT = comparison.truth_NT
    as_is = weighted_r2_score(truth_NT, project_coherent(pred_NT))
    if as_is >= comparison.mean_score:
        return None
    found: list[tuple[float, str]] = []
    for space in spaces(truth_NT):
        score = weighted_r2_score(truth_NT, project_coherent(space.grams(pred_NT)))
        found.append((score, f"looks like {space.name}: {space.remedy}"))
    factor = size(pred_NT) / size(truth_NT)
    if not 0.45 < factor < 2.2:
        score = weighted_r2_score(truth_NT, project_coherent(pred_NT / factor))
        found.append((score, f"wrong units: all masses {unit_text(factor)}"))
    best = max(score for score, _ in found)
    text = next(text for score, text in found if score >= best - 0.02)  # alike: the more usual space is named
    if best < max(comparison.mean_score + 0.05, as_is + 0.1):
        return None
    return f"{text} (scores {as_is:.3g} as it is, {best:.3f} then)"


def column_order(pred_NT: FloatArray, truth_NT: FloatArray) -> str | None:
    """Why columns seem to stand in another order than TARGETS, or None.

    The columns that move must fit their new targets clearly better: half of the error, and a correlation that is higher
    by .3.
    """
    error_TT = ((pred_NT[:, :, None] - truth_NT[:, None, :]) ** 2).mean(0)  # column, target
    if (error_TT.argmin(1) == np.arange(len(TARGETS))).all():  # each column fits its own target best
        return None
    straight = np.trace(error_TT)
    order = min(_ORDERS, key=lambda columns: float(error_TT[columns, range(len(TARGETS))].sum()))
    moved = [target for target, column in enumerate(order) if column != target]
    now = sum(error_TT[target, target] for target in moved)
    then = sum(error_TT[order[target], target] for target in moved)
    if straight <= 0 or then > 0.5 * now:
        return None
    fits_now = float(np.mean([_correlation(pred_NT[:, target], truth_NT[:, target]) for target in moved]))
    fits_then = float(np.mean([_correlation(pred_NT[:, order[target]], truth_NT[:, target]) for target in moved]))
    if fits_then < max(0.5, fits_now + 0.3) and not (fits_then > 0.5 and then < 0.2 * now):
        return None
    held = ", ".join(TARGETS[order.index(column)] for column in range(len(TARGETS)))
    return f"columns look permuted: they fit the truth as {held}; put them in the order {', '.join(TARGETS)}"


def _row_order(pred_NT: FloatArray, comparison: Comparison) -> str | None:
    """Why the rows of predictions without skill seem to stand in another order, or None."""
    score = weighted_r2_score(comparison.truth_NT, project_coherent(pred_NT))
    if score >= comparison.mean_score:
        return None
    floor = no_skill_reason(score, comparison.mean_score)
    pred_N, truth_N = pred_NT[:, TOTAL], comparison.truth_NT[:, TOTAL]
    aligned = _correlation(pred_N, truth_N)
    for name, order in comparison.orders.items():
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
    return None


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
