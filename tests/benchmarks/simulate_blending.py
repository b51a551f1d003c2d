"""What blending rules promise and what they keep: a simulation study with a true test set.

    python tests/benchmarks/simulate_blending.py [--replicates 100] [--first-seed 20000] [--out docs/blending-study.md]

Libraries of 50, 200 and 1000 models on 357 and 3570 images, and 5 models beside 500 members of noise. The rules were
developed on seeds below 20000; the default first seed is what they have not seen. Each finished replicate is a line
in --results, so that a stopped run can be resumed by the same command. Nested scores are over 2 partitions of the dates
instead of a card's 8, which have the same mean. About half an hour on one core. How often intervals cover, and what
choices cost, is the subject of simulate_errors.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simulated_libraries
from simulated_libraries import Simulated, simulate
from simulation_tables import COLUMNS, TOP5, Study, render

from biomass_models.targets import FloatArray
from ensembles.choice import RULES
from ensembles.honest import paired_difference, score_estimate
from ensembles.nests import fit_weights, nested_all
from ensembles.rules import Rule

PARTITIONS = 2  # of the dates into nests
FRESH = 20_000  # rules were developed on seeds below


@dataclass(frozen=True, kw_only=True)
class Setting:
    members: int
    images: int
    dates: int
    noise: int = 0


SETTINGS = (
    *(Setting(members=members, images=357, dates=28) for members in (50, 200, 1000)),
    *(Setting(members=members, images=3570, dates=140) for members in (50, 200, 1000)),
    *(Setting(members=5, images=images, dates=dates, noise=500) for images, dates in ((357, 28), (3570, 140))),
)


def replicate(library: Simulated, rules: Sequence[Rule], *, seed: int) -> tuple[FloatArray, float]:
    """COLUMNS for each rule, [R, columns], and the drift of fixed members: mean in-sample minus mean true score."""
    gram = library.gram
    weight_RM = np.stack([fit_weights(gram, rule, seed=seed) for rule in rules])
    found = nested_all(gram, rules, seed=seed, partitions=PARTITIONS)
    top5 = next(row for row, rule in enumerate(rules) if rule.name == TOP5)
    true_R = library.true_scores(weight_RM)
    gains = [paired_difference(gram, each.loss_RC, found[top5].loss_RC) for each in found]
    alone = gains
    if library.sound < gram.members:
        models = nested_all(gram.keep(range(library.sound)), rules, seed=seed, partitions=PARTITIONS)
        alone = [
            paired_difference(gram, each.loss_RC, model.loss_RC) for each, model in zip(found, models, strict=True)
        ]
    rows = [
        (
            1 - gram.loss_of(weight_RM[row]),
            found[row].score,
            score_estimate(gram, found[row].loss_RC).se,
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


def run(setting: Setting, rules: Sequence[Rule], seed: int) -> dict[str, Any]:
    """One replicate as a line of the results file."""
    started = time.perf_counter()
    library = simulate(setting.members, setting.images, dates=setting.dates, seed=seed, noise=setting.noise)
    table_RC, drift = replicate(library, rules, seed=seed)
    return {
        "study": study_key(rules),
        "setting": asdict(setting),
        "seed": seed,
        "table": table_RC.tolist(),
        "drift": drift,
        "seconds": time.perf_counter() - started,
    }


def study_key(rules: Sequence[Rule]) -> str:
    """Results of other rules, another simulation or other columns are not mixed with these."""
    text = repr((rules, COLUMNS)).encode() + Path(simulated_libraries.__file__).read_bytes()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def finished(results: Path, rules: Sequence[Rule]) -> dict[tuple[str, int], dict[str, Any]]:
    """Lines of this study by setting and seed; a line that a kill cut short counts as not there."""
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for text in results.read_text(encoding="utf-8").splitlines() if results.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["study"] == study_key(rules):
            lines[json.dumps(line["setting"], sort_keys=True), line["seed"]] = line
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulation study of blending rules.")
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=FRESH)
    parser.add_argument("--results", type=Path, default=Path("build/simulation.jsonl"), help="a line a replicate")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    arguments = parser.parse_args()
    rules = list(RULES.values())
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.replicates)
    lines = finished(arguments.results, rules)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    studies = []
    for setting in SETTINGS:
        name = json.dumps(asdict(setting), sort_keys=True)
        for seed in seeds:
            if (name, seed) not in lines:
                lines[name, seed] = run(setting, rules, seed)
                with arguments.results.open("a", encoding="utf-8") as file:
                    file.write("\n" + json.dumps(lines[name, seed], allow_nan=False))
        studies.append(Study.of(asdict(setting), [rule.name for rule in rules], [lines[name, seed] for seed in seeds]))
        print(f"{studies[-1].title}: {arguments.replicates} replicates", flush=True)
    text = render(studies)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
