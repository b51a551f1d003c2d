"""What a search adds to a nested score by its own luck: TPE against random search, with a true test set.

    python tests/benchmarks/simulate_search.py [--replicates 100] [--out search.md]

A drawn world holds 357 training photographs of 28 dates in 5 folds and 4000 test photographs of 200 other dates, with
the masses and errors of simulated_libraries. A configuration of eight fields (Settings; uniform, log-uniform, integer,
choices, one under a condition) predicts the truth plus an error that all configurations share plus its own:

    own(x) = size(x) * (sqrt(SETTLED) * sum_f sqrt(importance_f) e_f(x_f) + sqrt(1 - SETTLED) * e_x)

e_f are error fields: of a number it turns from one field to another as the value goes from end to end, of a choice each
option has its own; e_x is the chance of the fit. All are drawn on training and test rows, with a share common to a
date, so what cancels the shared error on the training rows is luck and brings nothing on the test rows. size(x) grows
from LEAST to MOST with the distance of the fields from their optimum: skill, which holds on the test rows as well.

The engines are those of `biomass search`, one family, one trial after the other; the score that they see is that of the
training rows. TPE and random search work on the same world. After 24, 60, 120 and 300 trials the default rule blends,
with the card's nested score. Optimism is the nested minus the true score of TPE less the same of random search.

Matched to a demo study of `baseline` and `probe` (357 photographs, 24 trials, folds by date): its complete trials score
.645 to .773, .731 on average with a standard deviation of .036, .030 to .033 within a family, where residuals correlate
by .72 to .996, .88 to .93 on average. Random search draws trials here of .72 with a standard deviation of .030 whose
residuals correlate by .89 (printed beside the table), the best of 24 .77. What no study shows is SETTLED; --settled
measures with another.

Seeds are consecutive from 0; each finished one is a line in --results: run the same command again to resume. About
5 seconds a replicate on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simulated_libraries
from simulate_errors import monte_carlo_error
from simulated_libraries import MEAN_3, TEST_IMAGES_A_DATE, FloatArray32, Simulated, draw_errors, draw_masses

from biomass_models.targets import FROM_COMPONENTS, FloatArray, weighted_r2_score
from ensembles.choice import DEFAULT
from ensembles.gram import gram_of_components
from ensembles.nests import fit_weights, nested
from orchestration.search.engines.base import Engine, Observation
from orchestration.search.engines.random_search import RandomEngine
from orchestration.search.engines.tpe import TpeEngine
from orchestration.study.seeds import derive_seed
from search_spaces.domain import Choice, Domain, Integer, LogUniform, SearchSpace, Uniform, When

IMAGES, DATES, TEST_DATES = 357, 28, 200
COUNTS = (24, 60, 120, 300)  # trials
SHARED_SD = 0.44  # of the error of all configurations, in units of the mass
LEAST, MOST = 0.02, 0.52  # size of a configuration's own error, in the same units
SETTLED = 0.8  # share of the own error's variance that the settings decide
ENGINES: Mapping[str, Callable[[SearchSpace], Engine]] = {"tpe": TpeEngine, "random": RandomEngine}
COLUMNS = ("nested", "true")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A configuration."""

    head_lr: float
    weight_decay: float
    dropout: float
    epochs: int
    transform: str
    pooling: str
    layout: str
    view_merge: str = "none"


DOMAINS: Mapping[str, Domain] = {
    "head_lr": LogUniform(1e-4, 1e-2),
    "weight_decay": LogUniform(1e-4, 1e-1),
    "dropout": Uniform(0.0, 0.6),
    "epochs": Integer(10, 80),
    "transform": Choice(("log1p", "sqrt", "none")),
    "pooling": Choice(("global", "mean", "mean+std", "global+mean+std")),
    "layout": Choice(("whole", "halves", "tiles-2x4")),
    "view_merge": When("layout", ("halves", "tiles-2x4"), Choice(("concat", "mean"))),
}
SPACE = SearchSpace(family="simulated", config_class=Settings, domains=DOMAINS)


