"""What a network learns beside the masses, where its configuration asks for it: layers, their targets, their loss.

M training rows, B images of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from biomass_models.targets import norm_of
from biomass_models.training.config import NetworkOptions
from biomass_models.training.fit import FoldRows
from biomass_models.training.intervals import Edges, IntervalHeads, bin_counts, interval_losses, quantile_edges
from biomass_models.training.mixup import BatchRows
from biomass_models.training.predicted_metadata import Heads, PredictedMetadata, metadata_losses, metadata_targets


class Observed(NamedTuple):
    """A network's output in training, with those of the layers that are only there to train."""

    output: Any  # what the network predicts from
    interval_BK: Tensor | None  # logits (intervals.py)
    metadata_BP: Tensor | None  # what the heads predict (predicted_metadata.py)


@dataclass(frozen=True)
class Auxiliary:
    """Targets of the training rows on the device, and how they weigh."""

    mass_MT: Tensor  # grams, NaN where not measured
    weight_M: Tensor  # of the rows
    weight_T: Tensor  # of the targets, 0 where never measured
    edge_T: Edges  # no target has any where nothing is classified
    interval_weight: float
    predicts_metadata: bool
    heads: Heads | None  # None where no metadata are predicted, or none differ
    target_MP: Tensor
    mass_weight: float  # of the masses in the loss, beside which metadata weigh

    @classmethod
    def of(
        cls,
        config: NetworkOptions,
        quadrats: pd.DataFrame,
        rows: FoldRows,
        weight_M: Tensor,
        *,
        mass_weight: float = 1.0,
        seed: int,
    ) -> Auxiliary | None:
        """None where the masses are all that the configuration learns.

        weight_M: of the training rows, on the device. mass_weight: of the masses in the loss.
        """
        metadata = config.predicted_metadata != "none"
        if config.interval_bins == 0 and not metadata:
            return None
        table = quadrats.iloc[rows.labelled_M]
        shuffled_by = seed if config.predicted_metadata == "shuffled" else None
        heads, target_LP = metadata_targets(table if metadata else table[[]], shuffled_by=shuffled_by)
        return cls(
            mass_MT=torch.from_numpy(rows.train_mass_MT).to(weight_M.device),
            weight_M=weight_M,
            weight_T=torch.from_numpy(norm_of(rows.labelled_weight)).to(weight_M),
            edge_T=quantile_edges(rows.labelled_mass_MT, config.interval_bins) if config.interval_bins else (),
            interval_weight=config.interval_weight,
            predicts_metadata=metadata,
            heads=heads if sum(heads.sizes) else None,
            target_MP=torch.from_numpy(rows.of_training(target_LP)).to(weight_M),
            mass_weight=mass_weight,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the fit's record notes: metadata that were asked for and could not be learned."""
        if self.predicts_metadata and self.heads is None:
            return ("no metadata are predicted: in the training rows none were noted that differ",)
        return ()

    def interval_heads(self, hidden: int) -> IntervalHeads | None:
        """None where nothing is classified."""
        counts = bin_counts(self.edge_T)
        return IntervalHeads(hidden, counts) if counts else None

    def film(self, features: int) -> PredictedMetadata | None:
        """None where no metadata are predicted."""
        return None if self.heads is None else PredictedMetadata(features, self.heads.sizes)

    def terms(self, seen: Observed, rows: BatchRows) -> dict[str, Tensor]:
        """Mean over the batch of each term of the loss, times its weight."""
        terms, weight_B = {}, rows.of(self.weight_M)
        if seen.interval_BK is not None:
            loss_B = interval_losses(seen.interval_BK, rows.of(self.mass_MT), self.edge_T, self.weight_T)
            terms["intervals"] = self.interval_weight * (weight_B * loss_B).mean()
        if seen.metadata_BP is not None and self.heads is not None:
            loss_B = metadata_losses(seen.metadata_BP, rows.of(self.target_MP), self.heads)
            terms["metadata"] = self.mass_weight * (weight_B * loss_B).mean()
        return terms
