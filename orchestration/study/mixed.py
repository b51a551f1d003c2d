"""What changes a fold's numbers and is no setting: where the folds of a trial differ in it, their score mixes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestration.study.records import FoldMetrics

Mixed = Mapping[str, tuple[str, ...]]  # fact -> its values, where there are several


def mixed_facts(folds: Iterable[FoldMetrics]) -> dict[str, tuple[str, ...]]:
    """Facts that the folds do not share; what a fold does not note (those of earlier versions) is not compared."""
    found: dict[str, set[str]] = {}
    for fold in folds:
        for name, value in _facts(fold).items():
            found.setdefault(name, set()).add(value)
    return {name: tuple(sorted(values)) for name, values in found.items() if len(values) > 1}


def mixed_text(mixed: Mixed) -> str | None:
    """`folds differ in device (NVIDIA H200, cpu)`, for leaderboard, report and audit; None where they do not."""
    if not mixed:
        return None
    return "folds differ in " + ", ".join(f"{name} ({', '.join(values)})" for name, values in mixed.items())


def _facts(fold: FoldMetrics) -> dict[str, str]:
    info, made = fold.info, fold.environment
    facts = {}
    if "device" in info:  # of a network; ridge regression has none
        on_cpu = str(info["device"]).startswith("cpu")
        facts["device"] = "cpu" if on_cpu else str(made.get("gpu") or info["device"])
        facts["compiled"] = "yes" if info.get("compiled") else "no"
        facts["batched"] = f"{together} folds" if (together := info.get("folds_together")) else "no"
        if "precision" in made:
            facts["precision"] = str(made["precision"])
    if "encoding" in made:
        facts["features"] = str(made["encoding"])
    return facts
