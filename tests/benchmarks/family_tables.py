"""The tables of the family study, of what has been measured so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from family_arms import TEST_FILE, arm_folder, ledger_of
from family_blends import blends_measured, blends_table
from family_data import Dataset
from family_fits import fit_all_folds
from family_options import measured_all, options_table
from family_scores import Member, Scores, scores_of, with_error, with_spread
from family_spaces import BACKBONES, FAMILIES, FIRST

from biomass_models.families.probe.config import ProbeConfig
from biomass_models.targets import TARGETS, FloatArray
from orchestration.study.records import COMPLETE

SHORT = dict(zip(BACKBONES, ("lite0", "DINOv2"), strict=True))
REFERENCE = "ridge on DINOv2"
FIRST_POOL = f"{', '.join(FIRST[:-1])} and {FIRST[-1]}, both"
Arm = tuple[str, str]  # backbone, family
TRUTH = ["image_id", "fold", "group", "unit", *TARGETS]


def study_tables(option_sets: Sequence[Dataset], searched: Sequence[Dataset], backbone: str, cache_dir: Path) -> str:
    """Markdown: families and options, on drawn pasture and on photographs, each where all of it is there."""
    parts = []
    for drawn, title in ((True, "Drawn pasture"), (False, "Photographs")):
        found = [dataset for dataset in searched if dataset.is_drawn == drawn and _arms(dataset)]
        if found:
            parts += [f"## {title}: families", families_table(found, cache_dir)]
        pairs = [one for one in option_sets if one.is_drawn == drawn and measured_all(one, backbone)]
        if len(pairs) > 1:
            parts += [f"## {title}: options, {SHORT[backbone]}", options_table(pairs, backbone)]
        blended = [one for one in option_sets if one.is_drawn == drawn and blends_measured(one)]
        if len(blended) > 1:
            parts += [f"## {title}: what is done to a finished study, {SHORT[backbone]}", blends_table(blended)]
    return "\n\n".join(parts)


def families_table(datasets: Sequence[Dataset], cache_dir: Path) -> str:
    """A row for each arm and pool: mean over data sets ± their standard deviation, then what pools gain in pairs."""
    pools = _pools(sorted(set.intersection(*(set(_arms(dataset)) for dataset in datasets)), key=_place))
    scores = {name: [_scores(dataset, tuple(arms), cache_dir) for dataset in datasets] for name, arms in pools.items()}
    drawn = datasets[0].is_drawn
    last = "blend: true" if drawn else f"blend minus {REFERENCE}"
    lines = [f"| arm | trials | best single, in sample | blend: nested | {last} |", "|---|---|---|---|---|"]
    for name, of_pool in scores.items():
        trials = f"{np.mean([one.trials for one in of_pool]):.0f}"
        best = with_spread([one.card.best_single_score for one in of_pool])
        nested = with_spread([one.card.nested_score for one in of_pool])
        end = with_spread([one.true for one in of_pool]) if drawn else _against_reference(of_pool)
        lines.append(f"| {name} | {trials} | {best} | {nested} | {end} |")
    gains = [_gain(scores, drawn, more, less) for more, less in _comparisons(pools)]
    return "\n".join([*lines, "", *gains])


def _pools(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    pools = {f"{family}, {SHORT[backbone]}": [(backbone, family)] for backbone, family in arms}
    for backbone in BACKBONES:
        pools[f"all, {SHORT[backbone]}"] = [arm for arm in arms if arm[0] == backbone]
    pools[FIRST_POOL] = [arm for arm in arms if arm[1] in FIRST]
    pools["all, both"] = list(arms)
    return {name: of_pool for name, of_pool in pools.items() if of_pool}


def _comparisons(pools: Mapping[str, Sequence[Arm]]) -> list[tuple[str, str]]:
    wanted = [("all, both", FIRST_POOL), *(("all, both", f"all, {SHORT[one]}") for one in BACKBONES)]
    return [(more, less) for more, less in wanted if more in pools and less in pools]


def _gain(scores: Mapping[str, Sequence[Scores]], drawn: bool, more: str, less: str) -> str:
    nested = [a.card.nested_score - b.card.nested_score for a, b in zip(scores[more], scores[less], strict=True)]
    true = [a.true - b.true for a, b in zip(scores[more], scores[less], strict=True)]
    said = f"{more} minus {less}: nested {with_error(nested)}"
    return f"{said}, true {with_error(true)}" if drawn else said


def _against_reference(of_pool: Sequence[Scores]) -> str:
    """Means over draws of the difference and of its standard error over items: draws share their items."""
    gains = [one.card.versus[REFERENCE] for one in of_pool]
    return f"{np.mean([gain.value for gain in gains]):+.3f} ± {np.mean([gain.se for gain in gains]):.3f}"


def _arms(dataset: Dataset) -> list[Arm]:
    """Those that are done."""
    wanted = [(backbone, family) for backbone in BACKBONES for family in FAMILIES]
    return [arm for arm in wanted if (arm_folder(dataset, *arm) / "arm.json").exists()]


def _place(arm: Arm) -> tuple[int, int]:
    return BACKBONES.index(arm[0]), FAMILIES.index(arm[1])


@cache
def _scores(dataset: Dataset, arms: tuple[Arm, ...], cache_dir: Path) -> Scores:
    members = [member for arm in arms for member in _members(dataset, arm)]
    references = None if dataset.is_drawn else {REFERENCE: _reference(dataset, cache_dir)}
    return scores_of(members, dataset.quadrats[TRUTH], dataset.test_MT, dataset.seed, references)


@cache
def _members(dataset: Dataset, arm: Arm) -> list[Member]:
    ledger, path = ledger_of(dataset, *arm), arm_folder(dataset, *arm) / TEST_FILE
    tests = dict(iter(pd.read_parquet(path).groupby("trial_id"))) if dataset.is_drawn else {}
    return [
        Member(
            f"{arm[0]}/{trial_id}",
            ledger.oof(trial_id)[["image_id", *TARGETS]],
            tests[trial_id][list(TARGETS)].to_numpy(np.float64) if dataset.is_drawn else dataset.test_MT,
        )
        for trial_id, result in sorted(ledger.results().items())
        if result.status == COMPLETE
    ]


@cache
def _reference(dataset: Dataset, cache_dir: Path) -> FloatArray:
    """Fixed beforehand: ridge on CLS + mean + std of DINOv2 at 224 px, in grams and in log1p, their mean."""
    plain = ProbeConfig(backbone=BACKBONES[1], pooling="global+mean+std", transform="none")
    both = plain, replace(plain, transform="log1p")
    return np.mean([fit_all_folds(dataset, "probe", config, cache_dir, 0).oof_NT for config in both], axis=0)
