"""The competition's long CSVs to one validated row an image, and back.

Long tables have one row per (image, target) with `sample_id` = `<image id>__<target_name>`; wide tables have
one row per image and a column per target, masses in grams. The competition ships long ones; a wide train.csv or
test.csv is read as well, with a warning. All functions that check return every problem; all functions that read raise
DataError with every error. Only paths are checked here; photographs in check.py. A directory may hold quadrats.csv
instead of train.csv (quadrats.py): `read_train` and `inspect_train` read whichever is there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.data import rules
from biomass_models.data.dataset import QUADRATS_FILE, inspect_dataset
from biomass_models.data.frames import Fit
from biomass_models.data.problems import ROW, DataError, Problem, flag, raise_errors, read_cells, read_header
from biomass_models.data.quadrats import inspect_quadrats
from biomass_models.fold_units import QUADRAT
from biomass_models.targets import TARGETS

METADATA: tuple[str, ...] = ("Sampling_Date", "State", "Species", "Pre_GSHH_NDVI", "Height_Ave_cm")
TEST_COLUMNS: tuple[str, ...] = ("sample_id", "image_path", "target_name")
TRAIN_COLUMNS: tuple[str, ...] = ("sample_id", "image_path", *METADATA, "target_name", "target")
TRAIN_FILE, TEST_FILE = "train.csv", "test.csv"


def train_file(data_dir: Path) -> str:
    """Name of the table with the labels: quadrats.csv where it is there and train.csv is not, else train.csv."""
    own = (Path(data_dir) / QUADRATS_FILE).is_file() and not (Path(data_dir) / TRAIN_FILE).exists()
    return QUADRATS_FILE if own else TRAIN_FILE


def fit_of(data_dir: Path) -> Fit:
    """What models see of photographs that are not 2 : 1: as dataset.toml says; they are stretched with train.csv.

    Raises DataError for an unsound dataset.toml.
    """
    if train_file(data_dir) == TRAIN_FILE:
        return "stretch"
    dataset, problems = inspect_dataset(data_dir)
    raise_errors(problems)
    assert dataset is not None
    return dataset.fit


def read_train(data_dir: Path) -> pd.DataFrame:
    """The labelled photographs, one row an image, in order of first appearance.

    Columns: image_id, image_path, Sampling_Date (datetime64), State, Species, Pre_GSHH_NDVI, Height_Ave_cm and the
    five TARGETS in grams (float64). Of quadrats.csv only the metadata that it has, and further columns behind the
    TARGETS. Raises DataError with all errors of the table.
    """
    long, problems = inspect_train(data_dir)
    raise_errors(problems)
    if train_file(data_dir) == QUADRATS_FILE:
        leading = ["image_id", "image_path", *(name for name in METADATA if name in long), *TARGETS]
        return long[[*leading, *(name for name in long if name not in (ROW, *leading))]]
    first = long.drop_duplicates("image_id")[["image_id", "image_path", *METADATA]]
    return first.merge(_to_wide(long), left_on="image_id", right_index=True, validate="1:1").reset_index(drop=True)


def read_test(data_dir: Path) -> pd.DataFrame:
    """test.csv as one row an image: image_id, image_path, in order of first appearance; `quadrat` where it has one.

    Raises DataError.
    """
    long = _sound_test(data_dir)
    columns = ["image_id", "image_path", *([QUADRAT] if QUADRAT in long else [])]
    return long.drop_duplicates("image_id")[columns].reset_index(drop=True)


def read_test_rows(data_dir: Path) -> pd.DataFrame:
    """test.csv's own rows in their order: sample_id, image_id, target_name. Raises DataError."""
    return _sound_test(data_dir)[["sample_id", "image_id", "target_name"]].reset_index(drop=True)


