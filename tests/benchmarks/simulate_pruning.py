"""What pruning does to trials that are all equally good, and how far off its estimates are.

    python tests/benchmarks/simulate_pruning.py [--replicates 400] [--out pruning.md]

Drawn studies of 50 trials on 357 photographs of 28 dates in 5 folds. Equal trials have errors of one size and no
calibration of their own, so that each pruned one is a mistake; unequal ones are those of simulated_libraries, as a
search over several families has them. The trials come one after the other; each is compared by the same rule after
each of its folds. What the rule asks of the blend is left out where the test alone is counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from simulated_libraries import equal_arrays, library_arrays

from biomass_models.targets import FloatArray, squared_error, weighted_r2_score, weighted_sst
from orchestration.search.pruning import COMPARED, NEVER_FIRST, RULES, Compared, PruneRule, decide
from orchestration.search.trial import fold_order
from orchestration.study.records import Decision

TRIALS, IMAGES, DATES, FOLDS = 50, 357, 28, 5


class Ended(NamedTuple):
    """A trial that was up for pruning."""

    decision: Decision | None  # that pruned it
    score: float  # over all its folds
    plain: float  # the score that its plain mean difference would give at that decision


def replicate(rule: PruneRule, seed: int, *, equal: bool, alone: bool) -> Iterator[Ended]:
    """The trials of one drawn study. alone: by the test alone, whatever a trial would bring the blend."""
    draw = equal_arrays if equal else library_arrays
    pred_MNT, truth_NT, fold_N, group_N = draw(TRIALS, IMAGES, dates=DATES, seed=seed)
    rule = replace(rule, gain_below=np.inf) if alone else rule
    loss_MN = np.array([squared_error(truth_NT, pred_NT) for pred_NT in pred_MNT])
    score_M = [weighted_r2_score(truth_NT, pred_NT) for pred_NT in pred_MNT]
    complete: list[int] = []
    for trial in range(TRIALS):
        decision = None
        if trial >= NEVER_FIRST:
            best = sorted(complete, key=lambda one: -score_M[one])
            compared = _compared(best, loss_MN, score_M, pred_MNT)
            decision = _pruned(rule, trial, pred_MNT[trial], compared, truth_NT, fold_N, group_N)
            plain = np.nan
            if decision is not None:
                row_n = _rows(fold_N, trial, decision.folds_done)
                difference = float((loss_MN[trial] - compared.loss_N)[row_n].mean())
                plain = compared.score - difference * IMAGES / weighted_sst(truth_NT)
            yield Ended(decision, score_M[trial], plain)
        if decision is None:
            complete.append(trial)


def _compared(best: list[int], loss_MN: FloatArray, score_M: list[float], pred_MNT: FloatArray) -> Compared:
    chosen = best[:COMPARED]
    exempt = [one for one in best[COMPARED:] if one < NEVER_FIRST]
    return Compared(
        names=tuple(map(str, chosen)),
        loss_N=loss_MN[chosen].mean(0),
        score=float(np.mean([score_M[one] for one in chosen])),
        ensemble_NT=pred_MNT[best[:5]].mean(0),
        exempt_MN=loss_MN[exempt],
    )


def _rows(fold_N: np.ndarray, trial: int, done: int) -> np.ndarray:
    return np.flatnonzero(np.isin(fold_N, fold_order(trial, list(range(FOLDS)))[:done]))


def _pruned(
    rule: PruneRule,
    trial: int,
    pred_NT: FloatArray,
    compared: Compared,
    truth_NT: FloatArray,
    fold_N: np.ndarray,
    group_N: np.ndarray,
) -> Decision | None:
    for done in range(1, FOLDS):
        row_n = _rows(fold_N, trial, done)
        decision = decide(
            rule, pred_NT[row_n], compared, truth_NT, group_N, row_n, after_fold=0, folds_done=done, folds=FOLDS
        )
        if decision.prune:
            return decision
    return None


class Rate(NamedTuple):
    """A share over replicates, and its Monte Carlo error."""

    value: float
    error: float


def pruned_share(rule: PruneRule, seeds: range, *, equal: bool = True, alone: bool = True) -> Rate:
    """Of the trials that were up for pruning."""
    shares = [
        np.mean([one.decision is not None for one in replicate(rule, seed, equal=equal, alone=alone)]) for seed in seeds
    ]
    return Rate(float(np.mean(shares)), float(np.std(shares, ddof=1)) / len(shares) ** 0.5)


class Errors(NamedTuple):
    """Of the estimates of pruned trials, and of the plain ones: bias, its Monte Carlo error, and RMSE."""

    trials: int
    bias: float
    bias_error: float
    rmse: float
    plain_bias: float
    plain_rmse: float


def estimate_errors(rule: PruneRule, seeds: range) -> Errors:
    """Over the pruned trials of unequal studies; replicates are the unit of the Monte Carlo error."""
    by_seed = [
        [one for one in replicate(rule, seed, equal=False, alone=False) if one.decision is not None] for seed in seeds
    ]
    off = [np.array([one.decision.estimate - one.score for one in ended if one.decision]) for ended in by_seed]
    plain = np.array([one.plain - one.score for ended in by_seed for one in ended])
    all_off, sums = np.concatenate(off), np.array([one.sum() for one in off])
    counts = np.array([len(one) for one in off])
    bias = float(all_off.mean())
    error = float(np.std(sums - bias * counts, ddof=1)) / (len(off) ** 0.5 * counts.mean())
    rmse, plain_rmse = (float(np.sqrt((one**2).mean())) for one in (all_off, plain))
    return Errors(len(all_off), bias, error, rmse, float(plain.mean()), plain_rmse)


def render(seeds: range) -> str:
    """As a Markdown table."""
    lines = [
        f"{len(seeds)} drawn studies of {TRIALS} trials, seeds {seeds.start} to {seeds.stop - 1}:",
        "",
        "| rule | equal trials pruned, by the test alone | by the whole rule | estimate of a pruned trial: bias | RMSE "
        "| plain difference: bias | RMSE |",
        "|---|---|---|---|---|---|---|",
    ]
    for rule in RULES.values():
        if rule is None:
            continue
        alone, whole = (pruned_share(rule, seeds, alone=one) for one in (True, False))
        errors = estimate_errors(rule, seeds)
        lines.append(
            f"| {rule.name} ({rule.alpha:.0%}) | {100 * alone.value:.2f} +- {100 * alone.error:.2f} % "
            f"| {100 * whole.value:.2f} +- {100 * whole.error:.2f} % "
            f"| {errors.bias:+.4f} +- {errors.bias_error:.4f} ({errors.trials} trials) | {errors.rmse:.3f} "
            f"| {errors.plain_bias:+.3f} | {errors.plain_rmse:.3f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    page = render(range(asked.replicates))
    print(page)
    if asked.out is not None:
        asked.out.write_text(page)
