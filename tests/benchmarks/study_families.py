"""What each family brings, and what the teacher does: equal trials per family on generated pastures with a true test.

    python tests/benchmarks/study_families.py FOLDER [--seeds 3] [--trials 6] [--cache DIR]

Four arms a seed, the same number of trials each: probe, baseline, distilled with a teacher, and the very same
configurations with the distillation switched off. Folds by date, frozen `tf_efficientnet_lite0`, 2 slots; pasture,
folds and search all change with the seed. A few hours on 2 cores; the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from biomass_models.pasture import make_pasture
from biomass_models.weights import WeightsSource
from orchestration.ledger import Ledger
from orchestration.search import Resources, available_backbones, run_search
from orchestration.storage import Storage
from orchestration.study import StudySettings
from search_spaces.distilled import TAUGHT
from search_spaces.domain import Choice, SearchSpace
from search_spaces.spaces import space_of

BACKBONE = "tf_efficientnet_lite0"
IMAGES, TEST_IMAGES = 357, 120
WEIGHTS = WeightsSource(kind="auto")
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
    data_dir, truth = folder / "data", folder / "truth.csv"
    if not truth.exists():
        make_pasture(
            data_dir, truth_path=truth, images=IMAGES, test_images=TEST_IMAGES, seed=seed, width=1000, height=500
        )
    fingerprints = available_backbones((BACKBONE,), WEIGHTS, print)
    backbones = tuple(fingerprints)
    common = {"backbones": backbones, "scale": "demo", "seed": seed}
    families = ("probe", "baseline", "distilled")
    spaces = {family: space_of(family, backbones, "demo") for family in families}
    plain = spaces["distilled"]
    spaces["distilled"] = taught_space(plain)
    for study, settings, its_spaces in (
        ("search", StudySettings(families=families, **common), lambda: spaces),
        (
            "alone",
            StudySettings(families=("distilled",), **common),
            lambda: {"distilled": alone_space(plain, Ledger(Storage(folder / "search")))},
        ),
    ):
        finished = run_search(
            str(folder / study),
            data_dir,
            settings,
            weights=WEIGHTS,
            fingerprints=fingerprints,
            resources=resources,
            max_trials=trials * len(settings.families),
            hours=None,
            say=print,
            spaces=its_spaces(),
        )
        if not finished:
            raise SystemExit("Stopped; the same command goes on from here.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=6, help="of each arm and seed")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/biomass"))
    asked = parser.parse_args()
    resources = Resources(cache_dir=asked.cache)
    for seed in range(asked.seeds):
        search_seed(asked.folder / f"seed-{seed}", seed, asked.trials, resources)


if __name__ == "__main__":
    main()