def read_masses(path: Path, *, allow_negative: bool = False) -> pd.DataFrame:
    """A long CSV `sample_id,target` (submission, truth) -> [N images, 5 TARGETS] grams, indexed by image_id.

    Images in order of first appearance. Raises DataError with all problems: rows missing, repeated or of unknown
    targets, masses that are not finite or (unless allowed) negative.
    """
    text, problems = read_cells(Path(path), ("sample_id", "target"))
    name, long = Path(path).name, _with_ids(text)
    parsed = _parsed(long)
    problems += rules.check_ids(name, long) + rules.check_complete(name, long)
    problems += rules.check_number(name, long, parsed, "target", low=-np.inf if allow_negative else 0.0)
    raise_errors(_sorted(problems))
    return _to_wide(parsed)


def masses_to_long(wide: pd.DataFrame) -> pd.DataFrame:
    """Wide masses (image_id as index or column, TARGETS columns) -> rows `sample_id,target`, image by image."""
    by_image = wide.set_index("image_id") if "image_id" in wide.columns else wide
    if missing := [name for name in TARGETS if name not in by_image.columns]:
        raise ValueError(f"masses need the columns {', '.join(TARGETS)}; {', '.join(missing)} missing")
    sample_id = [f"{image_id}__{name}" for image_id in by_image.index for name in TARGETS]
    target = by_image[list(TARGETS)].to_numpy(dtype=np.float64).ravel()
    return pd.DataFrame({"sample_id": pd.Series(sample_id, dtype="str"), "target": target})


def split_sample_id(sample_id: pd.Series) -> pd.DataFrame:
    """`<image id>__<target_name>` -> columns image_id, target_name, split at the last "__"; NaN without one."""
    return sample_id.str.extract(r"^(?P<image_id>.+)__(?P<target_name>.*)$")


