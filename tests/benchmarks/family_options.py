"""Options of the family study, pair by pair: the same configuration and seeds with an option and without it.

Configurations are drawn from the study's spaces; each is fitted on all folds. What is chosen from these pairs for the
search is chosen on data sets that the table of families never sees.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from family_data import Dataset
from family_fits import fit_all_folds, scores
from family_scores import with_error
from family_spaces import study_space

from biomass_models.errors import UserError
from biomass_models.families.registry import model
from biomass_models.features.spec import FeatureSpec
from orchestration.study.seeds import content_id, derive_seed
from search_spaces.probe import INNER

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """What changes between two fits of one configuration."""

    name: str
    family: str
    off: Settings
    on: Settings
    drawn_only: bool = False  # needs metadata, or is of stamps, which photographs of others do not have


PLAIN_BANKS = {"layers": 1, "taps": "", "more_sizes": ""}
NETWORK = (
    ("interval heads, 7 bins", {"interval_bins": 0}, {"interval_bins": 7}, False),
    ("mixup, alpha 0.2", {"mixup_alpha": 0.0}, {"mixup_alpha": 0.2}, False),
    ("predicted metadata", {"predicted_metadata": "none"}, {"predicted_metadata": "film"}, True),
    ("predicted metadata, against shuffled", {"predicted_metadata": "shuffled"}, {"predicted_metadata": "film"}, True),
)
STAMPED = ("a stamped copy", {"stamped": 0}, {"stamped": 1}, True)
STATISTICS = "mean+max+min+gem"
CONFIGURATIONS = {"probe": 8, "stack": 5, "baseline": 5, "distilled": 2, "density": 2}
PAIRS = (
    Pair("max, min, GeM beside the mean", "probe", {**PLAIN_BANKS, "pooling": "mean"}, {"pooling": STATISTICS}),
    Pair("the same instead of mean+std", "probe", {**PLAIN_BANKS, "pooling": "mean+std"}, {"pooling": STATISTICS}),
    Pair("inner layers (taps)", "probe", PLAIN_BANKS, {"taps": INNER}),
    Pair("336 px beside 224 px", "probe", PLAIN_BANKS, {"more_sizes": "336"}),
    Pair("grams and log1p, against grams", "stack", {"goals": "grams"}, {"goals": "both"}),
    Pair("grams and log1p, against log1p", "stack", {"goals": "log1p"}, {"goals": "both"}),
    Pair("inner layers (taps)", "stack", {"taps": "1"}, {"taps": INNER}),
    Pair("336 px beside 224 px", "stack", {"more_sizes": ""}, {"more_sizes": "336"}),
    *(Pair(name, family, off, on, drawn) for family in ("baseline", "distilled") for name, off, on, drawn in NETWORK),
    Pair("a teacher", "distilled", {"distillation_weight": 0.0}, {"distillation_weight": 0.5}, drawn_only=True),
    Pair(STAMPED[0], "baseline", *STAMPED[1:]),
    Pair(NETWORK[1][0], "density", *NETWORK[1][1:]),
)


@dataclass(frozen=True)
class Measured:
    """One configuration of one side of a pair."""

    oof: float
    true: float  # NaN without a test set
    cpu_seconds: float


def configurations(pair: Pair, backbone: str, seed: int) -> Iterator[tuple[Any, Any]]:
    """Configurations without and with the option; the same draws for all pairs of a family, where they can be."""
    space, rng, found = study_space(pair.family, backbone), Random(seed), 0
    while found < CONFIGURATIONS[pair.family]:
        try:
            base = replace(space.config(space.draw(rng, {})), **pair.off)
            sides = base, replace(base, **pair.on)
        except UserError:  # the two settings exclude each other: the next draw
            continue
        found += 1
        yield sides


def pairs_of(dataset: Dataset) -> list[Pair]:
    return [pair for pair in PAIRS if dataset.is_drawn or not (pair.drawn_only or pair.family == "distilled")]


def specs_of(dataset: Dataset, backbone: str) -> set[FeatureSpec]:
    """Banks that the pairs need."""
    return {
        spec
        for pair in pairs_of(dataset)
        for sides in configurations(pair, backbone, dataset.seed)
        for config in sides
        for spec in model(pair.family).feature_specs(config)
    }


def measure_options(dataset: Dataset, backbone: str, cache: Path, families: tuple[str, ...]) -> None:
    """Fit what is not there yet: a file a fit in the data set's folder."""
    for pair in pairs_of(dataset):
        if pair.family in families:
            for sides in configurations(pair, backbone, dataset.seed):
                for config in sides:
                    _measure(dataset, pair.family, config, cache)


def _measure(dataset: Dataset, family: str, config: Any, cache: Path) -> None:
    path = _path(dataset, family, config)
    if not path.exists():
        fit = fit_all_folds(dataset, family, config, cache, derive_seed(dataset.seed, family, "pairs"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(Measured(*scores(dataset, fit), fit.cpu_seconds))))


def _path(dataset: Dataset, family: str, config: Any) -> Path:
    return dataset.folder / "options" / f"{family}-{content_id(family, asdict(config))}.json"


def measured_all(dataset: Dataset, backbone: str) -> bool:
    return all(
        _path(dataset, pair.family, config).exists()
        for pair in pairs_of(dataset)
        for sides in configurations(pair, backbone, dataset.seed)
        for config in sides
    )


def gains_of(dataset: Dataset, pair: Pair, backbone: str) -> np.ndarray:
    """On minus off of each configuration, [configurations, 2]: out of fold, true."""
    return np.array(
        [
            np.subtract(_scores(dataset, pair.family, on), _scores(dataset, pair.family, off))
            for off, on in configurations(pair, backbone, dataset.seed)
        ]
    )


def _scores(dataset: Dataset, family: str, config: Any) -> tuple[float, float]:
    measured = Measured(**json.loads(_path(dataset, family, config).read_text()))
    return measured.oof, measured.true


def options_table(datasets: list[Dataset], backbone: str) -> str:
    """Markdown: mean gain of each option over data sets, with its standard error over them."""
    drawn = datasets[0].is_drawn
    columns = ("out of fold", "true") if drawn else ("out of fold",)
    lines = [f"| family | option | {' | '.join(columns)} | better |", "|---|---|" + "---|" * (len(columns) + 1)]
    for pair in pairs_of(datasets[0]):
        gain_SC2 = np.stack([gains_of(dataset, pair, backbone) for dataset in datasets])
        cells = [with_error(gain_SC2[..., side].mean(1)) for side in range(len(columns))]
        judged = gain_SC2[..., len(columns) - 1]
        lines.append(
            f"| {pair.family} | {pair.name} | {' | '.join(cells)} | {int((judged > 0).sum())} of {judged.size} |"
        )
    return "\n".join(lines)
