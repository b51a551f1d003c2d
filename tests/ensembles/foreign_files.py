"""A library of ten sound members as files, and one wrong file of each kind: what is written, and what must be said.

Every file is made here. A `Wrong` writes what belongs to one member: its out-of-fold file, its test file, or both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.data.table import masses_to_long
from biomass_models.targets import FROM_COMPONENTS, TARGETS, FloatArray, project_coherent

IMAGES, TESTS, DATES, SOUND = 80, 24, 16, 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """Truth and one sound model's predictions, all in grams; and where its files go."""

    folder: Path
    ids: list[str]
    test_ids: list[str]
    truth_NT: FloatArray
    date_N: np.ndarray
    oof_NT: FloatArray
    test_NT: FloatArray

    def oof(self, name: str, content: pd.DataFrame | str | bytes) -> None:
        write(self.folder / "oof" / name, content)

    def test(self, name: str, content: pd.DataFrame | str | bytes) -> None:
        write(self.folder / "pred" / name, content)

    def sound_test(self, name: str) -> None:
        self.test(f"{name}.csv", wide(self.test_ids, self.test_NT))

    def sound_oof(self, name: str) -> None:
        self.oof(f"{name}.csv", wide(self.ids, self.oof_NT))


def write(path: Path, content: pd.DataFrame | str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pd.DataFrame):
        content.to_csv(path, index=False)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def wide(ids: list[str], pred_NT: FloatArray) -> pd.DataFrame:
    return pd.DataFrame({"image_id": ids, **dict(zip(TARGETS, pred_NT.T, strict=True))})


