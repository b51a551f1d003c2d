"""Which hyper-parameters decided the score: Optuna's importance, and what the best trials have in common."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestration.report.words import setting
from orchestration.study.data import StudyData, Trial
from orchestration.study.spaces import stored_space
from search_spaces.domain import Integer, LogUniform, Plain, SearchSpace, Uniform, When

FEWEST = 4  # trials with a score below which an importance says nothing at all
FEW = 20  # below which it is a hint
MOST = 2000  # trials that Optuna gets, the latest


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Of one family's hyper-parameters, largest share first; shares sum to 1."""

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
    """Optuna's importance (PED-ANOVA) over a family's complete and pruned trials."""
    scored = [trial for trial in study.trials if trial.family == family and trial.reported_value is not None][-MOST:]
    space = space_of_family(study, family)

    def none(why: str) -> Importance:
        return Importance(family=family, shares={}, trials=len(scored), missing=why)

    if space is None:
        return none("this version of the program does not know the family's search space")
    if len(scored) < FEWEST:
        return none(f"it needs at least {FEWEST} trials with a score")
    if not varied(scored):
        return none("no setting was varied")
    import optuna

    from search_spaces.to_optuna import finished_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampled = optuna.create_study(direction="maximize")
    try:
        observed = [finished_trial(space, trial.record.params, trial.reported_value) for trial in scored]
        sampled.add_trials([one for one in observed if one is not None])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are few trials: the page says so
            shares = optuna.importance.get_param_importances(sampled)
    except (KeyError, ValueError, RuntimeError):  # another version's space: its values are outside of this one's
        return none("the study was made with another version of the search space")
    known = {name: share for name, share in shares.items() if share > 0}
    return Importance(
        family=family, shares=known, trials=len(scored), missing=None if known else "all trials are alike"
    )


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
