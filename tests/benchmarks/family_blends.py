"""What can be done to a finished study: the state rule, models on all rows, a second round against searching on.

One search of all families on a drawn pasture, blended plainly and otherwise; then it is copied, and goes on for as long
again, once as it was and once with test photographs that the members of its blend have labelled.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from family_arms import search_for
from family_data import Dataset
from family_scores import with_error
from family_spaces import FAMILIES, study_space

from biomass_models.data.table import read_masses, read_test
from biomass_models.targets import TARGETS, weighted_r2_score

FIRST, MORE, SECOND = "study", "searched-on", "second-round"
BLENDS = {  # by name: the study, and what `biomass ensemble` is asked for
    "plain": (FIRST, ()),
    "state rule, where it gains": (FIRST, ("--post", "state")),
    "models on all rows instead": (FIRST, ("--all-rows", "instead")),
    "models on all rows beside": (FIRST, ("--all-rows", "beside")),
    "searched on": (MORE, ()),
    "second round": (SECOND, ()),
}
PAIRS = (
    ("state rule, where it gains", "plain"),
    ("models on all rows instead", "plain"),
    ("models on all rows beside", "plain"),
    ("searched on", "plain"),
    ("second round", "searched on"),
)
LABELLERS = "first"  # the ensemble whose members label


def measure_blends(dataset: Dataset, backbone: str, seconds: float, cache: Path) -> None:
    """All of BLENDS on one pasture; a broken one begins anew."""
    folder = dataset.folder / "blends"
    if _result(dataset).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    spaces = [study_space(family, backbone) for family in FAMILIES]
    search_for(seconds, folder / FIRST, dataset, backbone, spaces, cache)
    _blend(dataset, folder / FIRST, LABELLERS, (), cache)
    for name in (MORE, SECOND):
        shutil.copytree(folder / FIRST, folder / name)
        again = {"second_round": LABELLERS} if name == SECOND else {}
        search_for(seconds, folder / name, dataset, backbone, spaces, cache, **again)
    scores = {
        name: _blend(dataset, folder / study, f"blend-{number}", asked, cache)
        for number, (name, (study, asked)) in enumerate(BLENDS.items())
    }
    _result(dataset).write_text(json.dumps(scores))


def blends_measured(dataset: Dataset) -> bool:
    return _result(dataset).exists()


def blends_table(datasets: Sequence[Dataset]) -> str:
    """Markdown: true score of each blend minus another one's, mean over pastures with its standard error."""
    scores = [json.loads(_result(dataset).read_text()) for dataset in datasets]
    lines = ["| blend | against | true | pasture by pasture |", "|---|---|---|---|"]
    for name, other in PAIRS:
        gains = [one[name] - one[other] for one in scores]
        lines.append(f"| {name} | {other} | {with_error(gains)} | {', '.join(f'{gain:+.3f}' for gain in gains)} |")
    return "\n".join(lines)


def _result(dataset: Dataset) -> Path:
    return dataset.folder / "blends.json"


def _blend(dataset: Dataset, study: Path, name: str, asked: Sequence[str], cache: Path) -> float:
    """True score of a blend of a study, which keeps it under the name."""
    out = study.parent / f"{study.name}-{name}" / f"{name}.csv"
    out.parent.mkdir(exist_ok=True)
    words = ["ensemble", str(study), "--data", str(dataset.data_dir), "--out", str(out), "--cache", str(cache)]
    command = [sys.executable, "-m", "orchestration", *words, "--inline", "--seed", str(dataset.seed), *asked]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    image_id = read_test(dataset.data_dir)["image_id"]
    return weighted_r2_score(dataset.test_MT, read_masses(out).loc[image_id, list(TARGETS)].to_numpy(np.float64))
