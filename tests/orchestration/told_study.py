"""A study of any size whose trials were never trained: its files say what a test wants them to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import study_records as records

from biomass_models.data.cell_weights import cell_weights
from biomass_models.data.references import per_target_mean
from biomass_models.families.configs import config_to_params
from biomass_models.targets import (
    TARGETS,
    FloatArray,
    blank_unmeasured,
    from_components,
    norm_of,
    project_coherent,
    weighted_r2_score,
)
from orchestration.study.ledger import Ledger
from orchestration.study.records import FoldMetrics, StudyRecord
from orchestration.study.storage import Storage
from search_spaces.spaces import space_of

BACKBONE = records.BACKBONE
METADATA = ("Sampling_Date", "State", "Species", "Pre_GSHH_NDVI", "Height_Ave_cm")
START = 1_700_000_000.0  # seconds since 1970, when the search began


def told_study(
    folder: Path | str,
    *,
    statuses: Sequence[str] = ("complete",) * 6,
    families: Sequence[str] = ("probe", "baseline"),
    images: int = 40,
    folds: int = 4,
    scheme: str = "date",
    metadata: bool = True,
    species: str = "Ryegrass_Clover",
    reason: str = "fold 0: ValueError: the loss is not finite",
    noise: float = 8.0,
    looks: bool = False,
    quadrats: pd.DataFrame | None = None,
    unmeasured: Mapping[str, slice] = MappingProxyType({}),
    **facts: Any,
) -> Ledger:
    """statuses: of the trials in the order of proposal: complete, pruned, failed, refused or open; families take turns.

    noise: standard deviation of the errors of the best trial in grams, growing with the trial's number; looks:
    whether folds store what was seen where; quadrats: of another told study, for the same images in other folds;
    unmeasured: rows that lack a target; facts: further fields of study.json.
    """
    ledger, rng = Ledger(Storage(folder)), np.random.default_rng(0)
    table = _quadrats(images, folds, species, rng) if quadrats is None else quadrats.copy()
    if scheme == "random":
        table["fold"] = rng.permutation(np.arange(len(table)) % folds)
    truth_NT = table[list(TARGETS)].to_numpy(copy=True)
    mean_NT = per_target_mean(table, table[["image_id", "fold", "group"]])
    for name, rows in unmeasured.items():
        table.loc[table.index[rows], name] = np.nan
    norm_T = norm_of(cell_weights(table))
    mean_NT = blank_unmeasured(mean_NT, norm_T)
    kept = table if metadata else table.drop(columns=list(METADATA))
    ledger.write_study(replace(_record(families, folds, scheme), **facts), kept)
    references = records.oof_of(table, mean_NT).assign(reference="per-target mean")
    ledger.write_references(references.drop(columns=["fold", "group"]))
    draws = {family: Random(0) for family in families}
    for number, status in enumerate(statuses):
        family = families[number % len(families)]
        space = space_of(family, (BACKBONE,), "smoke")
        params = space.draw(draws[family], {})
        trial_id = f"{number:04x}{family[:2]}0000"
        ledger.write_trial(
            records.trial_record(
                number, trial_id=trial_id, family=family, params=params, config=config_to_params(space.config(params)),
                proposed_at=START + 10 * number,
            )
        )  # fmt: skip
        pred_NT = project_coherent(truth_NT + rng.normal(0, noise * (1 + number / 10), truth_NT.shape))
        pred_NT = blank_unmeasured(pred_NT, norm_T)
        done = {"complete": range(folds), "pruned": range(1), "failed": range(1)}.get(status, range(0))
        metrics = [_fold(ledger, trial_id, table, pred_NT, fold, number, looks) for fold in done]
        if status != "open":
            _end(ledger, trial_id, status, table, pred_NT, metrics, reason)
    return ledger


def _quadrats(images: int, folds: int, species: str, rng: np.random.Generator) -> pd.DataFrame:
    day_N = np.arange(images) * max(2, 2 * folds) // images
    dates = pd.Timestamp("2015-03-01") + pd.to_timedelta(20 * day_N, unit="D")
    state_N = np.where(day_N % 2, "Vic", "NSW")
    green, dead, clover = rng.gamma(2, 15, images), rng.gamma(2, 5, images), rng.gamma(1, 8, images)
    table = pd.DataFrame(
        {
            "image_id": [f"ID{number:04d}" for number in range(images)],
            "image_path": [f"train/ID{number:04d}.jpg" for number in range(images)],
            "Sampling_Date": dates,
            "State": state_N,
            "Species": np.where(day_N % 3, species, "Lucerne"),
            "Pre_GSHH_NDVI": rng.uniform(0.2, 0.9, images),
            "Height_Ave_cm": rng.gamma(2, 3, images),
            "fold": day_N % folds,
            "group": [f"{state}|{date:%Y-%m-%d}" for state, date in zip(state_N, dates, strict=True)],
        }
    )
    table[list(TARGETS)] = from_components(green, dead, clover)
    return table


def _record(families: Sequence[str], folds: int, scheme: str) -> StudyRecord:
    settings = {
        "families": tuple(families), "backbones": (BACKBONE,), "weights": "random", "scale": "smoke", "scheme": scheme,
        "folds": folds, "max_fold_seconds": 60.0,
    }  # fmt: skip
    return records.study_record(
        settings, data_fingerprint="d41d8cd98f00", fold_hash=f"{scheme}-folds", weights={BACKBONE: "w"},
        versions={"python": "3.11", "torch": "2.8"}, created_at=START,
    )  # fmt: skip


def _fold(
    ledger: Ledger, trial_id: str, table: pd.DataFrame, pred_NT: FloatArray, fold: int, number: int, looks: bool
) -> FoldMetrics:
    """Two slots take turns, 4 s a fold."""
    rows = (table["fold"] == fold).to_numpy()
    start = START + 16 * (number // 2) + 4 * fold
    metrics = records.fold_metrics(
        fold, weighted_r2_score(table.loc[rows, list(TARGETS)].to_numpy(), pred_NT[rows]), images=int(rows.sum()),
        started_at=start, finished_at=start + 4.0, seconds=4.0, cpu_seconds=4.0, peak_memory_mb=512.0, host="box",
        pid=100 + number % 2,
    )  # fmt: skip
    ledger.write_fold(
        trial_id,
        oof=records.oof_of(table, pred_NT, fold),
        model=b"",
        metrics=metrics,
        maps=_maps(table["image_id"][rows], ledger.trial(trial_id).family) if looks else None,
    )
    return metrics


def _end(
    ledger: Ledger,
    trial_id: str,
    status: str,
    table: pd.DataFrame,
    pred_NT: FloatArray,
    metrics: list[FoldMetrics],
    reason: str,
) -> None:
    cost = {"folds_done": len(metrics), "seconds": 4.0 * len(metrics), "peak_memory_mb": 512.0}
    cost["ended_at"] = max((fold.finished_at for fold in metrics), default=START)
    if status == "complete":
        score = weighted_r2_score(table[list(TARGETS)].to_numpy(), pred_NT)
        result = records.complete(score, fold_scores=tuple(fold.score for fold in metrics), **cost)
        ledger.write_result(trial_id, result, records.oof_of(table, pred_NT))
    elif status == "pruned":
        ledger.write_result(trial_id, records.pruned(0.25, **cost))
    elif status == "refused":
        ledger.write_result(trial_id, records.refused(90.0, 60.0, **cost))
    else:
        ledger.write_result(trial_id, records.failed(reason, **cost))


def _maps(image_ids: pd.Series, family: str) -> pd.DataFrame:
    """Of a family of densities the halves, 2 x 2 places each, for two masses; else where it looked."""
    if family != "density":
        return _attention(image_ids)
    tables = [
        _attention(image_ids).assign(view=view, mass=mass, look=[np.full(4, grams, np.float32)] * len(image_ids))
        for mass, grams in (("Dry_Green_g", 7.5), ("Dry_Clover_g", 0.75))
        for view in ("left", "right")
    ]
    return pd.concat(tables, ignore_index=True)


def _attention(image_ids: pd.Series) -> pd.DataFrame:
    """The whole image, looked at in the upper left of 2 x 2 places."""
    return pd.DataFrame(
        {
            "image_id": list(image_ids), "view": "whole", "weight": np.float32(np.nan), "rows": 2, "columns": 2,
            "look": [np.array([0.7, 0.1, 0.1, 0.1], np.float32)] * len(image_ids),
        }
    )  # fmt: skip
