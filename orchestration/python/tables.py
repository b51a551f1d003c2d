"""What pages and `--json` say of a study, as DataFrames.

Scores are weighted R2 of pooled out-of-fold rows, masses grams, seconds and GB as the leaderboard has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from biomass_models.data.problems import Problem
from biomass_models.targets import TARGETS
from orchestration.blending.shown import Stored
from orchestration.inspect.leaderboard import FamilyRow, Row
from orchestration.study.data import StudyData, Trial

TIME = "time"


LEADERBOARD = {
    **{"name": "str", "family": "str", "score": "float", "fold_low": "float", "fold_high": "float"},
    **{"seconds": "float", "gpu_seconds": "float", "peak_gb": "float", "status": "str", "notes": "str"},
    **{"label": "str", "summary": "str"},
}
FAMILIES = {
    **{"family": "str", "trials": "int", "complete": "int", "pruned": "int", "failed": "int", "refused": "int"},
    **{"best": "float", "seconds": "float", "gpu_seconds": "float", "peak_gb": "float"},
}
TRIALS = {"trial_id": "str", "family": "str", "status": "str", "score": "float"}
OF_TRIALS = {  # after the scores of the folds
    **{"seconds": "float", "gpu_seconds": "float", "peak_gb": "float", "why": "str", "reason": "str"},
    **{"proposed_at": TIME, "ended_at": TIME},
}
ENSEMBLES = {
    **{"name": "str", "nested_score": "float", "nested_se": "float", "rule": "str", "members": "Int64"},
    **{"current": "bool", "created_at": TIME},
}
PROBLEMS = {"level": "str", "file": "str", "row": "Int64", "rule": "str", "got": "str", "remedy": "str"}


def leaderboard_table(rows: Sequence[Row]) -> pd.DataFrame:
    """References and trials, best first, by name."""
    found = (
        {
            **_fields(row, LEADERBOARD),
            "fold_low": min(row.fold_scores, default=None),
            "fold_high": max(row.fold_scores, default=None),
            "notes": "; ".join(row.notes),
        }
        for row in rows
    )
    return _table(found, LEADERBOARD).set_index("name")


def families_table(rows: Sequence[FamilyRow]) -> pd.DataFrame:
    """The trials of each family together, by family."""
    return _table((_fields(row, FAMILIES) for row in rows), FAMILIES).set_index("family")


def trials_table(trials: Sequence[Trial], folds: Sequence[int], *, settings: bool) -> pd.DataFrame:
    """In the order of proposal, by trial id; settings: a column for each field of the configurations as well."""
    kinds = {**TRIALS, **{f"fold_{fold}": "float" for fold in folds}, **OF_TRIALS}
    found = _table((_trial_row(trial, folds) for trial in trials), kinds).set_index("trial_id")
    if settings:
        drawn = pd.DataFrame([trial.record.config for trial in trials], index=found.index)
        found = found.join(drawn, rsuffix="_setting")
    return found


def _trial_row(trial: Trial, folds: Sequence[int]) -> dict[str, Any]:
    record, result = trial.record, trial.result
    scores = dict(zip(folds, () if result is None else result.fold_scores, strict=False))
    return {
        **_fields(trial, TRIALS | OF_TRIALS),
        "gpu_seconds": None if result is None else result.gpu_seconds,
        "peak_gb": None if result is None else result.peak_memory_mb / 1024,
        "why": record.why,
        "proposed_at": record.proposed_at,
        **{f"fold_{fold}": scores.get(fold) for fold in folds},
    }


def oof_table(data: StudyData, trial: str) -> pd.DataFrame:
    """Measured and predicted masses of each scored photograph beside its metadata, by image id.

    trial: an id, or the name of a reference. A mass that was not measured is NaN; what was never measured has no
    column.
    """
    pred_NT = data.references[trial].pred_NT if trial in data.references else data.pred_NT(trial)
    found = data.truth.drop(columns=list(TARGETS)).set_index("image_id")
    for place, name in enumerate(TARGETS):
        if name in data.measured:
            found[f"measured_{name}"] = data.truth_NT[:, place]
            found[f"predicted_{name}"] = pred_NT[:, place]
    return found


def ensembles_table(stored: Sequence[Stored]) -> pd.DataFrame:
    """Stored ensembles, the newest first, by name; those of another version have no numbers."""
    found = []
    for one in sorted(stored, key=lambda one: (-one.created_at, one.name)):
        row = {"name": one.name, "current": one.fits, "created_at": one.created_at or None}
        if one.card is not None:
            row |= {**_fields(one.card, ENSEMBLES), "rule": one.card.chosen_rule, "members": len(one.card.members)}
        found.append(row)
    return _table(found, ENSEMBLES).set_index("name")


def problems_table(problems: Sequence[Problem]) -> pd.DataFrame:
    """What is wrong with a data directory, a row each."""
    return _table((_fields(problem, PROBLEMS) for problem in problems), PROBLEMS)


def _fields(value: object, kinds: Mapping[str, str]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in kinds if hasattr(value, name)}


def _table(rows: Iterable[Mapping[str, Any]], kinds: Mapping[str, str]) -> pd.DataFrame:
    """kinds: dtype of each column; TIME is made of seconds since 1970."""
    found = pd.DataFrame(list(rows), columns=list(kinds))
    for name in [name for name, kind in kinds.items() if kind == TIME]:
        found[name] = pd.to_datetime(found[name], unit="s", utc=True).dt.as_unit("us")
    return found.astype({name: kind for name, kind in kinds.items() if kind != TIME})