class World:
    """Photographs, and what each configuration predicts on them. A rows, of which the first IMAGES are for training."""

    def __init__(self, seed: int, *, settled: float = SETTLED, alike: bool = False) -> None:
        """alike: own errors of all configurations have one direction: their sizes can be found, and no luck."""
        rng = np.random.default_rng([seed, IMAGES, 2])
        date_N = np.sort(rng.integers(0, DATES, IMAGES))
        self._seed, self._settled, self._alike = seed, settled, alike
        self.date_A = np.concatenate([date_N, DATES + np.repeat(np.arange(TEST_DATES), TEST_IMAGES_A_DATE)])
        self.truth_A3 = draw_masses(rng, self.date_A)
        self._spread_A3 = np.sqrt(MEAN_3 * (self.truth_A3 + 0.3 * MEAN_3))
        self._shared_A3 = SHARED_SD * draw_errors(rng, 1, self.truth_A3, self.date_A)[0]
        names = list(DOMAINS)
        self._importance = dict(zip(names, rng.dirichlet(np.ones(len(names))), strict=True))
        self._fields = {name: draw_errors(rng, _size(DOMAINS[name]), self.truth_A3, self.date_A) for name in names}
        self._one_A3 = draw_errors(rng, 1, self.truth_A3, self.date_A)[0]
        self._optimum = {name: float(rng.uniform(0.1, 0.9)) for name in names}
        self._badness = {name: rng.permutation(np.linspace(0, 1, _size(DOMAINS[name]))) for name in names}
        self.truth_NT = self.truth_A3[:IMAGES] @ FROM_COMPONENTS.T

    def predict(self, params: Mapping[str, Any]) -> FloatArray32:
        """Masses of the three components, [A, 3] grams: calibrated by least squares, and not negative."""
        size = LEAST + (MOST - LEAST) * math.sqrt(
            sum(self._importance[name] * self._bad(name, params) for name in params)
        )
        raw_A3 = (self.truth_A3 - self.truth_A3.mean(0)) + self._spread_A3 * (
            self._shared_A3 + size * (self._one_A3 if self._alike else self._direction_A3(params))
        )
        centred_A3 = self.truth_A3 - self.truth_A3.mean(0)
        slope_3 = (raw_A3 * centred_A3).mean(0) / (raw_A3**2).mean(0)
        pred_A3: FloatArray32 = np.maximum(raw_A3 * slope_3 + self.truth_A3.mean(0), 0).astype(np.float32)
        return pred_A3

    def library(self, pred_MA3: FloatArray32) -> Simulated:
        """What a blender sees of configurations, and the truth."""
        return Simulated(
            gram=gram_of_components(
                pred_MA3[:, :IMAGES],
                self.truth_NT,
                self.date_A[:IMAGES] % 5,
                np.char.mod("d%04d", self.date_A[:IMAGES]),
            ),
            test_component_ME=pred_MA3[:, IMAGES:].reshape(len(pred_MA3), -1),
            test_truth_N3=self.truth_A3[IMAGES:],
            sound=len(pred_MA3),
        )

    def _direction_A3(self, params: Mapping[str, Any]) -> FloatArray:
        """The own error of unit variance."""
        total = sum(self._importance[name] for name in params)
        error_A3 = np.zeros_like(self.truth_A3)
        for name, value in params.items():
            error_A3 += math.sqrt(self._settled * self._importance[name] / total) * self._field_A3(name, value)
        rng = np.random.default_rng([self._seed, derive_seed(params)])
        chance_A3: FloatArray = draw_errors(rng, 1, self.truth_A3, self.date_A)[0]
        return error_A3 + math.sqrt(1 - self._settled) * chance_A3

    def _field_A3(self, name: str, value: Any) -> FloatArray:
        found: FloatArray
        if (options := _options(DOMAINS[name])) is not None:
            found = self._fields[name][options.index(value)]
        else:
            angle = math.pi / 2 * place_in(DOMAINS[name], value)
            found = math.cos(angle) * self._fields[name][0] + math.sin(angle) * self._fields[name][1]
        return found

    def _bad(self, name: str, params: Mapping[str, Any]) -> float:
        """How far a field is from its optimum, 0 to 1."""
        domain, value = DOMAINS[name], params[name]
        if (options := _options(domain)) is not None:
            return float(self._badness[name][options.index(value)])
        best = self._optimum[name]
        return ((place_in(domain, value) - best) / max(best, 1 - best)) ** 2


def _options(domain: Domain) -> tuple[Any, ...] | None:
    plain = domain.domain if isinstance(domain, When) else domain
    return plain.options if isinstance(plain, Choice) else None


def _size(domain: Domain) -> int:
    """Number of error fields: one an option, or two between which a number turns."""
    options = _options(domain)
    return 2 if options is None else len(options)


def place_in(domain: Domain, value: float) -> float:
    """Where a number lies between the ends of its domain, 0 to 1, on the domain's own scale."""
    match domain:
        case LogUniform(low, high):
            return math.log(value / low) / math.log(high / low)
        case Uniform(low, high) | Integer(low, high):
            return (value - low) / (high - low)
    raise TypeError(f"{domain} has no places")