def array(folder: Path, name: str, ids: list[str], pred_NT: FloatArray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", pred_NT)
    (folder / f"{name}.ids.txt").write_text("\n".join(ids) + "\n")


def make_field(folder: Path, seed: int = 7) -> Field:
    """Truth as train.csv, ten sound members in oof/ and pred/, and one more model that is written by whoever asks."""
    rng = np.random.default_rng(seed)
    date_N = np.arange(IMAGES) % DATES
    strength_D = rng.uniform(0.5, 1.6, (DATES, 3))
    part_N3 = rng.gamma(2.0, [9.0, 6.0, 4.0], (IMAGES, 3)) * strength_D[date_N]
    test_N3 = rng.gamma(2.0, [9.0, 6.0, 4.0], (TESTS, 3)) * rng.uniform(0.6, 1.7, (TESTS, 3))
    truth_NT = part_N3 @ FROM_COMPONENTS.T
    ids = [f"ID{row:04d}" for row in rng.permutation(IMAGES)]
    test_ids = [f"T{row:03d}" for row in rng.permutation(TESTS)]
    train = masses_to_long(wide(ids, truth_NT))
    train["Sampling_Date"] = np.repeat([f"2015/9/{date + 1}" for date in date_N], len(TARGETS))
    train["State"] = np.repeat(np.where(date_N % 2, "NSW", "Vic"), len(TARGETS))
    write(folder / "train.csv", train)
    shared, test_shared = rng.normal(0, 4.5, part_N3.shape), rng.normal(0, 4.5, test_N3.shape)

    def predicted(part: FloatArray, common: FloatArray) -> FloatArray:
        own = rng.normal(0, 3.5, part.shape)
        return project_coherent(np.maximum(0.85 * part + 1.5 + common + own, 0) @ FROM_COMPONENTS.T)

    for member in range(SOUND):
        write(folder / "oof" / f"sound{chr(97 + member)}.csv", wide(ids, predicted(part_N3, shared)))
        write(folder / "pred" / f"sound{chr(97 + member)}.csv", wide(test_ids, predicted(test_N3, test_shared)))
    return Field(
        folder=folder,
        ids=ids,
        test_ids=test_ids,
        truth_NT=truth_NT,
        date_N=date_N,
        oof_NT=predicted(part_N3, shared),
        test_NT=predicted(test_N3, test_shared),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Wrong:
    """One wrong file of a kind."""

    kind: str
    name: str
    write: Callable[[Field, str], None]
    reason: str  # a pattern of what must be said

    @property
    def member(self) -> str:
        return f"bad-{self.kind}-{self.name}".replace(" ", "-")


def _oof(make: Callable[[Field], pd.DataFrame | str | bytes], suffix: str = "csv") -> Callable[[Field, str], None]:
    def write_it(field: Field, name: str) -> None:
        field.oof(f"{name}.{suffix}", make(field))
        field.sound_test(name)

    return write_it


def _grams(change: Callable[[Field, FloatArray], FloatArray]) -> Callable[[Field, str], None]:
    return _oof(lambda field: wide(field.ids, change(field, field.oof_NT.copy())))


def _test(change: Callable[[Field, FloatArray], FloatArray]) -> Callable[[Field, str], None]:
    def write_it(field: Field, name: str) -> None:
        field.sound_oof(name)
        field.test(f"{name}.csv", wide(field.test_ids, change(field, field.test_NT.copy())))

    return write_it


def _array(change: Callable[[Field, FloatArray], FloatArray]) -> Callable[[Field, str], None]:
    def write_it(field: Field, name: str) -> None:
        array(field.folder / "oof", name, field.ids, change(field, field.oof_NT.copy()))
        field.sound_test(name)

    return write_it


def _by_date(field: Field, how: str) -> FloatArray:
    frame = pd.DataFrame(field.truth_NT).groupby(field.date_N)
    total, count = frame.transform("sum").to_numpy(), frame.transform("count").to_numpy()
    if how == "sums":
        return total
    return total / count if how == "means" else (total - field.truth_NT) / (count - 1)


def _one_column(pred_NT: FloatArray, target: str, factor: float) -> FloatArray:
    pred_NT[:, TARGETS.index(target)] *= factor
    return pred_NT


def _z(pred_NT: FloatArray) -> FloatArray:
    return (pred_NT - pred_NT.mean(0)) / pred_NT.std(0)


def _labels_in_one_column(field: Field, pred_NT: FloatArray) -> FloatArray:
    pred_NT[:, 4] = field.truth_NT[:, 4]
    return pred_NT


def _two_predictions(field: Field) -> pd.DataFrame:
    long = masses_to_long(wide(field.ids, field.oof_NT))
    return long.assign(pred_1=long["target"], pred_2=long["target"] * 1.1).drop(columns="target")


def _merged_twice(field: Field) -> pd.DataFrame:
    return wide(field.ids, field.truth_NT).merge(wide(field.ids, field.oof_NT), on="image_id")  # Dry_Green_g_x and _y


def _marked(field: Field, column: str, seen: object, held_out: object) -> pd.DataFrame:
    frame = wide(field.ids, field.oof_NT)
    return frame.assign(**{column: np.where(np.arange(len(frame)) % 5 == 0, held_out, seen)})


def _rows_of_two_folds(field: Field) -> pd.DataFrame:
    long = masses_to_long(wide(field.ids, field.oof_NT))
    return pd.concat([long.assign(fold=0), long.assign(fold=1)])


def _folds_of_all_images(field: Field, name: str) -> None:
    for fold in range(3):
        field.oof(f"{name}_fold{fold}.csv", wide(field.ids, field.oof_NT + fold))


def _folds_without_one(field: Field, name: str) -> None:
    for fold in range(4):
        rows = [row for row in range(IMAGES) if row % 5 == fold]
        field.oof(f"{name}_fold{fold}.csv", wide([field.ids[row] for row in rows], field.oof_NT[rows]))


def _with_text(field: Field, cell: str) -> str:
    lines = wide(field.ids, field.oof_NT).to_csv(index=False).splitlines()
    cells = lines[3].split(",")
    return "\n".join([*lines[:3], ",".join([*cells[:2], cell, *cells[3:]]), *lines[4:]]) + "\n"


def _half_precision(field: Field, pred_NT: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return (pred_NT * 4000).astype(np.float16)


def _array_alphabetical(field: Field, pred_NT: FloatArray) -> FloatArray:
    return pred_NT[:, np.argsort(TARGETS)]


def _swapped(left: int, right: int) -> Callable[[Field, FloatArray], FloatArray]:
    def change(field: Field, pred_NT: FloatArray) -> FloatArray:
        pred_NT[:, [left, right]] = pred_NT[:, [right, left]]
        return pred_NT

    return change


def _labelled_rows_as_tests(field: Field, name: str) -> None:
    field.sound_oof(name)
    field.test(f"{name}.csv", wide(field.ids, field.oof_NT))


def _no_test_file(field: Field, name: str) -> None:
    field.sound_oof(name)


WRONG: tuple[Wrong, ...] = tuple(
    Wrong(kind=kind, name=name, write=write_it, reason=reason)
    for kind, name, write_it, reason in (
        ("label", "two predictions", _oof(_two_predictions), "one column holds the prediction, got pred_1, pred_2"),
        ("label", "merged", _oof(_merged_twice), r"one set of columns holds the predictions, got \*_x, \*_y"),
        ("label", "array of labels", _array(lambda f, p: f.truth_NT), "equal the measured masses"),
        ("label", "rounded labels", _grams(lambda f, p: f.truth_NT.round(1)), "equal the measured masses"),
        ("label", "one column", _grams(_labels_in_one_column), "Dry_Total_g equal the measured masses"),
        ("too good", "a little noise", _grams(lambda f, p: f.truth_NT * 1.01 + 0.2), "true: scores 0.9"),
        ("too good", "in sample", _grams(lambda f, p: 0.9 * f.truth_NT + 0.1 * p), "did it see the rows"),
        ("too good", "means by date", _grams(lambda f, p: _by_date(f, "means")), "the measured means of each group"),
        ("too good", "means of others", _grams(lambda f, p: _by_date(f, "others")), "means of the other images"),
        ("seen", "split", _oof(lambda f: _marked(f, "split", "train", "valid")), "64 of 80 rows are training rows"),
        ("seen", "is_train", _oof(lambda f: _marked(f, "is_train", True, False)), "64 of 80 rows are training rows"),
        ("seen", "two folds", _oof(_rows_of_two_folds), "must appear once, got .* again .400 such rows"),
        ("seen", "folds of all images", _folds_of_all_images, "3 files .* hold all labelled images each"),
        ("seen", "a fold missing", _folds_without_one, "together they lack 16 of 80 images"),
        ("unit", "kg/ha", _grams(lambda f, p: p / 0.021), "kg/ha to grams"),
        ("unit", "g/m2", _grams(lambda f, p: p / 0.21), "g/m2 to grams"),
        ("unit", "tenths", _grams(lambda f, p: p * 10), "about 10 times the truth"),
        ("unit", "one column", _grams(lambda f, p: _one_column(p, "Dry_Dead_g", 47.6)), "Dry_Dead_g about 47.6 times"),
        ("space", "sqrt", _grams(lambda f, p: np.sqrt(p)), "looks like sqrt"),
        ("space", "log1p", _grams(lambda f, p: np.log1p(p)), "looks like log1p"),
        ("space", "z-scores", _grams(lambda f, p: _z(p)), "looks like z-scores"),
        ("space", "z-scored log1p", _grams(lambda f, p: _z(np.log1p(p))), "looks like z-scored log1p"),
        ("aggregation", "sum of five", _grams(lambda f, p: p * 5), "g/m2|sum over folds"),
        ("aggregation", "mean with zeros", _grams(lambda f, p: p / 5), "about 0.2 times the truth"),
        ("aggregation", "sums by date", _grams(lambda f, p: _by_date(f, "sums")), "sums of the measured masses"),
        ("columns", "alphabetical", _array(_array_alphabetical), "columns look permuted.*Dry_Clover_g, Dry_Dead_g"),
        ("columns", "total first", _array(lambda f, p: p[:, ::-1]), "columns look permuted"),
        ("columns", "names swapped", _grams(_swapped(0, 2)), "columns look permuted"),
        ("rows", "reversed", _grams(lambda f, p: p[::-1]), "rows look permuted.*reversed"),
        ("rows", "sorted ids", _grams(lambda f, p: p[np.argsort(f.ids)]), "rows look permuted.*sorted image ids"),
        ("rows", "shuffled", _grams(lambda f, p: np.random.default_rng(1).permutation(p)), "rows look permuted"),
        ("cast", "decimal comma", _oof(lambda f: _with_text(f, '"12,5"')), "'12,5' in row 3; write a decimal point"),
        ("cast", "true", _oof(lambda f: wide(f.ids, f.oof_NT).assign(GDM_g=True)), "GDM_g must hold numbers, got True"),
        ("cast", "with unit", _oof(lambda f: _with_text(f, "12.5 g")), "'12.5 g' in row 3"),
        ("cast", "half precision", _array(_half_precision), "NaN or infinite"),
        ("file", "semicolons", _oof(lambda f: wide(f.ids, f.oof_NT).to_csv(index=False, sep=";")), "got semicolons"),
        ("file", "column twice", _oof(lambda f: "sample_id,target,target\na__GDM_g,1,2\n"), "a column appears once"),
        ("file", "page", _oof(lambda f: "<html>404</html>"), "columns must be"),
        ("file", "empty", _oof(lambda f: ""), "cannot be read"),
        ("file", "other ids", _oof(lambda f: wide([f"P{x}" for x in f.ids], f.oof_NT)), "have no prediction, such as"),
        ("file", "four targets", _oof(lambda f: wide(f.ids, f.oof_NT).drop(columns="GDM_g")), "add GDM_g"),
        ("test", "sqrt", _test(lambda f, p: np.sqrt(p)), "looks like sqrt"),
        ("test", "log1p", _test(lambda f, p: np.log1p(p)), "looks like log1p"),
        ("test", "kg/ha", _test(lambda f, p: p / 0.021), "kg/ha to grams"),
        ("test", "sum of two", _test(lambda f, p: p * 2), "a sum over two views"),
        ("test", "z-scores", _test(lambda f, p: _z(p)), "looks like z-scores"),
        ("test", "one column", _test(lambda f, p: _one_column(p, "Dry_Dead_g", 10)), "Dry_Dead_g is about 10 times"),
        ("test", "columns", _test(lambda f, p: p[:, np.argsort(TARGETS)]), "columns look permuted|is another column"),
        ("test", "rows", _test(lambda f, p: p[::-1]), "rows look permuted, in the order of reversed rows"),
        ("test", "sorted rows", _test(lambda f, p: p[np.argsort(f.test_ids)]), "permuted, in the order of sorted"),
        ("test", "constant", _test(lambda f, p: np.tile(p.mean(0), (len(p), 1))), "constant over all images"),
        ("test", "no spread", _test(lambda f, p: p.mean(0) + 0.05 * (p - p.mean(0))), "spread .* times as much"),
        ("test", "labelled images", _labelled_rows_as_tests, "it holds the labelled images"),
        ("test", "none", _no_test_file, "there is no file of its test predictions"),
    )
)
