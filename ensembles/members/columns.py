"""Which columns of a table of any origin hold image ids and predictions: decided by all names, never by one alone.

A table of out-of-fold predictions often holds the label as well, under the plain name: `target` beside `pred`, or
`Dry_Green_g` beside `Dry_Green_g_pred`. Where a name means prediction, that column is it; where several do, or none
stands out, the table is refused with the candidates. Predictions need columns of the targets that were measured where
they are scored, and those of others are not read; a table of measured masses has what was measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from biomass_models.counted import counted
from biomass_models.data.problems import did_you_mean, shown
from biomass_models.data.table import METADATA, split_sample_id
from biomass_models.errors import UserError
from biomass_models.targets import TARGETS

PREDICTION = {"pred", "preds", "prediction", "predictions", "predicted", "predict", "oof", "hat", "yhat", "estimate"}
LABEL = {"true", "truth", "label", "labels", "actual", "gt", "measured", "observed", "groundtruth"}
SPREAD = {
    "std",
    "sd",
    "se",
    "var",
    "sigma",
    "low",
    "high",
    "lower",
    "upper",
    "error",
    "err",
    "abs",
}  # about a prediction
KEYS = ("image_id", "sample_id", "image_path", "target_name", "target", "fold", "group")
SPLITS = ("split", "set", "subset", "phase", "stage", "is_train", "part")  # columns about what a row was used for
SEEN = {"train", "training", "fit", "fitted", "in-sample", "insample", "seen", "true", "1"}

_KNOWN = {name.lower(): name for name in (*KEYS, *METADATA, *TARGETS)}


def tidy_names(table: pd.DataFrame) -> pd.DataFrame:
    """The table with known columns under their own names, whatever the case of letters or spaces around them.

    Raises UserError when two columns have one name.
    """
    plain = [str(name).strip() for name in table.columns]
    names = [name if name in _KNOWN.values() else _KNOWN.get(name.lower(), name) for name in plain]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"a column appears once, got {', '.join(twice)} twice; remove all but one")
    return table.set_axis(names, axis=1)


def predictions_of(table: pd.DataFrame, measured: Sequence[str] = TARGETS) -> tuple[pd.DataFrame, str | None]:
    """image_id, TARGETS in grams and fold (where there is one), one row an image; and a remark on columns passed over.

    measured: targets that the table must have; the others are NaN. Raises UserError: no such columns, several that may
    be it, rows that the model was trained on, values that are no numbers, a row that is there twice.
    """
    _refuse_seen_rows(table)
    found = _wide_sets(table)
    sets = {affix: columns for affix, columns in found.items() if set(measured) <= set(columns)}
    if sets:
        columns, remark = _chosen_set(sets)
        return _wide(table, {name: columns[name] for name in measured}), remark
    column, remark = _chosen_column(table)
    return _from_long(table, column, measured), remark


def labels_of(table: pd.DataFrame) -> pd.DataFrame:
    """image_id and measured TARGETS in grams, NaN where none is: the columns under the plain names, or those named a
    label, whichever have more targets."""
    is_long = "sample_id" in table or "target_name" in table
    sets = {a: columns for a, columns in _wide_sets(table).items() if not is_long or len(columns) == len(TARGETS)}
    for affix in sorted(sets, key=lambda affix: (-len(sets[affix]), affix != "*")):
        if affix == "*" or _kind(affix) == "label":
            return _wide(table, sets[affix])
    values = [name for name in _value_columns(table) if _kind(name) == "label"]
    return _from_long(table, "target" if "target" in table else values[0] if len(values) == 1 else "target", None)


def _kind(text: str) -> str:
    """prediction, label, spread or unknown, by the words of a column's name."""
    words = set(re.split(r"[^a-z]+", text.lower()))
    if words & LABEL:
        return "label"
    if words & SPREAD:
        return "spread"
    return "prediction" if words & PREDICTION else "unknown"


