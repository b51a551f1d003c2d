"""Mixup: inputs and masses of two training rows mixed (Zhang et al. 2018, arXiv 1710.09412).

M training rows, B rows of a batch, each mixed with another of the same batch.
share_B   what the row itself counts, drawn from Beta(alpha, alpha); its partner counts 1 - share
Masses are mixed in grams; ratios and z-scores are computed of the mixture, so that the identities hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biomass_models.training.fit import seed_for


@dataclass(frozen=True)
class Mixture:
    """Which rows of a batch are mixed, and how much."""

    share_B: Tensor
    partner_B: Tensor  # place in the batch

    def of_inputs(self, given: Any) -> Any:
        """Whatever a source gives: every tensor [B, ...] in it is mixed."""
        if isinstance(given, Tensor):
            return _mixed(given, given[self.partner_B.to(given.device)], self.share_B)
        if isinstance(given, tuple):
            parts = [self.of_inputs(part) for part in given]
            return type(given)(*parts) if hasattr(given, "_fields") else tuple(parts)
        return given


@dataclass(frozen=True)
class BatchRows:
    """Training rows of a batch, each mixed with its partner where there is a mixture."""

    index_B: Tensor  # positions among the training rows, on the device
    mixture: Mixture | None = None

    def of(self, value_M: Tensor) -> Tensor:
        """What is known of training rows [M, ...] -> of the batch [B, ...]; NaN where one of both is."""
        own = value_M[self.index_B]
        if self.mixture is None:
            return own
        return _mixed(own, own[self.mixture.partner_B.to(own.device)], self.mixture.share_B)

    def weights(self, weight: Tensor) -> Tensor:
        """Weights of cells, [5] as they are or [M, 5] -> [B, 5]: 0 where one of both is (nothing is known)."""
        if weight.ndim == 1:
            return weight
        return self.of(torch.where(weight > 0, weight, torch.nan)).nan_to_num(nan=0.0)


class Mixup:
    """Draws of mixtures with a seed of their own; alpha = 0 mixes nothing."""

    def __init__(self, alpha: float, seed: int) -> None:
        self.alpha = alpha
        self._draws = np.random.default_rng(seed_for(seed, "mixup"))

    def draw(self, rows: int) -> Mixture | None:
        """For a batch of so many rows; a partner may be the row itself."""
        if self.alpha == 0:
            return None
        share_B = self._draws.beta(self.alpha, self.alpha, rows)
        return Mixture(torch.from_numpy(share_B), torch.from_numpy(self._draws.permutation(rows)))


def _mixed(own: Tensor, partner: Tensor, share_B: Tensor) -> Tensor:
    share = share_B.to(own).view(-1, *[1] * (own.ndim - 1))
    return share * own + (1 - share) * partner