def inspect_train(data_dir: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """train.csv's long rows with `row` and image_id, parsed as far as they go; and every problem.

    Of quadrats.csv: rows as quadrats.inspect_quadrats has them.
    """
    if train_file(data_dir) == QUADRATS_FILE:
        return inspect_quadrats(data_dir)
    text, problems = _long_cells(Path(data_dir) / TRAIN_FILE, TRAIN_COLUMNS)
    long = _with_ids(text)
    parsed = _parsed(long)
    problems += _shared_problems(TRAIN_FILE, long)
    problems += rules.check_filled(TRAIN_FILE, long, ("State", "Species"))
    problems += rules.check_number(TRAIN_FILE, long, parsed, "target", low=0.0)
    problems += rules.check_number(TRAIN_FILE, long, parsed, "Pre_GSHH_NDVI", low=-1.0, high=1.0)
    problems += rules.check_number(TRAIN_FILE, long, parsed, "Height_Ave_cm", low=0.0)
    problems += rules.check_dates(TRAIN_FILE, long, parsed)
    problems += rules.check_consistent(TRAIN_FILE, long, parsed, ("image_path", *METADATA))
    problems += rules.warn_species(TRAIN_FILE, long) + rules.warn_masses(TRAIN_FILE, parsed)
    if (Path(data_dir) / QUADRATS_FILE).is_file():
        rule, got = f"labels are in {TRAIN_FILE} or in {QUADRATS_FILE}", "both"
        problems.append(
            Problem(level="error", file=QUADRATS_FILE, row=None, rule=rule, got=got, remedy="move one elsewhere")
        )
    return parsed, _sorted(problems)


def inspect_test(data_dir: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """test.csv's long rows with `row` and image_id; and every problem. `quadrat`, where it is there, is read too."""
    path = Path(data_dir) / TEST_FILE
    named = (QUADRAT,) if QUADRAT in map(str.lower, read_header(path)) else ()
    text, problems = _long_cells(path, (*TEST_COLUMNS, *named))
    long = _with_ids(text)
    problems += _shared_problems(TEST_FILE, long)
    problems += rules.check_filled(TEST_FILE, long, named)
    problems += rules.check_consistent(TEST_FILE, long, long, ("image_path", *named))
    return long, _sorted(problems)


def _sound_test(data_dir: Path) -> pd.DataFrame:
    """test.csv's long rows. Raises DataError, with what to add where there is no test.csv at all."""
    if not (Path(data_dir) / TEST_FILE).exists():
        rule = f"the test images are named in {TEST_FILE}"
        remedy = f"add it ({','.join(TEST_COLUMNS)}); only what predicts or checks test images needs it"
        got = f"none in {data_dir}"
        raise DataError([Problem(level="error", file=TEST_FILE, row=None, rule=rule, got=got, remedy=remedy)])
    long, problems = inspect_test(data_dir)
    raise_errors(problems)
    return long


def _long_cells(path: Path, columns: tuple[str, ...]) -> tuple[pd.DataFrame, list[Problem]]:
    """read_cells of a long table; a wide one is read as the long one that it stands for."""
    header = [name.lower() for name in read_header(path)]
    masses = [name for name in TARGETS if name.lower() in header] if "target" in columns else []
    is_long = "sample_id" in header or "target" in header
    if is_long or "image_path" not in header or ("target" in columns and not masses):
        return read_cells(path, columns)
    image = ("image_id",) if "image_id" in header else ()
    kept = [name for name in columns if name not in ("sample_id", "target_name", "target")]
    wide, problems = read_cells(path, (*image, *kept, *(TARGETS if masses else ())))
    if not {*image, "image_path"} <= set(wide.columns):
        return wide, problems
    rule, remedy = "a table is long, one row for each image and target", "it is read as it is"
    got = "a wide one, one row an image"
    problems.append(Problem(level="warning", file=path.name, row=1, rule=rule, got=got, remedy=remedy))
    wide["image_id"] = wide["image_id"] if image else wide["image_path"].str.extract(r"([^/]*?)(?:\.[^./]*)?$")[0]
    again = wide[wide.duplicated("image_id")]
    problems += flag(path.name, again, "image_id", "an image has one row in a wide table", "remove one of the rows")
    once = wide.drop_duplicates("image_id")
    long = once.loc[once.index.repeat(len(TARGETS)), [ROW, *(name for name in kept if name in wide)]]
    target_name = pd.Series(list(TARGETS) * len(once), index=long.index, dtype="str")
    long["target_name"] = target_name
    long["sample_id"] = once["image_id"].loc[long.index] + "__" + target_name
    if set(TARGETS) <= set(wide.columns):
        long["target"] = once[list(TARGETS)].to_numpy().ravel()
    return long.reset_index(drop=True), problems


def _shared_problems(file: str, long: pd.DataFrame) -> list[Problem]:
    return rules.check_ids(file, long) + rules.check_complete(file, long) + rules.check_paths(file, long)


def _parsed(long: pd.DataFrame) -> pd.DataFrame:
    """The same rows with float64 numbers (NaN for other text) and datetime64 dates (NaT), year first."""
    columns: dict[str, pd.Series] = {
        name: pd.to_numeric(long[name], errors="coerce").astype(np.float64)
        for name in ("target", "Pre_GSHH_NDVI", "Height_Ave_cm")
        if name in long
    }
    if "Sampling_Date" in long:
        columns["Sampling_Date"] = rules.days_of(long["Sampling_Date"])
    return long.assign(**columns)


def _sorted(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.row or 0, problem.level))


def _with_ids(long: pd.DataFrame) -> pd.DataFrame:
    """Adds image_id and id_target, the two halves of sample_id (NaN where it cannot be split)."""
    if "sample_id" not in long:
        return long
    halves = split_sample_id(long["sample_id"])
    return long.assign(image_id=halves["image_id"], id_target=halves["target_name"])


def _to_wide(long: pd.DataFrame) -> pd.DataFrame:
    """Long rows without problems -> [N, 5] masses indexed by image_id, in order of first appearance."""
    wide = long.pivot(index="image_id", columns="id_target", values="target")
    wide = wide.loc[long["image_id"].unique(), list(TARGETS)].astype(np.float64)
    wide.columns.name = None
    return wide