def _wide_sets(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Columns by target for each affix that a target has: `*` is the plain name, `*_pred`, `oof_*`."""
    found: dict[str, dict[str, str]] = {}
    for name in map(str, table.columns):
        for target in TARGETS:
            if target.lower() in name.lower():
                found.setdefault(name.lower().replace(target.lower(), "*", 1), {})[target] = name
    return found


def _chosen_set(sets: dict[str, dict[str, str]]) -> tuple[dict[str, str], str | None]:
    by_kind: dict[str, list[str]] = {}
    for affix in sets:
        by_kind.setdefault("plain" if affix == "*" else _kind(affix), []).append(affix)
    named, unknown = by_kind.get("prediction", []), by_kind.get("unknown", [])
    candidates = named or by_kind.get("plain") or unknown
    if len(candidates) != 1:
        got = ", ".join(sorted(candidates or sets))
        raise UserError(f"one set of columns holds the predictions, got {got} (* is a target); keep one of them")
    (chosen,) = candidates
    if named and "*" in sets:
        return sets[chosen], f"predictions are those of {chosen} (* is a target), the plain columns are labels"
    return sets[chosen], None if chosen == "*" else f"predictions are those of {chosen} (* is a target)"


def _value_columns(table: pd.DataFrame) -> list[str]:
    """Columns of a long table that may hold masses."""
    names = [
        str(name) for name in table.columns if name not in (*KEYS, *METADATA, "") and "unnamed" not in str(name).lower()
    ]
    return [name for name in names if pd.api.types.is_numeric_dtype(table[name]) or _kind(name) != "unknown"]


def _chosen_column(table: pd.DataFrame) -> tuple[str, str | None]:
    values = _value_columns(table)
    named = [name for name in values if _kind(name) == "prediction"]
    if len(named) > 1:
        raise UserError(f"one column holds the prediction, got {', '.join(named)}; keep one of them")
    if named:
        return named[0], f"predictions are those of {named[0]}, target is the label" if "target" in table else None
    return "target", None


def _refuse_seen_rows(table: pd.DataFrame) -> None:
    for name in table.columns:
        if str(name).lower() in SPLITS:
            seen_N = table[name].astype(str).str.strip().str.lower().isin(SEEN)
            if seen_N.any() and not seen_N.all():
                value = table[name][seen_N].iloc[0]
                raise UserError(
                    f"{int(seen_N.sum())} of {len(table)} rows are training rows ({name} = {value}), which the model "
                    "has seen; keep the rows that it predicts unseen"
                )


def _wide(table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    if "image_id" not in table and "image_path" not in table:
        near = did_you_mean("image_id", [str(name) for name in table.columns])
        raise UserError(f"a wide table has a column image_id, got {_listed(table.columns)}{near}")
    ids = table["image_id" if "image_id" in table else "image_path"]
    frame = pd.DataFrame({"image_id": _text_ids(ids)})
    for target in TARGETS:
        frame[target] = _numbers(table, columns[target]) if target in columns else np.nan
    return frame.assign(fold=table["fold"].to_numpy()) if "fold" in table else frame


def _from_long(table: pd.DataFrame, column: str, measured: Sequence[str] | None) -> pd.DataFrame:
    """measured: targets that count, whose rows alone are read; None for whatever there is."""
    table = _with_sample_id(table)
    absent = [name for name in measured or () if name not in table]
    if _is_wide(table) and absent:
        raise UserError(f"a wide table has all measured targets, got {_listed(table.columns)}; add {_listed(absent)}")
    if not {"sample_id", column} <= set(table.columns):
        raise UserError(
            f"columns must be image_id,{','.join(TARGETS)} or sample_id,target; got {_listed(table.columns)}"
            f"{_near_miss(table)}"
        )
    halves = split_sample_id(_text_ids(table["sample_id"]))
    strange = ~halves["target_name"].isin(TARGETS)
    if strange.any():
        raise UserError(
            f"sample_id must be <image id>__<target name>, got {_text_ids(table['sample_id'])[strange].iloc[0]!r}"
        )
    if measured is not None:
        counts_N = halves["target_name"].isin(measured).to_numpy()
        table, halves = table[counts_N], halves[counts_N].reset_index(drop=True)
    sample_id = _text_ids(table["sample_id"])
    long = halves.assign(target=_numbers(table, column).to_numpy())
    if long.duplicated(["image_id", "target_name"]).any():
        twice_N = long.duplicated(["image_id", "target_name"])
        such = counted(int(twice_N.sum()), "such row")
        raise UserError(
            f"a sample_id must appear once, got {sample_id[twice_N].iloc[0]!r} again ({such}); "
            "of several folds? keep the rows that were predicted unseen"
        )
    wide = long.pivot(index="image_id", columns="target_name", values="target").reindex(columns=list(TARGETS))
    wide.columns.name = None
    wide = wide.loc[long["image_id"].unique()]
    if "fold" in table:
        wide["fold"] = table["fold"].to_numpy()[~long.duplicated("image_id").to_numpy()]
    return wide.reset_index()


def _with_sample_id(table: pd.DataFrame) -> pd.DataFrame:
    """A long table with image_id and target_name apart has a sample_id as well."""
    if "sample_id" in table or not {"image_id", "target_name"} <= set(table.columns):
        return table
    return table.assign(sample_id=_text_ids(table["image_id"]) + "__" + _text_ids(table["target_name"]))


def _is_wide(table: pd.DataFrame) -> bool:
    """Whether a table without all targets is a wide one nevertheless."""
    return "sample_id" not in table and any(name in table for name in TARGETS)


def _near_miss(table: pd.DataFrame) -> str:
    values = _value_columns(table)
    return f"; rename {values[0]} to target" if "sample_id" in table and len(values) == 1 else ""


def _text_ids(ids: pd.Series) -> pd.Series:
    return ids.astype(str).str.strip().reset_index(drop=True)


def _numbers(table: pd.DataFrame, name: str) -> pd.Series:
    """A column as float64. Raises UserError for text, True and False, dates and lists, with the line of the first."""
    column = table[name].reset_index(drop=True)
    if pd.api.types.is_bool_dtype(column):
        raise UserError(f"{name} must hold numbers, got True and False")
    if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_complex_dtype(column):
        raise UserError(f"{name} must hold numbers, got {column.dtype}")
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(np.float64)
    if column.map(lambda cell: isinstance(cell, bool)).any():
        raise UserError(f"{name} must hold numbers, got True and False")
    text = column.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
    number = pd.to_numeric(text, errors="coerce")
    bad = number.isna() & text.notna() & (text.astype(str) != "")
    if bad.any():
        cell = text[bad].iloc[0]
        comma = "; write a decimal point" if re.fullmatch(r"-?\d+,\d+", str(cell)) else ""
        raise UserError(f"{name} must hold numbers, got {shown(cell)} in row {int(bad.argmax()) + 1}{comma}")
    return number.astype(np.float64)


def _listed(names: Sequence[object] | pd.Index) -> str:
    text = ",".join(map(str, names))
    return text if len(text) <= 120 else f"{text[:120]}..."