def search(world: World, engine: Engine, trials: int, seed: int) -> FloatArray32:
    """Predictions of the trials in order, [M, A, 3]."""
    found = []
    for number in range(trials):
        params = engine.ask({}, derive_seed("proposal", seed, number))
        assert params is not None
        found.append(world.predict(params))
        score = weighted_r2_score(world.truth_NT, found[-1][:IMAGES] @ FROM_COMPONENTS.T)
        engine.observe(Observation(trial_id=f"{number:04d}", number=number, params=params, value=score))
    return np.stack(found)


@dataclass(frozen=True, kw_only=True)
class Replicate:
    """One world."""

    scores_ECK: FloatArray  # E engines, COUNTS, COLUMNS
    trials: tuple[
        float, float, float
    ]  # of random search: mean score, its standard deviation, mean residual correlation


def replicate(seed: int, counts: Sequence[int] = COUNTS, *, settled: float = SETTLED, alike: bool = False) -> Replicate:
    """Search and blend in one world."""
    world = World(seed, settled=settled, alike=alike)
    libraries = [world.library(search(world, engine(SPACE), max(counts), seed)) for engine in ENGINES.values()]
    scores = [[_scores(library, count, seed) for count in counts] for library in libraries]
    return Replicate(scores_ECK=np.array(scores), trials=_trials(libraries[list(ENGINES).index("random")]))


def _scores(library: Simulated, count: int, seed: int) -> list[float]:
    """COLUMNS of the default blend of the first trials."""
    gram = library.gram.keep(range(count))
    weight_M = np.zeros(library.gram.members)
    weight_M[:count] = fit_weights(gram, DEFAULT, seed=seed)
    return [nested(gram, DEFAULT, seed=seed).score, float(library.true_scores(weight_M[None])[0])]


def _trials(library: Simulated) -> tuple[float, float, float]:
    score_M, product_MM = 1 - library.gram.loss_M, library.gram.product_MM
    length_M = np.sqrt(product_MM.diagonal())
    alike_MM = product_MM / np.outer(length_M, length_M)
    pairs = np.triu_indices(len(score_M), 1)
    return float(score_M.mean()), float(score_M.std()), float(alike_MM[pairs].mean())


def optimism_SC(scores_SECK: FloatArray) -> FloatArray:
    """Nested minus true score of TPE, less the same of random search."""
    gap_SEC = scores_SECK[..., 0] - scores_SECK[..., 1]
    optimism: FloatArray = gap_SEC[:, 0] - gap_SEC[:, 1]
    return optimism


def render(found: Sequence[Replicate], counts: Sequence[int] = COUNTS) -> str:
    """As a Markdown table."""
    scores_SECK = np.array([one.scores_ECK for one in found])
    gain_SCK = scores_SECK[:, 0] - scores_SECK[:, 1]
    mean, spread, alike = np.mean([one.trials for one in found], axis=0)
    lines = [
        f"{len(found)} replicates, seeds from 0. Trials of random search: {mean:.3f} with a standard deviation of "
        f"{spread:.3f}, residuals correlate by {alike:.2f}.",
        "",
        "| trials | TPE: nested / true | random search: nested / true | TPE gains nested | true | optimism |",
        "|---|---|---|---|---|---|",
    ]
    for place, count in enumerate(counts):
        tpe, random = (" / ".join(f"{value:.3f}" for value in scores_SECK[:, row, place].mean(0)) for row in (0, 1))
        values = (gain_SCK[:, place, 0], gain_SCK[:, place, 1], optimism_SC(scores_SECK)[:, place])
        cells = (f"{value_S.mean():+.4f} ± {monte_carlo_error(value_S):.4f}" for value_S in values)
        lines.append(f"| {count} | {tpe} | {random} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _key(settled: float) -> str:
    """Results of another simulation are not mixed with these."""
    text = repr(settled).encode() + Path(__file__).read_bytes() + Path(simulated_libraries.__file__).read_bytes()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _finished(results: Path, key: str) -> dict[int, Replicate]:
    """Replicates of this simulation by seed; a line that was cut short counts as not there."""
    found = {}
    for text in results.read_text(encoding="utf-8").splitlines() if results.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["key"] == key:
            found[line["seed"]] = Replicate(scores_ECK=np.array(line["scores"]), trials=tuple(line["trials"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What a search adds to a nested score by its own luck.")
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--settled", type=float, default=SETTLED, help="share of the own error that settings decide")
    parser.add_argument("--results", type=Path, default=Path("build/search.jsonl"), help="a line a replicate")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    arguments = parser.parse_args()
    key = _key(arguments.settled)
    found = _finished(arguments.results, key)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.replicates):
        if seed not in found:
            found[seed] = one = replicate(seed, settled=arguments.settled)
            line = {"key": key, "seed": seed, "scores": one.scores_ECK.tolist(), "trials": one.trials}
            with arguments.results.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(line))
    text = render([found[seed] for seed in range(arguments.replicates)])
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
