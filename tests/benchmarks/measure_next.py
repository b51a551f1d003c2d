"""What `biomass next` gains over a random choice: true scores on photographs of other dates.

    python tests/benchmarks/measure_next.py FOLDER [--pastures 3] [--repeats 20]

Drawn pastures, features of a frozen `tf_efficientnet_lite0` at 224 px, encoded once. A ridge learns from `--labelled`
photographs, of a few dates or of all; as many of the others are added, by `next` for the sake of the test photographs
or at random. What both then score on the test photographs (weighted R2) differs by the gain. Each repeat is a line of
FOLDER/gains.jsonl; those that are there are not measured again. Prints a markdown table: mean over pastures, with the
standard error over pastures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.images import views_for
from biomass_models.data.table import read_masses, read_test, read_train
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.features.outputs import GLOBAL
from biomass_models.features.spec import FeatureSpec
from biomass_models.pasture.make import make_pasture
from biomass_models.ridge.chosen import fit_rows
from biomass_models.targets import TARGETS, FloatArray, IntArray, weighted_r2_score
from biomass_models.training.fit import FoldRows
from biomass_models.whole_files import write_whole
from orchestration.advice.design import choose, standardised
from orchestration.study.seeds import derive_seed

STARTS = ("few dates", "all dates")
FEW = 4  # dates


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Scores of one repeat on the test photographs."""

    pasture: int
    repeat: int
    start: str  # of STARTS
    before: float
    chosen: float  # with those that `next` names
    random: float
    labelled: int = 60  # photographs at first, and as many that are added


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn and encoded."""

    images: int = 357
    tests: int = 120
    width: int = 1000  # px of a photograph
    backbone: str = "tf_efficientnet_lite0"


@dataclass(frozen=True, kw_only=True, eq=False)
class Pasture:
    """Features and masses of a drawn pasture."""

    feature_ND: FloatArray
    mass_NT: FloatArray
    group_N: np.ndarray  # date in a state
    test_JD: FloatArray
    truth_JT: FloatArray


def read_pasture(folder: Path, drawing: Drawing, number: int, source: WeightsSource) -> Pasture:
    """Draw the pasture unless it is there, and encode it."""
    seed = 1000 + derive_seed("measure next", number) % 100_000  # none that a test or the demo has drawn
    where = folder / f"pasture-{seed}"
    if not where.exists():
        width, height = drawing.width, drawing.width // 2
        make_pasture(where, images=drawing.images, test_images=drawing.tests, seed=seed, width=width, height=height)
    train, test = read_train(where), read_test(where)
    groups = (train["State"].astype(str) + "|" + train["Sampling_Date"].astype(str)).to_numpy()
    spec = FeatureSpec(backbone=drawing.backbone, views=views_for("whole", 224), outputs=(GLOBAL,))

    def features(table: pd.DataFrame) -> FloatArray:
        inputs = Inputs(ImageSet.from_table(where, table), cache_dir=folder / "cache", weights=source)
        found: FloatArray = inputs.features(spec).stack(GLOBAL).numpy()[:, 0].astype(np.float64).mean(axis=1)
        return found

    truth = read_masses(folder / f"pasture-{seed}-truth.csv").loc[test["image_id"], list(TARGETS)]
    return Pasture(
        feature_ND=features(train),
        mass_NT=train[list(TARGETS)].to_numpy(dtype=np.float64),
        group_N=groups,
        test_JD=features(test),
        truth_JT=truth.to_numpy(dtype=np.float64),
    )


def labelled_rows(pasture: Pasture, start: str, labelled: int, draw: np.random.Generator) -> IntArray:
    """What is weighed at first: at random from all dates, or all of FEW dates and then more of others where these hold
    too few."""
    order = draw.permutation(len(pasture.group_N))
    if start == "few dates":
        dates = draw.permutation(sorted(set(pasture.group_N)))
        rank = {date: place for place, date in enumerate(dates)}
        within = np.array([max(rank[pasture.group_N[row]], FEW - 1) for row in order])
        order = order[np.argsort(within, kind="stable")]
    return np.sort(order[:labelled])


def score(pasture: Pasture, rows: IntArray, seed: int) -> float:
    """Of a ridge that has learned from these rows, on the test photographs."""
    none = np.empty(0, dtype=np.int64)
    known = FoldRows(rows, none, np.arange(len(pasture.group_N)), pasture.mass_NT)
    ridge, scaler, _, _ = fit_rows(ProbeConfig(), pasture.feature_ND, known, pasture.group_N, seed=seed)
    return weighted_r2_score(pasture.truth_JT, scaler.grams(ridge.predict(pasture.test_JD)))


def measure(pasture: Pasture, number: int, repeat: int, start: str, labelled: int) -> Measured:
    """One repeat: as many photographs are added as were labelled."""
    seed = derive_seed("measure next", number, repeat, start)
    draw = np.random.default_rng(seed)
    known = labelled_rows(pasture, start, labelled, draw)
    pool = np.setdiff1d(np.arange(len(pasture.group_N)), known)
    known_LD, pool_PD, test_JD = standardised(pasture.feature_ND[known], pasture.feature_ND[pool], pasture.test_JD)
    chosen = pool[choose(known_LD, pool_PD, test_JD, labelled).row_C]
    at_random = draw.permutation(pool)[:labelled]
    return Measured(
        pasture=number,
        repeat=repeat,
        start=start,
        before=score(pasture, known, seed),
        chosen=score(pasture, np.concatenate([known, chosen]), seed),
        random=score(pasture, np.concatenate([known, at_random]), seed),
        labelled=labelled,
    )


def gain_over_pastures(found: Sequence[Measured]) -> tuple[float, float]:
    """Mean over pastures of each one's mean gain, and its standard error; NaN for one pasture."""
    numbers = sorted({one.pasture for one in found})
    gain_P = [np.mean([one.chosen - one.random for one in found if one.pasture == number]) for number in numbers]
    error = float(np.std(gain_P, ddof=1) / np.sqrt(len(gain_P))) if len(gain_P) > 1 else float("nan")
    return float(np.mean(gain_P)), error


def run(
    folder: Path,
    *,
    pastures: int,
    repeats: int,
    labelled: int,
    drawing: Drawing,
    source: WeightsSource,
) -> list[Measured]:
    """All repeats; those that folder/gains.jsonl holds are read."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gains.jsonl"
    kept = [Measured(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
    there = {(one.pasture, one.repeat, one.start): one for one in kept if one.labelled == labelled}
    found = []
    for number in range(pastures):
        pasture = None
        for start in STARTS:
            for repeat in range(repeats):
                one = there.get((number, repeat, start))
                if one is None:
                    pasture = pasture or read_pasture(folder, drawing, number, source)
                    one = measure(pasture, number, repeat, start, labelled)
                    kept.append(one)
                    write_whole(path, "".join(json.dumps(asdict(each)) + "\n" for each in kept).encode())
                found.append(one)
    return found


def table(found: Sequence[Measured]) -> str:
    """As markdown."""
    lines = ["| start | before | random | next | gain of next |", "|---|---|---|---|---|"]
    for start in STARTS:
        own = [one for one in found if one.start == start]
        means = [np.mean([getattr(one, name) for one in own]) for name in ("before", "random", "chosen")]
        gain, error = gain_over_pastures(own)
        lines.append(f"| {start} | {' | '.join(f'{mean:.3f}' for mean in means)} | {gain:+.3f} ± {error:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pastures", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--labelled", type=int, default=60)
    asked = parser.parse_args()
    print(table(run(**vars(asked), drawing=Drawing(), source=WeightsSource(kind="auto"))))
