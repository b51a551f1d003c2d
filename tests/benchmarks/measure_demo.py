"""The tables of README and docs/measured.md: the demo on three drawn pastures, and what an exam says of it.

    python tests/benchmarks/measure_demo.py FOLDER [--seeds 3] [--cache DIR]

For each seed `biomass demo FOLDER/SEED --seed SEED`, and then the same search again with a fifth of the images kept for
an exam, blended and examined. Encoding is in float32, so that the numbers do not depend on the processor. Every command
goes on where it was stopped; about ten minutes a seed on 2 free cores. Prints Markdown; FOLDER/table.md is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from biomass_models.data.table import read_masses
from biomass_models.targets import TARGETS, weighted_r2_score
from ensembles.honest import Estimate
from ensembles.scorer import Scorer
from orchestration.blending.shown import shown_blend
from orchestration.study.data import StudyData
from orchestration.study.derived.blends import ExamRecord
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage

SHARE = 0.2  # of the images, for the exam
NEW_DATES = 12  # in the drawn test set


def command(*words: str, with_json: bool = True) -> Any:
    """A command of biomass in float32; with --json its document."""
    environment = {**os.environ, "BIOMASS_ENCODING": "float32"}
    ended = subprocess.run(
        [sys.executable, "-m", "orchestration", *words, *(["--json"] if with_json else [])],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(ended.stdout) if with_json else ended.stdout


def measure(folder: Path, seed: int, cache: str) -> dict[str, str]:
    """One column of the table."""
    begun = time.monotonic()
    done = command("demo", str(folder), "--seed", str(seed), "--cache", cache)
    minutes = (time.monotonic() - begun) / 60
    study = StudyData(Ledger(Storage(folder / "study")))
    column = blend_rows(study, done["true_score"]) | {"minutes, as it was run": f"{minutes:.1f}"}
    return column | exam_rows(folder, seed, cache)


def blend_rows(study: StudyData, true_score: float) -> dict[str, str]:
    """What the card says, beside the references and the score on the drawn test set."""
    card = shown_blend(study).card
    low, high = card.interval_for_new(NEW_DATES) or (float("nan"), float("nan"))
    scorer = Scorer(study.truth)
    rows = {name: f"{scorer.score(one.pred_NT).value:.3f}" for name, one in study.references.items()}
    rows |= {
        "best single trial, nested": f"{card.best_single_nested_score:.3f}",
        "mean of the five best, nested": f"{card.top5_nested_score:.3f}",
        "blend, in sample": f"{card.in_sample_score:.3f}",
        "**blend, nested**": f"**{card.nested_score:.3f} ± {card.nested_se:.3f}**",
        f"blend on {NEW_DATES} other dates, 95 %": f"{low:.2f} to {high:.2f}",
        "**blend, true score on the test photographs**": f"**{true_score:.3f}**",
    }
    return rows | {f"nested blend minus {name}": _difference(gain) for name, gain in card.versus.items()}


def _difference(gain: Estimate) -> str:
    return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def exam_rows(folder: Path, seed: int, cache: str) -> dict[str, str]:
    """The same search without a fifth of the images, its blend, the exam, and the test photographs."""
    study, data = str(folder / "examined"), str(folder / "data")
    submission = folder / "examined.csv"
    if not submission.exists():
        words = ["search", study, "--data", data, "--preset", "demo", "--seed", str(seed), "--exam", str(SHARE)]
        command(*words, "--cache", cache, with_json=False)
        command("ensemble", study, "--data", data, "--out", str(submission), "--cache", cache)
    ledger = Ledger(Storage(study))
    if not (found := ledger.exams()):
        command("exam", study, "--data", data, "--cache", cache)
        found = ledger.exams()
    record: ExamRecord = found[0]
    truth, submitted = read_masses(folder / "truth.csv"), read_masses(submission)
    true = weighted_r2_score(truth[list(TARGETS)], submitted.loc[truth.index, list(TARGETS)])
    error = "" if record.se is None else f" ± {record.se:.3f}"
    return {
        f"with --exam {SHARE:g}: blend, nested": f"{record.nested_score:.3f}",
        f"with --exam {SHARE:g}: the exam": f"{record.score:.3f}{error} ({record.dates} dates)",
        f"with --exam {SHARE:g}: true score": f"{true:.3f}",
    }


def render(columns: dict[int, dict[str, str]]) -> str:
    """As Markdown."""
    names = list(next(iter(columns.values())))
    lines = ["| | " + " | ".join(f"seed {seed}" for seed in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(column[name] for column in columns.values()) + " |" for name in names]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", default="~/.cache/biomass")
    asked = parser.parse_args()
    found: dict[int, dict[str, str]] = {}
    for seed in range(asked.seeds):
        found[seed] = measure(asked.folder / str(seed), seed, asked.cache)
        (asked.folder / "table.md").write_text(render(found))
    print(render(found))
