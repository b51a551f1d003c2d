"""Where and with what folds run. Light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestration.option import SLOTS, option
from orchestration.study.settings import StudyError
from orchestration.workers.address import cluster_address, is_cluster


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where and with what folds run; none of it changes a result but for the rounding of sums.

    Raises StudyError where more is asked for than one process is, and one process as well.
    """

    cpus_per_fold: float = field(default=1.0, metadata=option("CPUs of a slot.", SLOTS, minimum=0.1))
    gpus_per_fold: float | None = field(  # None: 1 where the cluster has a GPU, else 0
        default=None, metadata=option("GPUs of a slot.", SLOTS, minimum=0.0, default="1 if any")
    )
    slots: int | None = field(default=None, metadata=option("Most slots to use.", SLOTS, minimum=1))
    fold_timeout: float | None = field(
        default=7200.0,
        metadata=option(
            "Seconds without a sign of life (an epoch, a batch) until a fold counts as hung.",
            SLOTS,
            unit="s",
            minimum=1,
        ),
    )
    folds_together: bool | None = field(  # None: on a GPU, where launches cost most
        default=None,
        metadata=option(
            "Train all folds of a frozen head in one batch (default on a GPU).",
            SLOTS,
            spelling="--folds-together/--folds-apart",
        ),
    )
    compile: bool = field(  # other rounding and dropout
        default=False,
        metadata=option(
            "Use torch.compile for networks whose backbone trains.", SLOTS, spelling="--compile/--no-compile"
        ),
    )
    cache: Path = field(
        default=Path("~/.cache/biomass"),
        metadata=option("Feature cache, on a disk of this node.", SLOTS, variable="BIOMASS_CACHE", noted=False),
    )
    cache_gb: float | None = field(  # None: no limit
        default=None,
        metadata=option(
            "Most GB in the cache; the longest unused goes first.", SLOTS, unit="GB", minimum=0.001, noted=False
        ),
    )
    weights_gb: float | None = field(  # None: no limit
        default=None,
        metadata=option(
            "Most GB of trained models; the worst trials' models are deleted first.",
            SLOTS,
            unit="GB",
            minimum=1e-6,
            noted=False,
        ),
    )
    address: str | None = field(
        default=None,
        metadata=option("Ray cluster (or RAY_ADDRESS); without it Ray is embedded.", SLOTS, noted=False),
    )
    inline: bool = field(
        default=False,
        metadata=option("Work in this process, without Ray: one slot.", SLOTS, spelling="--inline", noted=False),
    )

    def __post_init__(self) -> None:
        if not self.inline:
            return
        if is_cluster(self.address):
            raise StudyError(
                f"--inline works in this process, got the cluster {cluster_address(self.address)}; leave out one of "
                "the two (RAY_ADDRESS names a cluster as well)"
            )
        if (self.slots or 1) > 1:
            raise StudyError(f"--inline has one slot, got --slots {self.slots}; leave out one of the two")
