"""Masses of the photographs of a request: those of `biomass predict`, for programs, for a page and as its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biomass_models.interrupt import ShouldStop
from orchestration.answers.opened import OpenBlend
from orchestration.answers.photographs import PATH
from orchestration.answers.predict import prediction_notes
from orchestration.answers.shard import DIGEST, NEAREST, ODD, PERCENTILE, REASON, predict_shard
from orchestration.answers.table import bound_column, mass_columns, photograph_table, table_bytes
from orchestration.serving.asked import Asked, Limits
from orchestration.serving.uploads import Upload


@dataclass(frozen=True, kw_only=True)
class Interval:
    """At one level; None: there are not enough dates."""

    level: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Mass:
    """In the unit asked for."""

    target: str  # Dry_Total
    mass: float
    intervals: tuple[Interval, ...]  # none where the blend has none


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One photograph."""

    name: str
    unreadable: str | None  # why it has no masses
    masses: tuple[Mass, ...]
    unlike_percentile: float | None  # None: embeddings of the training photographs are not kept
    unlike: bool | None
    nearest: str | None  # training photograph
    odd_shape: bool  # another shape than those trained on

    def to_json(self) -> dict[str, Any]:
        masses = {
            one.target: {
                "mass": one.mass,
                "intervals": [{"level": each.level, "low": each.low, "high": each.high} for each in one.intervals],
            }
            for one in self.masses
        }
        return {
            "name": self.name,
            "unreadable": self.unreadable,
            "masses": masses or None,
            "unlike_percentile": self.unlike_percentile,
            "unlike": self.unlike,
            "nearest": self.nearest,
            "odd_shape": self.odd_shape,
        }


@dataclass(frozen=True, kw_only=True)
class Answer:
    """To one request."""

    ensemble: str
    card: str  # content of the ensemble's card
    unit: str
    levels: tuple[float, ...]
    joint: bool
    photographs: tuple[Answered, ...]
    notes: tuple[str, ...]
    table: bytes  # CSV, as `biomass predict` writes it
    digests: tuple[str, ...]  # of the photographs' contents, "" where they were not looked at

    def to_json(self) -> dict[str, Any]:
        return {
            "ensemble": self.ensemble,
            "card": self.card,
            "unit": self.unit,
            "levels": list(self.levels),
            "joint": self.joint,
            "photographs": [one.to_json() for one in self.photographs],
            "notes": list(self.notes),
        }


def answer(
    blend: OpenBlend,
    uploads: Sequence[Upload],
    asked: Asked,
    limits: Limits,
    *,
    cache: Path,
    should_stop: ShouldStop | None = None,
) -> Answer:
    """cache: a folder for features, which are those of strangers' photographs. Raises what predict_shard raises."""
    reasons = {row: why for row, one in enumerate(uploads) if (why := one.refused(limits)) is not None}
    rows = [row for row in range(len(uploads)) if row not in reasons]
    paths = [str(uploads[row].path) for row in rows]
    predicted = _all_rows(predict_shard(blend, paths, cache=cache, should_stop=should_stop), rows, reasons, uploads)
    given = pd.DataFrame({PATH: [one.name for one in uploads]})
    conversion, options = asked.conversion, asked.options
    table = photograph_table(given, predicted, blend.intervals, conversion, blend.measured, options)
    columns = mass_columns(blend.measured, conversion.unit)
    levels = options.levels if blend.intervals is not None else ()
    found = []
    for (_, row), odd in zip(table.iterrows(), predicted[ODD], strict=True):
        known = PERCENTILE in table and pd.notna(row[PERCENTILE])
        masses = tuple(
            Mass(
                target=name.removesuffix("_g"),
                mass=float(row[column]),
                intervals=tuple(
                    Interval(
                        level=level,
                        low=_finite(row[bound_column(column, "low", level)]),
                        high=_finite(row[bound_column(column, "high", level)]),
                    )
                    for level in levels
                ),
            )
            for name, column in columns.items()
        )
        found.append(
            Answered(
                name=str(row[PATH]),
                unreadable=row[REASON] or None,
                masses=() if row[REASON] else masses,
                unlike_percentile=float(row[PERCENTILE]) if known else None,
                unlike=bool(row["unlike"]) if known else None,
                nearest=str(row[NEAREST]) if known else None,
                odd_shape=bool(odd),
            )
        )
    return Answer(
        ensemble=blend.name,
        card=blend.card_id,
        unit=conversion.unit,
        levels=options.levels,
        joint=options.joint,
        photographs=tuple(found),
        notes=tuple(prediction_notes(blend, given, predicted, conversion, options)),
        table=table_bytes(table, ".csv"),
        digests=tuple(predicted[DIGEST]),
    )


def _all_rows(
    predicted: pd.DataFrame, rows: Sequence[int], reasons: dict[int, str], uploads: Sequence[Upload]
) -> pd.DataFrame:
    """A row an upload, refused ones with their reasons, which name what was sent and not where it lies here."""
    why = {row: uploads[row].in_words(said) for row, said in zip(rows, predicted[REASON], strict=True)} | reasons
    every = predicted.set_axis(list(rows)).reindex(range(len(uploads)))
    texts = {column: every[column].fillna("") for column in (DIGEST, NEAREST)}
    texts[REASON] = pd.Series(why, index=every.index, dtype="object")
    odd = np.array([one is True or one is np.True_ for one in every[ODD]], dtype=bool)
    texts |= {ODD: pd.Series(odd, index=every.index), PERCENTILE: every[PERCENTILE].astype("float64")}
    return every.assign(**texts)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
