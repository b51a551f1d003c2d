"""What a study of the total alone loses against one of all five masses: nested and true R2 of the total.

    python tests/benchmarks/measure_total_only.py FOLDER [--seeds 3] [--cache DIR]

FOLDER is that of measure_demo.py, which made the studies of five masses. The same photographs are drawn again with
their totals alone, and searched with the same preset and seed, in float32. About five minutes a seed on 2 free cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from measure_demo import command
from sklearn.metrics import r2_score

from biomass_models.data.table import read_masses
from biomass_models.targets import TARGETS, TOTAL
from ensembles.scorer import Scorer
from orchestration.blending.nested import blend_of
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage

NAME = TARGETS[TOTAL]


def total_only(folder: Path, seed: int, cache: str) -> Path:
    """The study of the totals of the demo's photographs; its predictions are in folder/total.csv."""
    data, study, out = folder / "total-data", folder / "total", folder / "total.csv"
    if not data.exists():
        drawn = ["--form", "quadrats", "--targets", "total", "--seed", str(seed)]
        command("data", "make", str(data), *drawn, with_json=False)
    if not out.exists():
        asked = ["--preset", "demo", "--seed", str(seed), "--cache", cache]
        command("search", str(study), "--data", str(data), *asked, with_json=False)
        command("ensemble", str(study), "--data", str(data), "--out", str(out), "--cache", cache)
    return study


def nested_r2(study: Path) -> tuple[float, float]:
    """R2 of the total with its standard error: of the nested rows of a study's blend."""
    data = StudyData(Ledger(Storage(study)))
    blend, why = blend_of(data)
    assert blend is not None, why
    alone = data.truth.copy()
    alone[[name for name in TARGETS if name != NAME]] = np.nan
    estimate = Scorer(alone).score(blend.nested_RNT)
    return estimate.value, estimate.se


def true_r2(truth: Path, predicted: pd.Series) -> float:
    measured = read_masses(truth)[NAME]
    return float(r2_score(measured, predicted.loc[measured.index]))


def row(folder: Path, seed: int, cache: str) -> str:
    study = total_only(folder, seed, cache)
    five, alone = nested_r2(folder / "study"), nested_r2(study)
    true_five = true_r2(folder / "truth.csv", read_masses(folder / "submission.csv")[NAME])
    true_alone = true_r2(folder / "truth.csv", pd.read_csv(folder / "total.csv", index_col="image_id")[NAME])
    cells = (
        f"{five[0]:.3f} ± {five[1]:.3f}",
        f"{alone[0]:.3f} ± {alone[1]:.3f}",
        f"{true_five:.3f}",
        f"{true_alone:.3f}",
    )
    return f"| {seed} | {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", default="~/.cache/biomass")
    asked = parser.parse_args()
    print("| seed | five masses, nested | total alone, nested | five masses, true | total alone, true |")
    print("|---|---|---|---|---|")
    for seed in range(asked.seeds):
        print(row(asked.folder / str(seed), seed, asked.cache), flush=True)
