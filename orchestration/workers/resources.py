"""Where and with what folds run. Light to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where and with what a search runs; none of it changes a result but for the rounding of sums."""

    address: str | None = None  # of a Ray cluster; None embeds one
    inline: bool = False  # one slot, in the process of the command: no Ray
    cpus_per_fold: float = 1.0
    gpus_per_fold: float | None = None  # None: 1 where the cluster has a GPU, else 0
    max_slots: int | None = None
    fold_timeout: float | None = None  # seconds without a sign of life
    cache_dir: Path = Path("~/.cache/biomass")
    cache_gb: float | None = None  # None: no limit
    weights_gb: float | None = None  # of trained models in the study; None: no limit
    folds_together: bool | None = None  # frozen heads: all folds in one batch; None: on a GPU, where launches cost most
    compiles: bool = (
        False  # networks whose backbone trains go through torch.compile: pays on GPUs; other rounding and dropout
    )
