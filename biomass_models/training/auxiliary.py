"""What a network learns beside the masses, where its configuration asks for it: layers, their targets, their loss.

M training rows, B images of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biomass_models.targets import norm_of
from biomass_models.training.config import NetworkOptions
from biomass_models.training.fit import FoldRows
from biomass_models.training.intervals import Edges, IntervalHeads, bin_counts, interval_losses, quantile_edges
from biomass_models.training.mixup import BatchRows


class Observed(NamedTuple):
    """A network's output in training, with those of the layers that are only there to train."""

    output: Any  # what the network predicts from
    interval_BK: Tensor | None  # logits (intervals.py)


@dataclass(frozen=True)
class Auxiliary:
    """Targets of the training rows on the device, and how they weigh."""

    mass_MT: Tensor  # grams, NaN where not measured
    weight_M: Tensor  # of the rows
    weight_T: Tensor  # of the targets, 0 where never measured
    edge_T: Edges
    interval_weight: float

    @classmethod
    def of(cls, config: NetworkOptions, rows: FoldRows, weight_M: Tensor) -> Auxiliary | None:
        """None where the masses are all that the configuration learns.

        weight_M: of the training rows, on the device.
        """
        if config.interval_bins == 0:
            return None
        return cls(
            mass_MT=torch.from_numpy(rows.train_mass_MT).to(weight_M.device),
            weight_M=weight_M,
            weight_T=torch.from_numpy(norm_of(rows.train_weight)).to(weight_M),
            edge_T=quantile_edges(rows.train_mass_MT, config.interval_bins),
            interval_weight=config.interval_weight,
        )

    def interval_heads(self, hidden: int) -> IntervalHeads | None:
        """None where no mass varies."""
        counts = bin_counts(self.edge_T)
        return IntervalHeads(hidden, counts) if counts else None

    def terms(self, seen: Observed, rows: BatchRows) -> dict[str, Tensor]:
        """Mean over the batch of each term of the loss, times its weight."""
        terms = {}
        if seen.interval_BK is not None:
            loss_B = interval_losses(seen.interval_BK, rows.of(self.mass_MT), self.edge_T, self.weight_T)
            terms["intervals"] = self.interval_weight * (rows.of(self.weight_M) * loss_B).mean()
        return terms
