"""What blending rules promise and what they keep: a simulation study with a true test set.

    python tests/benchmarks/simulate_blending.py [--replicates 50] [--out simulation.md]

Libraries of 50, 200 and 1000 models on 357 and 3570 images, and 5 models beside 500 members of noise. For each rule the
table has its in-sample, nested and true score; whether the nested score is biased (against a fixed member, whose score
selects nothing: what it differs by is the sample, not the nest); and the paired difference to the mean of the top 5.
About 6 minutes on one core with 50 replicates.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from simulated_libraries import Simulated, simulate

from biomass_models.targets import FloatArray
from ensembles.choice import RULES
from ensembles.honest import nested_all, paired_difference
from ensembles.rules import Rule

TOP5 = "top-5"


@dataclass(frozen=True, kw_only=True)
class Setting:
    members: int
    images: int
    dates: int
    noise: int = 0

    @property
    def title(self) -> str:
        noise = f" and {self.noise} of noise" if self.noise else ""
        return f"{self.members} models{noise}, {self.images} images, {self.dates} dates"


SETTINGS = (
    *(Setting(members=members, images=357, dates=28) for members in (50, 200, 1000)),
    *(Setting(members=members, images=3570, dates=140) for members in (50, 200, 1000)),
    *(Setting(members=5, images=images, dates=dates, noise=500) for images, dates in ((357, 28), (3570, 140))),
)
COLUMNS = ("in_sample", "nested", "by_date", "true", "gain", "gain_se", "true_gain", "noise_gain", "noise_gain_se")


def replicate(library: Simulated, rules: Sequence[Rule], *, by_date: bool, seed: int) -> tuple[FloatArray, float]:
    """COLUMNS for each rule, [R, 9], and the drift of fixed members: mean in-sample minus mean true score."""
    gram = library.gram
    weight_RM = np.stack([rule(gram, seed) for rule in rules])
    folds = nested_all(gram, rules, "fold", seed=seed)
    dates = nested_all(gram, rules, "group", seed=seed) if by_date else folds
    top5 = next(row for row, rule in enumerate(rules) if rule.name == TOP5)
    true_R = library.true_scores(weight_RM)
    gains = [paired_difference(gram, fold.loss_C, folds[top5].loss_C, draws=500, seed=seed) for fold in folds]
    alone = gains
    if library.sound < gram.members:
        models = nested_all(gram.keep(range(library.sound)), rules, "fold", seed=seed)
        alone = [
            paired_difference(gram, fold.loss_C, model.loss_C, draws=500, seed=seed)
            for fold, model in zip(folds, models, strict=True)
        ]
    rows = [
        (
            1 - gram.loss_of(weight_RM[row]),
            folds[row].score,
            dates[row].score if by_date else np.nan,
            true_R[row],
            gains[row].value,
            gains[row].se,
            true_R[row] - true_R[top5],
            alone[row].value,
            alone[row].se,
        )
        for row in range(len(rules))
    ]
    fixed = np.arange(min(50, library.sound))
    fixed_RM = np.zeros((len(fixed), gram.members))
    fixed_RM[fixed, fixed] = 1.0
    drift = float((1 - gram.loss_M[fixed]).mean() - library.true_scores(fixed_RM).mean())
    return np.array(rows), drift


def study(setting: Setting, rules: Sequence[Rule], replicates: int) -> str:
    """One markdown table."""
    started = time.perf_counter()
    tables, drifts = [], []
    for seed in range(replicates):
        library = simulate(setting.members, setting.images, dates=setting.dates, seed=seed, noise=setting.noise)
        table_RC, drift = replicate(library, rules, by_date=setting.images == 357, seed=seed)
        tables.append(table_RC)
        drifts.append(drift)
    values = {name: np.stack(tables)[:, :, column] for column, name in enumerate(COLUMNS)}  # each [replicates, rules]
    bias_SR = values["nested"] - values["true"] - np.array(drifts)[:, None]
    above_SR = values["gain"] >= -values["gain_se"]
    lines = [
        f"### {setting.title}",
        "",
        f"{replicates} replicates, {time.perf_counter() - started:.0f} s. Fixed members score "
        f"{np.mean(drifts):+.4f} ± {_error(np.array(drifts)):.4f} more in the sample than on the test set.",
        "",
        "| rule | in sample | nested by fold | nested by date | true | bias of nested "
        "| nested - top-5 (SE in one library) | true - top-5 "
        "| above -1 SE |" + " nested - same rule without the noise (SE in one library) |" * bool(setting.noise),
        "|---|---|---|---|---|---|---|---|---|" + "---|" * bool(setting.noise),
    ]
    for row, rule in enumerate(rules):
        by_date = values["by_date"][:, row].mean()
        cells = [
            rule.name,
            f"{values['in_sample'][:, row].mean():.4f}",
            f"{values['nested'][:, row].mean():.4f}",
            "" if np.isnan(by_date) else f"{by_date:.4f}",
            f"{values['true'][:, row].mean():.4f}",
            _plus_minus(bias_SR[:, row]),
            f"{_plus_minus(values['gain'][:, row])} ({values['gain_se'][:, row].mean():.4f})",
            _plus_minus(values["true_gain"][:, row]),
            f"{above_SR[:, row].mean():.0%}",
        ]
        if setting.noise:
            typical = values["noise_gain_se"][:, row].mean()
            cells.append(f"{_plus_minus(values['noise_gain'][:, row])} ({typical:.4f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _plus_minus(value_S: FloatArray) -> str:
    return f"{value_S.mean():+.4f} ± {_error(value_S):.4f}"


def _error(value_S: FloatArray) -> float:
    return float(value_S.std(ddof=1) / np.sqrt(len(value_S)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulation study of blending rules.")
    parser.add_argument("--replicates", type=int, default=50)
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    arguments = parser.parse_args()
    rules = list(RULES.values())
    tables = []
    for setting in SETTINGS:
        tables.append(study(setting, rules, arguments.replicates))
        print(tables[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(tables), encoding="utf-8")


if __name__ == "__main__":
    main()
