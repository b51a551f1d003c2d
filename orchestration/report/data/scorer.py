"""How predictions do on parts of a study's images, and trends in their residuals. N images; masses in grams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from biomass_models.targets import FloatArray, weighted_sst
from ensembles.scorer import mean_loss


@dataclass(frozen=True, kw_only=True)
class Part:
    """How predictions do on some of the images, such as those of one day."""

    name: str
    images: int
    r2: float | None  # within the part, around its own mean; None without spread
    error: float  # root of the mean weighted squared error, g
    share: float  # of the whole study's squared error
    bias: float  # mean of predicted minus measured total, g


def parts(truth_NT: FloatArray, pred_NT: FloatArray, key_N: ArrayLike) -> list[Part]:
    """One entry for each value of the key, in the order of the values; the score of [R, N, 5] is a mean."""
    key = np.asarray(key_N).astype(str)
    loss_N = mean_loss(truth_NT, pred_NT)
    found = []
    for name in np.unique(key):
        rows = key == name
        sst = weighted_sst(truth_NT[rows])
        found.append(
            Part(
                name=str(name),
                images=int(rows.sum()),
                r2=float(1 - loss_N[rows].sum() / sst) if sst > 0 else None,
                error=float(np.sqrt(loss_N[rows].mean())),
                share=float(loss_N[rows].sum() / loss_N.sum()) if loss_N.any() else 0.0,
                bias=float((pred_NT[..., rows, -1] - truth_NT[rows, -1]).mean()),
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
