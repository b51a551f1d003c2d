"""Searches through the product's own door: Ray with GPU slots, or one process where there is no GPU."""

from __future__ import annotations

from gpu_checks.records import Findings
from gpu_checks.world import RANDOM, World

from orchestration.search.presets.named import smoke
from orchestration.search.presets.options import Preset
from orchestration.search.start import run_search
from orchestration.study.ledger import Ledger
from orchestration.study.records import FoldMetrics
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources
from orchestration.workers.weights_here import available_backbones
from search_spaces.domain import SearchSpace

BACKBONE = "test_vit"


def search(
    world: World,
    name: str,
    resources: Resources,
    *,
    families: tuple[str, ...],
    space: SearchSpace | None = None,
    trials: int = 1,
) -> list[FoldMetrics]:
    """Metrics of all folds of a small search; space: of the only family, else the smallest ranges.

    Raises RuntimeError where a trial did not come to its end.
    """
    backbones = (BACKBONE,) if space is None else (str(space.fixed["backbone"]),)
    asked: Preset = smoke().with_fields(families=families, backbones=backbones, trials=trials, folds=world.folds)
    study, gpu = world.folder / name, resources.gpus_per_fold != 0
    found = available_backbones(backbones, RANDOM, print)
    run_search(
        str(study),
        world.data,
        asked.settings(tuple(found), weights="random", gpu=gpu),
        weights=RANDOM,
        fingerprints=found,
        resources=resources,
        max_trials=trials,
        hours=None,
        prune="off",
        say=print,
        spaces=None if space is None else {space.family: space},
    )
    ledger = Ledger(Storage(study))
    results = ledger.results()
    open_or_failed = [result.reason for result in results.values() if result.status != "complete"]
    if len(results) != trials or open_or_failed:
        raise RuntimeError(f"all of {trials} trials must be complete, {len(results)} ended, reasons {open_or_failed}")
    metrics = (ledger.fold_metrics(trial, fold) for trial in results for fold in range(world.folds))
    return [one for one in metrics if one is not None]


def tiny_search(world: World, found: Findings) -> None:
    """A search end to end: on Ray, whose slots have a GPU; without one in this process."""
    families = ("baseline", "probe", "distilled")
    on_gpu = world.device == "cuda"
    resources = Resources(
        gpus_per_fold=1.0 if on_gpu else 0.0, slots=1, inline=not on_gpu, cache=world.folder / "cache" / "search"
    )
    if not on_gpu:
        found.note("in one process, without Ray: there is no GPU that its slots could have")
    metrics = search(world, "search", resources, families=families, trials=len(families))
    found.number("trials", "", len(families))
    found.number("seconds of a fold", "s", *(one.seconds for one in metrics))
    folds = len(families) * world.folds
    found.require(len(metrics) == folds, f"all of {folds} folds are in the ledger", len(metrics))
    cards = {str(one.environment["gpu"]) for one in metrics}
    found.require(("None" not in cards) == on_gpu, "folds run where they were asked to", cards)
    together = any("folds_together" in one.info for one in metrics)
    found.require(together == on_gpu, "folds of frozen heads are one batch on a GPU, and apart elsewhere", together)
    charged = sum(one.gpu_seconds for one in metrics)
    found.require((charged > 0) == on_gpu, "GPU seconds are counted where there is a GPU", charged)
