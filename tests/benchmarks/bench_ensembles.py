"""Speed of the blender on one core, against its targets and against the plain way of doing it.

    python tests/benchmarks/bench_ensembles.py

1000 members x 357 images x 5 targets, 28 dates: Gram, selection and nested score, 8 partitions x 5 nests, within 1 s.
The plain way is greedy selection on rows: at each step every candidate blend is formed and scored. A nested score takes
one selection more than there are nests: 41 of the plain ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from simulated_libraries import library_arrays
from threadpoolctl import threadpool_limits

from biomass_models.targets import FloatArray, weight_T, weighted_sst
from ensembles.choice import DEFAULT, RULES
from ensembles.gram import error_gram
from ensembles.members.duplicates import duplicates_of
from ensembles.nests import NESTS, PARTITIONS, nested
from ensembles.rules import Greedy, Rule

STEPS = 25


def best_of(repeats: int, work: Callable[[], Any]) -> float:
    """CPU seconds of the fastest of some runs: what the work costs one core when nothing else runs."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def greedy_on_rows(pred_MNT: FloatArray, truth_NT: FloatArray, steps: int) -> FloatArray:
    """Counts of the best prefix, by the definition, vectorised over candidates only."""
    sum_NT, picks, losses = np.zeros_like(truth_NT), [], []
    for step in range(1, steps + 1):
        loss_M = (weight_T * (truth_NT - (sum_NT + pred_MNT) / step) ** 2).sum((1, 2)) / weighted_sst(truth_NT)
        picks.append(int(loss_M.argmin()))
        losses.append(loss_M[picks[-1]])
        sum_NT += pred_MNT[picks[-1]]
    return np.bincount(picks[: int(np.argmin(losses)) + 1], minlength=len(pred_MNT)).astype(np.float64)


def main() -> None:
    pred_MNT, truth_NT, fold_N, group_N = library_arrays(1000, 357, dates=28, seed=0)
    rows = [("step", "CPU seconds", "target", "against rows")]
    plain = best_of(1, lambda: greedy_on_rows(pred_MNT, truth_NT, STEPS))
    rows.append((f"greedy on rows, {STEPS} steps, no nests", f"{plain:.3f}", "", "1"))

    def report(name: str, seconds: float, target: float | None = None, plain_runs: int = 1) -> None:
        verdict = "" if target is None else f"{target} ({'met' if seconds <= target else 'MISSED'})"
        rows.append(
            (name, f"{seconds:.4f}", verdict, f"{plain * plain_runs / seconds:.0f} x faster" if plain_runs else "")
        )

    report("Gram", best_of(3, lambda: error_gram(pred_MNT, truth_NT, fold_N, group_N).gram_MM))
    warm = error_gram(pred_MNT, truth_NT, fold_N, group_N)
    selection = Greedy(STEPS)(warm, 0)
    counts_M = greedy_on_rows(pred_MNT, truth_NT, STEPS)
    if not np.allclose(selection, counts_M / counts_M.sum()):
        raise AssertionError("greedy on the Gram must select what greedy on rows selects")
    report(f"greedy on the Gram, {STEPS} steps", best_of(20, lambda: Greedy(STEPS)(warm, 0)))
    nests = PARTITIONS * NESTS
    for rule in RULES.values():

        def road(rule: Rule = rule) -> None:
            gram = error_gram(pred_MNT, truth_NT, fold_N, group_N)
            rule(gram, 0)
            nested(gram, rule)

        report(f"Gram, {rule.name}, {nests} nests", best_of(3, road), 1.0, nests + 1)
    gram = error_gram(*library_arrays(10_000, 357, dates=28, seed=0))
    report("10 000 members: duplicates", best_of(1, lambda: duplicates_of(gram)), plain_runs=0)
    report(f"10 000 members: default, {nests} nests", best_of(1, lambda: nested(gram, DEFAULT)), plain_runs=0)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    with threadpool_limits(limits=1):  # the targets are for one core
        main()
