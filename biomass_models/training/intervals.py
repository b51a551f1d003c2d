"""Interval heads: beside the regression, for each mass a classifier over bins of what was measured.

They make the layers before them separate light from heavy quadrats, and are thrown away after training.
M training rows, B images, T = 5 targets, K bins of all targets side by side, H hidden units.
edge_T   grams, for each target the inner edges of its bins, ascending; bin k holds edge[k - 1] < mass <= edge[k].
         Empty for a target that was never measured or never varies: it has no classifier
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from biomass_models.targets import FloatArray

Edges = tuple[tuple[float, ...], ...]


def quantile_edges(mass_MT: FloatArray, bins: int) -> Edges:
    """Inner edges at the quantiles 1 / bins, 2 / bins, ... of each target's measured masses, themselves such masses;
    equal ones are one edge.

    mass_MT: grams of the training rows, NaN where not measured. An edge with nothing above it is none.
    """
    return tuple(_edges(mass_M[~np.isnan(mass_M)], bins) for mass_M in mass_MT.T)


def _edges(mass_N: FloatArray, bins: int) -> tuple[float, ...]:
    if not len(mass_N):
        return ()
    edge_K = np.unique(np.quantile(mass_N, np.arange(1, bins) / bins, method="inverted_cdf"))
    return tuple(edge_K[edge_K < mass_N.max()].tolist())


def bin_counts(edge_T: Edges) -> tuple[int, ...]:
    """Bins of each target that has a classifier."""
    return tuple(len(edges) + 1 for edges in edge_T if edges)


class IntervalHeads(nn.Linear):
    """Hidden units [B, H] -> logits of all bins, side by side [B, K]."""

    def __init__(self, hidden: int, counts: Sequence[int]) -> None:
        super().__init__(hidden, sum(counts))


def interval_losses(logit_BK: Tensor, mass_BT: Tensor, edge_T: Edges, weight_T: Tensor) -> Tensor:
    """Cross-entropy of each mass's bin, weighted by target, [B].

    mass_BT: grams, NaN where not measured: such a cell adds exactly 0, and nothing to a gradient. weight_T: [5].
    """
    columns = [column for column, edges in enumerate(edge_T) if edges]
    parts = logit_BK.float().split(bin_counts(edge_T), dim=1)
    loss_B = logit_BK.new_zeros(len(logit_BK), dtype=torch.float32)
    for column, logit_BC in zip(columns, parts, strict=True):
        mass_B = mass_BT[:, column].contiguous()
        known_B = ~mass_B.isnan()
        edge_C = torch.tensor(edge_T[column], dtype=mass_B.dtype, device=mass_B.device)
        bin_B = torch.bucketize(torch.where(known_B, mass_B, 0.0), edge_C)
        entropy_B = functional.cross_entropy(logit_BC, bin_B, reduction="none")
        loss_B = loss_B + weight_T[column] * torch.where(known_B, entropy_B, 0.0)
    return loss_B
