"""What each family brings, and what the teacher does: equal trials per family on generated pastures with a true test.

    python tests/benchmarks/study_families.py FOLDER [--seeds 3] [--trials 6] [--cache DIR]

Four arms a seed, the same number of trials each: probe, baseline, distilled with a teacher, and the very same
configurations with the distillation switched off. Folds by date, frozen `tf_efficientnet_lite0`, 2 slots; pasture,
folds and search all change with the seed. About a quarter of an hour for each seed on 2 free cores, and as long again
for features that are not cached; run the same command again to resume. FOLDER/table.md is the result.
With more than 10 trials an arm Optuna begins to tune, and the twins repeat what was tuned for the taught arm.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from family_arms import Member, Scores, scores_of, study_table, teacher_gain
from safetensors.torch import load as load_tensors

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.table import read_masses, read_test
from biomass_models.families.configs import config_from_params
from biomass_models.families.registry import model
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS, FloatArray
from orchestration.search.start import run_search
from orchestration.study.ledger import Ledger
from orchestration.study.records import TrialRecord
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources
from orchestration.workers.weights_here import available_backbones
from search_spaces.distilled import TAUGHT
from search_spaces.domain import Choice, SearchSpace
from search_spaces.spaces import space_of

BACKBONE = "tf_efficientnet_lite0"
FAMILIES = ("probe", "baseline", "distilled")
IMAGES, TEST_IMAGES = 357, 120
WEIGHTS = WeightsSource(kind="auto")
ALONE, TAUGHT_ARM = "distilled, no teacher", "distilled, teacher"
TEACHING = ("distillation_weight", "teacher_epochs", "teacher_width")


def taught_space(space: SearchSpace) -> SearchSpace:
    """The distilled space with a teacher in every trial."""
    domains = dict(space.domains) | {"distillation_weight": Choice(TAUGHT)}
    return replace(space, domains=domains, first_trials=space.first_trials[:1])


def alone_space(space: SearchSpace, taught: Ledger) -> SearchSpace:
    """The distilled trials of another study, one by one, without their teachers."""
    twins = [
        {name: value for name, value in record.params.items() if name not in TEACHING}
        for record in taught.trials()
        if record.family == "distilled"
    ]
    domains = {name: domain for name, domain in space.domains.items() if name not in TEACHING}
    fixed = dict(space.fixed) | {"distillation_weight": 0.0}
    return replace(space, domains=domains, fixed=fixed, first_trials=tuple(twins))


def search_seed(folder: Path, seed: int, trials: int, resources: Resources) -> None:
    """Both studies of one seed: `search` (three families), then `alone` (the distilled trials without teachers)."""
    truth = folder / "truth.csv"
    if not truth.exists():
        make_pasture(
            folder / "data",
            truth_path=truth,
            images=IMAGES,
            test_images=TEST_IMAGES,
            seed=seed,
            width=1000,
            height=500,
        )
    fingerprints = available_backbones((BACKBONE,), WEIGHTS, print)
    backbones = tuple(fingerprints)
    spaces = {family: space_of(family, backbones, "demo") for family in FAMILIES}
    plain = spaces["distilled"]
    run_study(folder, "search", spaces | {"distilled": taught_space(plain)}, seed, trials, fingerprints, resources)
    alone = {"distilled": alone_space(plain, Ledger(Storage(folder / "search")))}
    run_study(folder, "alone", alone, seed, trials, fingerprints, resources)


def run_study(
    folder: Path,
    name: str,
    spaces: dict[str, SearchSpace],
    seed: int,
    trials: int,
    fingerprints: dict[str, str],
    resources: Resources,
) -> None:
    """`trials` of each family."""
    run_search(
        str(folder / name),
        folder / "data",
        StudySettings(families=tuple(spaces), backbones=tuple(fingerprints), scale="demo", seed=seed),
        weights=WEIGHTS,
        fingerprints=fingerprints,
        resources=resources,
        max_trials=trials * len(spaces),
        hours=None,
        say=print,
        prune="off",  # a comparison of configurations needs all their folds
        spaces=spaces,
    )


def measure_seed(folder: Path, seed: int, cache: Path) -> dict[str, Scores]:
    """Each arm, and the arms together with and without the taught one."""
    data_dir, ledgers = folder / "data", {name: Ledger(Storage(folder / name)) for name in ("search", "alone")}
    quadrats = ledgers["search"].quadrats()
    truth = quadrats[["image_id", "fold", "group", "State", *TARGETS]]
    test = read_test(data_dir)
    test_MT = read_masses(folder / "truth.csv").loc[test["image_id"], list(TARGETS)].to_numpy(np.float64)
    inputs = Inputs(ImageSet.from_table(data_dir, test), cache_dir=cache.expanduser(), weights=WEIGHTS)
    arms: dict[str, list[Member]] = {arm: [] for arm in (*FAMILIES[:2], ALONE, TAUGHT_ARM)}
    for study, ledger in ledgers.items():
        for record in ledger.trials():
            arm = {"alone": ALONE}.get(study) or {"distilled": TAUGHT_ARM}.get(record.family, record.family)
            oof = ledger.oof(record.trial_id)[["image_id", *TARGETS]]
            arms[arm].append(Member(f"{study}/{record.trial_id}", oof, predict(ledger, record, inputs)))
    pools = arms | {
        "all but the taught": [member for arm, pool in arms.items() if arm != TAUGHT_ARM for member in pool],
        "all": [member for pool in arms.values() for member in pool],
    }
    return {name: scores_of(pool, truth, test_MT, seed) for name, pool in pools.items()}


def predict(ledger: Ledger, record: TrialRecord, inputs: Inputs) -> FloatArray:
    """Mean of the fold models on the images of `inputs`, [M, 5] grams."""
    config = config_from_params(record.family, record.config)
    folds = sorted(int(fold) for fold in ledger.quadrats()["fold"].unique())
    models = (load_tensors(ledger.fold_model(record.trial_id, fold)) for fold in folds)
    return np.mean([model(record.family).predict(config, one, inputs) for one in models], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=6, help="of each arm and seed")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/biomass"))
    asked = parser.parse_args()
    folders = [asked.folder / f"seed-{seed}" for seed in range(asked.seeds)]
    for seed, folder in enumerate(folders):
        search_seed(folder, seed, asked.trials, Resources(cache=asked.cache))
    seeds = [measure_seed(folder, seed, asked.cache) for seed, folder in enumerate(folders)]
    gain = teacher_gain(seeds, TAUGHT_ARM, ALONE)
    table = f"{study_table(seeds)}\n\nTaught minus alone, the same configurations:\n{gain}"
    (asked.folder / "table.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
