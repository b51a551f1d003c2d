"""How often intervals of new masses hold on new dates, on simulated libraries.

python tests/benchmarks/simulate_intervals.py [--replicates 60] [--dates 12 28]

Each replicate blends a library of some dates and looks at other dates that nothing has seen. The share of a date's
photographs in their intervals is averaged over dates, then over replicates. R replicates, T = 5 targets.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from simulated_libraries import library_arrays

from biomass_models.targets import TARGETS, FloatArray
from ensembles.blend import apply_blend, fit_blend
from ensembles.intervals.levels import Intervals
from ensembles.members.library import library_from_arrays

LEVELS = (0.8, 0.9)
COLUMNS = (*TARGETS, "box", "mean of 4, total")
MEMBERS, IMAGES_A_DATE, NEW_DATES = 6, 13, 40


def covered(seed: int, dates: int = 28, levels: tuple[float, ...] = LEVELS) -> FloatArray:
    """[levels, COLUMNS]: mean over new dates of the share of photographs that is covered."""
    images = (dates + NEW_DATES) * IMAGES_A_DATE
    pred_MNT, truth_NT, _, group_N = library_arrays(MEMBERS, images, dates=dates + NEW_DATES, seed=seed)
    names = np.unique(group_N)
    date_N = np.searchsorted(names, group_N)
    old_N = date_N < dates
    truth = pd.DataFrame(truth_NT[old_N], columns=list(TARGETS))
    truth.insert(0, "image_id", [f"ID{row}" for row in range(len(truth))])
    truth["fold"], truth["group"] = date_N[old_N] % 5, group_N[old_N]
    members = [f"m{member}" for member in range(MEMBERS)]
    library = library_from_arrays(members, list(pred_MNT[:, old_N]), truth, unit="date")
    card = fit_blend(library, "top-5", seed)
    assert card.intervals is not None
    intervals = Intervals(card.intervals.calibration)
    new_NT = apply_blend(card, dict(zip(members, pred_MNT[:, ~old_N], strict=True)))
    true_NT, new_date_N = truth_NT[~old_N], date_N[~old_N]
    rows = []
    for level in levels:
        low_NT, high_NT = intervals.of_photographs(new_NT, level)
        box = intervals.box(new_NT, level)
        inside_NT = (true_NT >= low_NT) & (true_NT <= high_NT)
        inside_N = ((true_NT >= box.low_NT - 1e-9) & (true_NT <= box.high_NT + 1e-9)).all(axis=1)
        mean = []
        for date in np.unique(new_date_N):
            few = np.flatnonzero(new_date_N == date)[:4]
            low_T, high_T = intervals.of_mean(new_NT[few].mean(0), len(few), level)
            mean.append(low_T[4] <= true_NT[few, 4].mean() <= high_T[4])
        by_date = pd.DataFrame(np.column_stack([inside_NT, inside_N])).groupby(new_date_N).mean().mean()
        rows.append([*by_date, float(np.mean(mean))])
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=60)
    parser.add_argument("--dates", type=int, nargs="+", default=[12, 28])
    arguments = parser.parse_args()
    for dates in arguments.dates:
        covered_RLC = np.stack([covered(seed, dates) for seed in range(arguments.replicates)])
        error_LC = covered_RLC.std(axis=0, ddof=1) / np.sqrt(arguments.replicates)
        print(f"\n{dates} dates to learn from, {arguments.replicates} replicates\n")
        print(f"| level | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
        for level, share_RC, error_C in zip(LEVELS, covered_RLC.swapaxes(0, 1), error_LC, strict=True):
            cells = [f"{share:.3f} ± {error:.3f}" for share, error in zip(share_RC.mean(0), error_C, strict=True)]
            print(f"| {level:.0%} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
