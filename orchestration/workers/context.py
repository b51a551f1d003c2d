"""What a worker is made with. Light to import: the broker hands it on, and needs no torch for that."""

from __future__ import annotations

from dataclasses import dataclass, replace

from biomass_models.backbones.weights import WeightsSource
from orchestration.workers.resources import Resources


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """Where a worker finds things; the same for every job of a study."""

    study: str  # folder or URI
    data_dir: str
    cache: str  # on the node's own disk
    weights: WeightsSource
    gpus: float = 0.0  # of one slot
    device: str = "auto"  # what the slot computes on: cpu, or the GPU where it sees one (auto)
    cache_gb: float | None = None  # what the cache may hold; None is no limit
    compile: bool = False  # networks whose backbone trains go through torch.compile

    def of_slot(self, resources: Resources, gpus: float) -> WorkerContext:
        """The context of a slot that has what was asked for: without a share of a GPU it uses none that it sees."""
        device = "auto" if gpus else "cpu"
        return replace(self, gpus=gpus, device=device, cache_gb=resources.cache_gb, compile=resources.compile)
