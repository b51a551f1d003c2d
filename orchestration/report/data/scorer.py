"""How predictions do on parts of a study's images, and trends in their residuals. N images; masses in grams."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from biomass_models.targets import TOTAL, FloatArray, spread_of, weight_T, weighted_sst, weights_in, weights_of
from ensembles.scorer import mean_loss


@dataclass(frozen=True, kw_only=True)
class TargetError:
    """How predictions do on one target, over the images in which it was measured, by their weights (photographs of one
    quadrat count as one); masses in the user's unit."""

    images: int
    mean: float  # measured
    rmse: float
    bias: float  # mean of predicted minus measured
    r2: float  # around the target's own mean; NaN without spread

    @property
    def relative(self) -> float:
        """RMSE as a share of the mean; NaN where that is 0."""
        return self.rmse / self.mean if self.mean > 0 else math.nan


def target_error(
    truth_NT: FloatArray,
    pred_NT: FloatArray,
    target: int,
    per_gram: FloatArray | float = 1.0,
    weight: FloatArray = weight_T,
) -> TargetError | None:
    """Of rows [N, 5] in grams, or as a mean over partitions [R, N, 5]; None where it was measured in none.

    per_gram: how much of the user's unit a gram is, [N, 1] or one number; weight: of the cells, as for parts.
    """
    known_N = np.isfinite(truth_NT[:, target]) & np.broadcast_to(weight > 0, truth_NT.shape)[:, target]
    if not known_N.any():
        return None
    factor_N = np.broadcast_to(np.reshape(per_gram, (-1,)), known_N.shape)[known_N]
    truth_N, residual_RN = truth_NT[known_N, target] * factor_N, pred_NT[..., known_N, target] * factor_N
    residual_RN = residual_RN - truth_N
    if weight.ndim > 1:
        return _weighted_error(truth_N, np.atleast_2d(residual_RN), weight[known_N, target])
    square_RN = np.atleast_2d(residual_RN**2)
    spread = float(spread_of(((truth_N - truth_N.mean()) ** 2).sum(), (truth_N**2).sum()))
    return TargetError(
        images=int(known_N.sum()),
        mean=float(truth_N.mean()),
        rmse=float(np.sqrt(square_RN.mean())),
        bias=float(residual_RN.mean()),
        r2=1 - float(square_RN.sum(1).mean()) / spread if spread > 0 else math.nan,
    )


def _weighted_error(truth_N: FloatArray, residual_RN: FloatArray, weight_N: FloatArray) -> TargetError:
    """Of the measured rows alone."""
    mean, square = float(np.average(truth_N, weights=weight_N)), (residual_RN**2).mean(0)
    spread = float(spread_of(weight_N @ (truth_N - mean) ** 2, weight_N @ truth_N**2))
    return TargetError(
        images=len(truth_N),
        mean=mean,
        rmse=float(np.sqrt(np.average(square, weights=weight_N))),
        bias=float(np.average(residual_RN.mean(0), weights=weight_N)),
        r2=1 - float(weight_N @ square) / spread if spread > 0 else math.nan,
    )


@dataclass(frozen=True, kw_only=True)
class Part:
    """How predictions do on some of the images, such as those of one day."""

    name: str
    images: int
    r2: float | None  # within the part, around its own mean; None without spread
    error: float  # root of the mean weighted squared error, g
    share: float  # of the whole study's squared error
    main: TargetError | None  # of the target that pages show first; None where it was not measured


def parts(
    truth_NT: FloatArray,
    pred_NT: FloatArray,
    key_N: ArrayLike,
    *,
    weight: FloatArray | None = None,
    main: int = TOTAL,
    per_gram: FloatArray | float = 1.0,
) -> list[Part]:
    """One entry for each value of the key, in the order of the values; the score of [R, N, 5] is a mean.

    weight: of the cells, by default weights_of(truth_NT); main, per_gram: as for target_error.
    """
    key = np.asarray(key_N).astype(str)
    weight = weights_of(truth_NT) if weight is None else weight
    loss_N = mean_loss(truth_NT, pred_NT, weight)
    factor_N = np.broadcast_to(np.reshape(per_gram, (-1,)), key.shape)
    found = []
    for name in np.unique(key):
        rows = key == name
        sst = weighted_sst(truth_NT[rows], weights_in(weight, rows))
        found.append(
            Part(
                name=str(name),
                images=int(rows.sum()),
                r2=float(1 - loss_N[rows].sum() / sst) if sst > 0 else None,
                error=float(np.sqrt(loss_N[rows].mean())),
                share=float(loss_N[rows].sum() / loss_N.sum()) if loss_N.any() else 0.0,
                main=target_error(
                    truth_NT[rows], pred_NT[..., rows, :], main, factor_N[rows], weights_in(weight, rows)
                ),
            )
        )
    return found


def binned_mean(x_N: FloatArray, y_N: FloatArray, bins: int = 8) -> list[tuple[float, float, int]]:
    """(median x, mean y, count) of bins that hold equally many values of x; equal values never part.

    The line that shows a trend in a cloud of residuals. Empty for fewer than 2 different values.
    """
    order = np.argsort(x_N, kind="stable")
    x, y = x_N[order], y_N[order]
    if len(x) == 0 or x[0] == x[-1]:
        return []
    edges = np.unique(np.searchsorted(x, np.quantile(x, np.arange(1, bins) / bins), side="right"))
    pieces = [piece for piece in zip(np.split(x, edges), np.split(y, edges), strict=True) if len(piece[0])]
    return [(float(np.median(xs)), float(ys.mean()), len(xs)) for xs, ys in pieces]
