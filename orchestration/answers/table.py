"""The tables that a prediction writes: a row a photograph; a row a group of them, with the interval of its mean.

N photographs, T = 5 targets. Columns of the user's tables come first, then masses (Dry_Total_g, Dry_Total_kg_ha), then
bounds by level (Dry_Total_g_low_80, Dry_Total_g_high_80), then what is known of the photograph.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.features.likeness import UNLIKE
from biomass_models.fold_units import LONE_UNITS
from biomass_models.targets import TARGETS, FloatArray
from ensembles.intervals.levels import Intervals, require_level
from ensembles.submission import quadrat_means, unit_column
from orchestration.answers.groups import quadrat_names, units_of
from orchestration.answers.photographs import PATH, as_utf8, beside, blank_cells
from orchestration.answers.shard import NEAREST, PERCENTILE, REASON
from orchestration.answers.units import Conversion

FORMATS = (".csv", ".parquet")
COUNT, WHY = "photographs", "no_interval"  # of a table of means


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What is asked for beside masses."""

    levels: tuple[float, ...] = (0.8, 0.9)
    joint: bool = False  # bounds of all masses at once instead of each alone
    by: tuple[str, ...] = ()  # columns that name groups of photographs
    date: str | None = None  # column that names what the folds keep whole; None: looked for

    def __post_init__(self) -> None:
        if not self.levels:
            raise UserError("intervals have one level or more, such as 0.8, got none")
        for level in self.levels:
            require_level(level)


def mass_columns(measured: Sequence[str], unit: str) -> dict[str, str]:
    """Name of each measured target's column."""
    return {name: name if unit == "g" else unit_column(name, unit) for name in TARGETS if name in measured}


def photograph_table(
    given: pd.DataFrame,
    predicted: pd.DataFrame,
    intervals: Intervals | None,
    conversion: Conversion,
    measured: Sequence[str],
    options: TableOptions,
) -> pd.DataFrame:
    """given: the user's rows; predicted: shard.predict_shard's, in the same order. Names that are not UTF-8 have
    escapes."""
    mass_NT = _masses(given, predicted)
    columns = mass_columns(measured, conversion.unit)
    found: dict[str, object] = {
        column: mass_NT[:, TARGETS.index(name)] * conversion.per_gram_N for name, column in columns.items()
    }
    for level in options.levels if intervals is not None else ():
        assert intervals is not None
        if options.joint:
            box = intervals.box(mass_NT, level)
            low_NT, high_NT = box.low_NT, box.high_NT
        else:
            low_NT, high_NT = intervals.of_photographs(mass_NT, level)
        for name, column in columns.items():
            for end, value_NT in (("low", low_NT), ("high", high_NT)):
                found[bound_column(column, end, level)] = value_NT[:, TARGETS.index(name)] * conversion.per_gram_N
    if predicted[PERCENTILE].notna().any():
        found[PERCENTILE] = predicted[PERCENTILE].round(1)
        found["unlike"] = _unlike(predicted)
        found[NEAREST] = predicted[NEAREST].to_numpy()
    found[REASON] = predicted[REASON].to_numpy()
    own = beside(given, found)
    own = own.assign(**{PATH: own[PATH].map(as_utf8).astype("str")})
    first = [PATH, *(name for name in own if name != PATH)]
    return pd.concat([own[first].reset_index(drop=True), pd.DataFrame(found)], axis=1)


def mean_table(
    given: pd.DataFrame,
    predicted: pd.DataFrame,
    intervals: Intervals | None,
    conversion: Conversion,
    measured: Sequence[str],
    options: TableOptions,
) -> pd.DataFrame:
    """One row a group: COUNT of the photographs that could be read, mean masses, bounds, WHY there are none.

    Several photographs of one quadrat count as one. Means over several dates, or of photographs whose date is not
    known, have no interval; nor have means of several photographs where training photographs have no dates.
    """
    mass_NT = _masses(given, predicted)
    read_N = (predicted[REASON] == "").to_numpy(copy=True)
    if (quadrats := quadrat_names(given)) is not None:
        read_N &= ~pd.Series(quadrats).where(read_N).duplicated().to_numpy()
    unit_N = None if intervals is None else units_of(given, intervals.calibration.unit, options.date)
    per_gram_N = np.broadcast_to(conversion.per_gram_N, (len(given),))
    columns = mass_columns(measured, conversion.unit)
    rows, keys = [], []
    groups = given[list(dict.fromkeys(options.by))]
    groups = groups.mask(groups.apply(blank_cells))  # blank in one table, not there in another: one group
    for key, frame in groups.groupby(list(groups), sort=True, dropna=False):
        group = frame.index.to_numpy()[read_N[frame.index]]
        row: dict[str, object] = {COUNT: len(group)}
        why = _why_not(group, intervals, unit_N, per_gram_N)
        mean_T = mass_NT[group].mean(axis=0) if len(group) else np.full(len(TARGETS), np.nan)
        per_gram = float(per_gram_N[group].mean()) if len(group) else np.nan
        for name, column in columns.items():
            row[column] = (
                float((mass_NT[group, TARGETS.index(name)] * per_gram_N[group]).mean()) if len(group) else np.nan
            )
        for level in options.levels if intervals is not None else ():
            assert intervals is not None
            low_T, high_T = (np.full(len(TARGETS), np.nan),) * 2
            if not why:
                low_T, high_T = intervals.of_mean(mean_T, len(group), level)
            for name, column in columns.items():
                for end, value_T in (("low", low_T), ("high", high_T)):
                    row[bound_column(column, end, level)] = float(value_T[TARGETS.index(name)]) * per_gram
        rows.append(row | {WHY: why})
        keys.append(key)
    table = pd.DataFrame(rows)
    named = pd.DataFrame(keys, columns=groups.columns).astype(groups.dtypes.to_dict())
    return pd.concat([beside(named, table.columns), table], axis=1)


