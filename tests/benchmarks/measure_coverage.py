"""How often intervals of new masses hold on drawn pasture, whose test photographs are of other dates: docs/measured.md.

    python tests/benchmarks/measure_coverage.py FOLDER [--seeds 3] [--trials 16] [--tests 360] [--cache DIR]

For each seed a pasture is drawn; probe and stack on frozen `tf_efficientnet_lite0` are searched (scale demo), blended,
and predict the test photographs, each mass alone and all at once (`biomass predict --joint`). A mass is held where
low <= true <= high; the box, where all five are. Shares are means over dates, as the promise is; beside them the share
of dates on which 70 % or less was held. Encoding is in float32, so that the numbers do not depend on the processor.
Every command goes on where it was stopped. Prints Markdown; FOLDER/coverage.md is the same, FOLDER/SEED/coverage.json
has the numbers of each seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from measure_demo import command

from biomass_models.data.table import read_masses
from biomass_models.pasture.files import held_out_table, training_table
from biomass_models.pasture.make import make_pasture
from biomass_models.whole_files import write_whole

LEVELS = (0.8, 0.9)
POOR = 0.7  # of a date's photographs, or less, where the level is 0.8
BOX = "all at once"
NAMES = {"Dry_Green_g": "green", "Dry_Dead_g": "dead", "Dry_Clover_g": "clover", "GDM_g": "GDM", "Dry_Total_g": "total"}
IMAGES, WIDTH = 357, 1000  # training photographs, and px of all
FAMILIES, BACKBONE = ("probe", "stack"), "tf_efficientnet_lite0"


def measure(folder: Path, seed: int, *, trials: int, tests: int, cache: str) -> dict[str, dict[str, float]]:
    """Shares of one pasture, by level and mass."""
    done = folder / "coverage.json"
    if done.exists():
        found: dict[str, dict[str, float]] = json.loads(done.read_text())
        return found
    data, study = folder / "data", str(folder / "study")
    if not data.exists():
        make_pasture(data, images=IMAGES, test_images=tests, seed=seed, width=WIDTH, height=WIDTH // 2)
    families = [word for family in FAMILIES for word in ("--family", family)]
    ranges = ["--backbone", BACKBONE, "--scale", "demo", *families]
    asked = ["--data", str(data), *ranges, "--trials", str(trials), "--seed", str(seed)]
    command("search", study, *asked, "--cache", cache, with_json=False)
    command("ensemble", study, "--data", str(data), "--out", str(folder / "submission.csv"), "--cache", cache)
    truth = read_masses(folder / "data-truth.csv")
    tables = {}
    for name, joint in (("alone", ()), ("box", ("--joint",))):
        out = folder / f"{name}.parquet"
        levels = ",".join(map(str, LEVELS))
        where = ("--out", str(out), "--cache", cache)
        command("predict", study, str(data / "test"), "--level", levels, *joint, *where)
        tables[name] = pd.read_parquet(out)
    shares = coverage(tables["alone"], tables["box"], truth, dates_of_tests(tests, seed))
    write_whole(done, json.dumps(shares, indent=1).encode())
    return shares


def dates_of_tests(tests: int, seed: int) -> pd.Series:
    """Of the drawn test photographs, by image id; the data directory does not have them."""
    table = held_out_table(tests, seed, taken=training_table(IMAGES, seed)["image_id"])
    dates = table["State"].astype(str) + "|" + table["Sampling_Date"].astype(str)
    return pd.Series(dates.to_numpy(), index=table["image_id"].to_numpy())


def coverage(
    alone: pd.DataFrame, box: pd.DataFrame, truth: pd.DataFrame, dates: pd.Series
) -> dict[str, dict[str, float]]:
    """Of a table of `biomass predict` and one with --joint: shares held, means over dates, by level and mass."""
    found: dict[str, dict[str, float]] = {}
    for level in LEVELS:
        shares = {name: by_date(held(alone, [target], level, truth), dates) for target, name in NAMES.items()}
        shares[BOX] = by_date(held(box, list(NAMES), level, truth), dates)
        found[f"{level:.0%}"] = {name: float(share.mean()) for name, share in shares.items()}
        if level == LEVELS[0]:
            found["poor dates"] = {name: float((share <= POOR).mean()) for name, share in shares.items()}
    found["dates"] = {"dates": float(dates.nunique())}
    return found


def held(table: pd.DataFrame, targets: Sequence[str], level: float, truth: pd.DataFrame) -> pd.Series:
    """Whether all these masses of a photograph were within their bounds, by image id. Every photograph counts."""
    ids = [Path(path).stem for path in table["photograph"]]
    true = truth.loc[ids]
    inside = np.ones(len(table), dtype=bool)
    for target in targets:
        low, high = (table[f"{target}_{end}_{100 * level:g}"].to_numpy() for end in ("low", "high"))
        mass = true[target].to_numpy()
        inside &= (low <= mass) & (mass <= high)  # a bound that is not known holds nothing
    return pd.Series(inside, index=ids)


def by_date(held_N: pd.Series, dates: pd.Series) -> pd.Series:
    """Share of each date's photographs."""
    return held_N.groupby(dates.loc[held_N.index].to_numpy()).mean()


def render(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> str:
    """As Markdown: a row a seed and level, and the means ± their standard errors over seeds."""
    names = [*NAMES.values(), BOX]
    lines = [f"| seed | dates | level | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    rows = [f"{level:.0%}" for level in LEVELS]
    for seed, shares in found.items():
        for row in (*rows, "poor dates"):
            said = row if row in rows else f"dates with {POOR:.0%} or less at {rows[0]}"
            numbers = " | ".join(f"{shares[row][name]:.3f}" for name in names)
            lines.append(f"| {seed} | {shares['dates']['dates']:.0f} | {said} | {numbers} |")
    for row in rows:
        shares_SM = np.array([[shares[row][name] for name in names] for shares in found.values()])
        error_M = shares_SM.std(axis=0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.full(len(names), np.nan)
        means = zip(shares_SM.mean(axis=0), error_M, strict=True)
        lines.append(f"| mean | | {row} | {' | '.join(f'**{mean:.3f}** ± {error:.3f}' for mean, error in means)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--tests", type=int, default=360)
    parser.add_argument("--cache", default="~/.cache/biomass")
    typed = parser.parse_args()
    measured: dict[int, dict[str, dict[str, float]]] = {}
    for number in range(typed.seeds):
        place = typed.folder / str(number)
        place.mkdir(parents=True, exist_ok=True)
        measured[number] = measure(place, number, trials=typed.trials, tests=typed.tests, cache=typed.cache)
        write_whole(typed.folder / "coverage.md", render(measured).encode())
    print(render(measured))
