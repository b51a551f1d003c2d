"""Is a night estimated as it goes? `biomass doctor` against the first half hour of the preset cpu_overnight.

    python tests/benchmarks/measure_overnight.py FOLDER [--minutes 30] [--seed 0]

Draws a pasture of 357 photographs, searches it with an empty cache for that long, and then asks the doctor what as many
folds as were computed cost: in slot-hours, beside those that passed. Needs the machine for itself.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from biomass_models.pasture.make import make_pasture
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage

PRESET = "cpu_overnight"


def biomass(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "orchestration", *words], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    data, study, cache = (str(asked.folder / name) for name in ("data", "study", "cache"))
    if not Path(data).exists():
        make_pasture(Path(data), images=357, test_images=6, width=1000, height=500, seed=asked.seed)
    hours, common = asked.minutes / 60, ("--data", data, "--preset", PRESET, "--cache", cache)
    biomass("search", study, *common, "--hours", str(hours), "--seed", str(asked.seed))
    found = StudyData(Ledger(Storage(study)))
    folds = [
        (one.record.family, fold) for one in found.by_id.values() for fold in found.fold_metrics(one.trial_id).values()
    ]
    trials = len(folds) / found.record.settings.folds  # whole ones: pruned and open trials have some of their folds
    document: Any = json.loads(
        biomass("doctor", "--data", data, "--preset", PRESET, "--trials", str(round(trials)), "--json")
    )
    said = next(one["text"] for one in document["findings"] if one["what"] == "cost")
    (slots,), (estimate,) = (
        map(float, re.findall(pattern, said)) for pattern in (r"on (\d+) slot", r"about ([\d.e+-]+) slot-hours")
    )
    print(f"{trials:.1f} whole trials ({len(folds)} folds) in {hours * slots:.2g} slot-hours; the doctor says {said}")
    for family, count in sorted(Counter(family for family, _ in folds).items()):
        seconds = np.mean([fold.cpu_seconds for of, fold in folds if of == family])
        doctor = next(one["text"] for one in document["findings"] if one["what"] == f"fold of {family}")
        print(f"  {family}: {count} folds of {seconds:.1f} CPU s in the mean; the doctor says {doctor}")
    print(f"estimated / real = {estimate / (hours * slots):.2f}")


if __name__ == "__main__":
    main()