def bound_column(column: str, end: str, level: float) -> str:
    """Name of a bound's column: Dry_Total_g_low_80."""
    return f"{column}_{end}_{100 * level:g}"


def table_bytes(table: pd.DataFrame, suffix: str, *, own: Collection[Hashable] = (), digits: int = 4) -> bytes:
    """CSV with so many decimals, or parquet with all. own: columns of the user's, which keep theirs."""
    if suffix.lower() == ".parquet":
        stream = BytesIO()
        table.to_parquet(stream, index=False)
        return stream.getvalue()
    texts = table.copy()
    for name in texts.columns.drop(list(own)):
        if pd.api.types.is_float_dtype(texts[name]):
            texts[name] = [f"{value:.{digits}f}" if pd.notna(value) else None for value in texts[name]]
    return as_utf8(str(texts.to_csv(index=False, lineterminator="\n"))).encode()


def means_path(out: Path) -> Path:
    """Where the table of means lies."""
    return out.with_name(f"{out.stem}-means{out.suffix}")


def output_paths(out: Path, options: TableOptions) -> tuple[Path, ...]:
    """What a prediction writes."""
    return (out, means_path(out)) if options.by else (out,)


def short_notes(predicted: pd.DataFrame) -> list[str]:
    """What a reader of the table should know about its photographs."""
    notes = []
    if bad := int((predicted[REASON] != "").sum()):
        first = predicted.loc[predicted[REASON] != "", REASON].iloc[0]
        notes.append(f"{counted(bad, 'photograph')} of {len(predicted)} cannot be read, such as: {first}")
    if odd := int(predicted["odd_shape"].sum()):
        notes.append(f"{counted(odd, 'photograph has', 'photographs have')} another shape than those trained on")
    if unlike := int((predicted[PERCENTILE] > UNLIKE).sum()):
        notes.append(
            f"{counted(unlike, 'photograph is', 'photographs are')} unlike the training photographs (farther from them "
            f"than {UNLIKE:.0f} in 100 of these from those of other dates): trust their masses less"
        )
    return notes


def _unlike(predicted: pd.DataFrame) -> np.ndarray:
    """Blank where it is not known, as in a row that cannot be read."""
    unlike, unknown = predicted[PERCENTILE] > UNLIKE, predicted[PERCENTILE].isna()
    return (unlike.astype(object).mask(unknown, None) if unknown.any() else unlike).to_numpy()


def _masses(given: pd.DataFrame, predicted: pd.DataFrame) -> FloatArray:
    """Grams; photographs of one quadrat have the mean of those that could be read."""
    mass_NT = predicted[list(TARGETS)].to_numpy(dtype=np.float64)
    if (quadrats := quadrat_names(given)) is None:
        return mass_NT
    read_N = (predicted[REASON] == "").to_numpy()
    mean_NT = np.full(mass_NT.shape, np.nan)
    mean_NT[read_N] = quadrat_means(mass_NT[read_N], np.array(quadrats)[read_N].tolist())
    return mean_NT


def _why_not(group: np.ndarray, intervals: Intervals | None, unit_N: pd.Series | None, per_gram_N: FloatArray) -> str:
    """Why the mean of a group has no interval; empty where it has one."""
    if not len(group):
        return "no photograph can be read"
    if intervals is None:
        return ""
    unit = intervals.calibration.unit
    if unit in LONE_UNITS:
        if len(group) == 1:  # its own interval
            return ""
        return f"intervals are of single {unit}s: without dates in the training data what a mean errs by is not known"
    if unit_N is None:
        return f"the {unit} of its photographs is not known; --date names its column"
    known = unit_N.iloc[group].dropna()
    if (units := known.nunique()) > 1:
        return f"its photographs are of {counted(units, unit)}"
    if (unknown := len(group) - len(known)) > 0:
        return f"the {unit} of {'' if not units else f'{unknown} of '}its photographs is not known"
    if np.ptp(per_gram_N[group]) > 0:
        return "the areas of its quadrats differ"
    return ""
