"""Which hyper-parameters decided the score, and what the best trials have in common.

A setting's importance is the share of the variance of the trials' ranks that it explains by itself (omega squared, Hays
1963, on ranks as in Kruskal and Wallis 1952): what its slice shows. A setting that exists only under a condition
explains what varies among the trials that have it, and no more. Interactions are not in it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from biomass_models.targets import FloatArray
from orchestration.report.words import setting
from orchestration.study.data import StudyData, Trial
from orchestration.study.spaces import stored_space
from search_spaces.domain import Integer, LogUniform, Plain, SearchSpace, Uniform, When

FEWEST = 4  # trials with a score below which an importance says nothing at all
FEW = 20  # below which it is a hint
MOST_BINS = 5  # of the values of a number
BIN = 4  # trials, at least


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Of one family's hyper-parameters, largest share first: of the ranks' variance, each by itself, 0 .. 1."""

    family: str
    shares: dict[str, float]
    trials: int
    missing: str | None = None  # why there is none


def space_of_family(study: StudyData, family: str) -> SearchSpace | None:
    """The family's search space; None where this version knows no such family or scale."""
    return stored_space(study.record, family)


def is_logarithmic(space: SearchSpace | None, name: str, values: Sequence[Any]) -> bool:
    """Whether a parameter was drawn by factors; without its space, whether its values span more than a factor 20."""
    if not all(is_number(value) and value > 0 for value in values):
        return False
    domain = _domain(space, name)
    return isinstance(domain, LogUniform) if domain is not None else max(values) > 20 * min(values)


def is_continuous(space: SearchSpace | None, name: str, values: Sequence[Any]) -> bool:
    """Whether values lie on a line rather than being choices; without its space, whether there are many numbers."""
    domain = _domain(space, name)
    if not all(map(is_number, values)):
        return False
    return isinstance(domain, Uniform | LogUniform | Integer) if domain is not None else len(values) > 4


def _domain(space: SearchSpace | None, name: str) -> Plain | None:
    domain = None if space is None else space.domains.get(name)
    return domain.domain if isinstance(domain, When) else domain


def varied(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    """Parameters that take at least two values in these trials, with the values in order of their size."""
    found: dict[str, dict[str, Any]] = {}
    for trial in trials:
        for name, value in trial.record.params.items():
            found.setdefault(name, {})[setting(value)] = value
    return {name: _in_order(list(values.values())) for name, values in found.items() if len(values) > 1}


def importance_of(study: StudyData, family: str) -> Importance:
    """Over a family's complete and pruned trials."""
    scored = [trial for trial in study.trials if trial.family == family and trial.reported_value is not None]

    def none(why: str) -> Importance:
        return Importance(family=family, shares={}, trials=len(scored), missing=why)

    if len(scored) < FEWEST:
        return none(f"it needs at least {FEWEST} trials with a score")
    if not (values := varied(scored)):
        return none("no setting was varied")
    rank_M = rankdata([trial.reported_value or 0.0 for trial in scored])
    if not np.ptp(rank_M):
        return none("all trials are alike")
    space = space_of_family(study, family)
    shares = {name: _share(scored, rank_M, name, is_continuous(space, name, own)) for name, own in values.items()}
    known = {name: share for name, share in sorted(shares.items(), key=lambda pair: -pair[1]) if share > 0}
    return Importance(
        family=family, shares=known, trials=len(scored), missing=None if known else "no setting explains it by itself"
    )


def _share(trials: Sequence[Trial], rank_M: FloatArray, name: str, numeric: bool) -> float:
    """Of the ranks' variance over all trials, what a setting explains among those that have it."""
    having = [place for place, trial in enumerate(trials) if name in trial.record.params]
    values = [trials[place].record.params[name] for place in having]
    own_m = rank_M[having]
    if numeric:
        bins = max(2, min(MOST_BINS, len(values) // BIN))
        edges = np.quantile(np.asarray(values, dtype=np.float64), np.linspace(0, 1, bins + 1)[1:-1])
        level_m = np.searchsorted(edges, values, side="left")
    else:
        level_m = np.unique([setting(value) for value in values], return_inverse=True)[1]
    size_L = np.bincount(level_m)
    level_m, size_L = np.unique(level_m, return_inverse=True)[1], size_L[size_L > 0]
    within = len(own_m) - len(size_L)
    if len(size_L) < 2 or within < 1:
        return 0.0
    total = float(np.square(own_m - own_m.mean()).sum())
    mean_L = np.bincount(level_m, weights=own_m) / size_L
    between = float((size_L * np.square(mean_L - own_m.mean())).sum())
    error = (total - between) / within
    if total + error == 0.0:
        return 0.0
    omega = max(0.0, (between - (len(size_L) - 1) * error) / (total + error))
    return omega * total / float(np.square(rank_M - rank_M.mean()).sum())


def what_the_best_share(trials: Sequence[Trial], name: str) -> str | None:
    """How the best third differs from the others in one setting, in words; None where it does not."""
    having = [trial for trial in trials if trial.reported_value is not None and name in trial.record.params]
    having.sort(key=lambda trial: -(trial.reported_value or 0.0))
    size = len(having) // 3
    if size < 2:
        return None
    best, rest = ([trial.record.params[name] for trial in part] for part in (having[:size], having[size:]))
    if all(map(is_number, best + rest)):
        top, low = statistics.median(best), statistics.median(rest)
        return None if top == low else f"the best third has a median of {setting(top)}, the others {setting(low)}"
    value, often = Counter(map(setting, best)).most_common(1)[0]
    elsewhere = sum(setting(other) == value for other in rest)
    if often / len(best) <= elsewhere / len(rest):
        return None
    return f"{often} of the best {len(best)} have {value}, {elsewhere} of the other {len(rest)}"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_order(values: list[Any]) -> list[Any]:
    return sorted(values) if all(map(is_number, values)) else sorted(values, key=setting)
