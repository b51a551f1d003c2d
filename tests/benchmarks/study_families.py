"""What each family and each option brings, on drawn pastures with a true test and on real photographs.

    python tests/benchmarks/study_families.py FOLDER [--photographs DIR] [--stage all] [--cache DIR]

Stages, each of which goes on where it was stopped:

options   pairs of fits with and without an option, on drawn pastures 10 to 12 and fold draws 10 to 12 of the
          photographs, one backbone. What the search of the next stage contains was chosen here.
families  every family x {lite0, DINOv2}: the same processor seconds of one core an arm, on drawn pastures 0 to 2 and
          fold draws 0 to 4 of the photographs; each arm's blend, the blend of all, nested and true.
recorded  families whose trials are short x {lite0, DINOv2}, searched long, on drawn pastures 0 to 2 drawn anew under
          FOLDER/recorded, for replay_search.py; only when it is asked for.
blends    state rule, models on all rows, a second round: on drawn pastures 10 to 12, the options' backbone.
table     FOLDER/table.md of what is there.

About three hours on two free cores, half an hour of it for features. DIR holds table.csv (photo, item, total_g); groups
are items, and the reference was fixed beforehand: ridge on CLS + mean + std of DINOv2 at 224 px, mean of a fit in grams
and one on log1p, penalty by inner folds grouped by item.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from random import Random

from family_arms import search_arm
from family_blends import measure_blends
from family_data import Dataset
from family_options import measure_options, specs_of
from family_spaces import BACKBONES, FAMILIES, RECORDED, demo_space, study_space
from family_tables import study_tables

from biomass_models.families.registry import model
from biomass_models.features.spec import FeatureSpec
from search_spaces.domain import SearchSpace

OPTION_SEEDS, DRAWN_SEEDS, PHOTOGRAPH_SEEDS = (10, 11, 12), (0, 1, 2), (0, 1, 2, 3, 4)
OPTION_BACKBONE = BACKBONES[1]
DRAWN_SECONDS, PHOTOGRAPH_SECONDS = 180.0, 60.0  # of one core, an arm
RECORDED_SECONDS = 450.0  # of one core, a family
BLEND_SECONDS = 300.0  # of one core: a search of all families, and as long again to go on
CORES = 2
DRAWS = 300  # of a space, to see which banks it asks for
STAGES = ("options", "blends", "families", "recorded")
Task = tuple[Callable[..., None], tuple[object, ...]]


def datasets(folder: Path, photographs: Path | None, drawn: Iterable[int], draws: Iterable[int]) -> list[Dataset]:
    found = [Dataset(folder / f"drawn-{seed}", seed) for seed in drawn]
    if photographs is not None:
        found += [Dataset(folder / "photographs" / f"draw-{seed}", seed, photographs) for seed in draws]
    return found


def study_spaces(dataset: Dataset, backbone: str) -> list[SearchSpace]:
    """Of each family; photographs of others have no metadata to distil."""
    return [study_space(family, backbone) for family in FAMILIES if dataset.is_drawn or family != "distilled"]


def searched_specs(spaces: Iterable[SearchSpace]) -> set[FeatureSpec]:
    """Banks that arms ask for."""
    return {
        spec
        for space in spaces
        for rng in [Random(0)]
        for _ in range(DRAWS)
        for spec in model(space.family).feature_specs(space.config(space.draw(rng, {})))
    }


def encode(dataset: Dataset, specs: list[FeatureSpec], cache: Path) -> None:
    """Fill banks, those of most copies and layers first: others are parts of them. Processes share the work."""
    for inputs in (dataset.inputs(cache), dataset.test_inputs(cache)):
        if inputs is not None:
            for spec in specs:
                inputs.features(spec)


def by_size(specs: set[FeatureSpec]) -> list[FeatureSpec]:
    def work(spec: FeatureSpec) -> tuple[int, int, str]:
        return spec.flips + spec.stamped, len(spec.layers), repr(spec)

    return sorted(specs, key=work, reverse=True)


def encode_banks(dataset: Dataset, spaces: Iterable[SearchSpace], cache: Path) -> None:
    together([(encode, (dataset, by_size(searched_specs(spaces)), cache))] * CORES)


def search_arms(dataset: Dataset, backbone: str, spaces: Iterable[SearchSpace], seconds: float, cache: Path) -> None:
    for space in spaces:
        search_arm(dataset, backbone, space, seconds, cache)


def together(tasks: list[Task]) -> None:
    """Run tasks in as many processes as there are cores, a fresh process each; the first error ends all."""
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running = [pool.submit(function, *arguments) for function, arguments in tasks]
        for done, future in enumerate(as_completed(running), start=1):
            if (error := future.exception()) is not None:
                pool.shutdown(cancel_futures=True)
                raise error
            print(f"{done} of {len(tasks)} done", flush=True)


def run_options(folder: Path, photographs: Path | None, cache: Path) -> None:
    found = datasets(folder, photographs, OPTION_SEEDS, OPTION_SEEDS)
    for dataset in found:
        dataset.make()
    for dataset in found if photographs is None else found[: len(OPTION_SEEDS) + 1]:  # the photographs once
        together([(encode, (dataset, by_size(specs_of(dataset, OPTION_BACKBONE)), cache))] * CORES)
    together(
        [
            (measure_options, (dataset, OPTION_BACKBONE, cache, (family,)))
            for family in reversed(FAMILIES)  # the longest first
            for dataset in found
        ]
    )


def run_families(folder: Path, photographs: Path | None, cache: Path) -> None:
    found = datasets(folder, photographs, DRAWN_SEEDS, PHOTOGRAPH_SEEDS)
    for dataset in found:
        dataset.make()
    for dataset in found if photographs is None else found[: len(DRAWN_SEEDS) + 1]:
        for backbone in BACKBONES:
            encode_banks(dataset, study_spaces(dataset, backbone), cache)
    together(
        [
            (search_arms, (dataset, backbone, study_spaces(dataset, backbone), seconds, cache))
            for dataset in found
            for seconds in [DRAWN_SECONDS if dataset.is_drawn else PHOTOGRAPH_SECONDS]
            for backbone in BACKBONES
        ]
    )


def run_recorded(folder: Path, cache: Path) -> None:
    spaces = {backbone: [demo_space(family, backbone) for family in RECORDED] for backbone in BACKBONES}
    for dataset in datasets(folder / "recorded", None, DRAWN_SEEDS, ()):
        dataset.make()
        for own in spaces.values():
            encode_banks(dataset, own, cache)
        together([(search_arms, (dataset, *one, RECORDED_SECONDS, cache)) for one in spaces.items()])


def run_blends(folder: Path, cache: Path) -> None:
    found = datasets(folder, None, OPTION_SEEDS, ())
    for dataset in found:
        dataset.make()
        encode_banks(dataset, study_spaces(dataset, OPTION_BACKBONE), cache)
    together([(measure_blends, (dataset, OPTION_BACKBONE, BLEND_SECONDS, cache)) for dataset in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photographs", type=Path, help="folder with table.csv: photo, item, total_g")
    parser.add_argument("--stage", choices=("all", *STAGES, "table"), default="all")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/biomass"))
    asked = parser.parse_args()
    folder, cache = asked.folder.resolve(), asked.cache.expanduser()
    if asked.stage in ("all", "options"):
        run_options(folder, asked.photographs, cache)
    if asked.stage in ("all", "blends"):
        run_blends(folder, cache)
    if asked.stage in ("all", "families"):
        run_families(folder, asked.photographs, cache)
    if asked.stage == "recorded":
        run_recorded(folder, cache)
        return
    tables = study_tables(
        datasets(folder, asked.photographs, OPTION_SEEDS, OPTION_SEEDS),
        datasets(folder, asked.photographs, DRAWN_SEEDS, PHOTOGRAPH_SEEDS),
        OPTION_BACKBONE,
        cache,
    )
    (folder / "table.md").write_text(tables + "\n")
    print(tables)


if __name__ == "__main__":
    main()
