"""The files of a generated data directory: tables in the competition's long form, photographs by several processes.

Wide tables have one row an image: image_id, image_path, METADATA (Sampling_Date as text like 2015/9/4) and TARGETS
in grams.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.data.dataset import (
    DATASET_FILE,
    MASSES,
    METADATA_OF,
    PHOTO,
    QUADRATS_FILE,
    UNITS,
    Dataset,
    dataset_toml,
)
from biomass_models.data.table import METADATA, TRAIN_FILE, read_train
from biomass_models.pasture.draw import Picture, Quadrat, draw_picture
from biomass_models.pasture.facts import held_out_plan, training_plan
from biomass_models.pasture.table import draw_table

TRAIN_PURPOSE, TEST_PURPOSE, ID_PURPOSE = 1, 2, 3
TEST_INDEX = 1_000_000  # test pictures are numbered from here: their streams never meet the training pictures'
INLINE_PIXELS = 8_000_000  # up to so many pixels in all, starting processes takes longer than drawing

# the competition lists the targets in different orders in its two tables
TRAIN_ORDER = ("Dry_Clover_g", "Dry_Dead_g", "Dry_Green_g", "Dry_Total_g", "GDM_g")
TEST_ORDER = ("Dry_Clover_g", "Dry_Dead_g", "Dry_Green_g", "GDM_g", "Dry_Total_g")

Progress = Callable[[int, int], None]


def training_table(images: int, seed: int) -> pd.DataFrame:
    """A generated training set, sorted by image id."""
    rng = np.random.default_rng([seed, TRAIN_PURPOSE])
    return _named(draw_table(training_plan(images, rng), rng), "train", seed, taken=())


def held_out_table(images: int, seed: int, *, taken: Iterable[str]) -> pd.DataFrame:
    """A generated test set from other dates, whose image ids differ from those taken."""
    rng = np.random.default_rng([seed, TEST_PURPOSE])
    return _named(draw_table(held_out_plan(images, rng), rng), "test", seed, taken=taken)


def table_like(path: Path) -> pd.DataFrame:
    """The rows of an existing train.csv of any name. Raises DataError with all problems of that table."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder) / TRAIN_FILE)  # read_train wants a directory
        wide = read_train(Path(folder))
    wide["Sampling_Date"] = [f"{date.year}/{date.month}/{date.day}" for date in wide["Sampling_Date"]]
    return wide


def write_train(wide: pd.DataFrame, path: Path) -> None:
    """train.csv, five rows an image."""
    _long(wide, TRAIN_ORDER, ("image_path", *METADATA)).to_csv(path, index=False)


def write_quadrats(wide: pd.DataFrame, folder: Path, unit: str, area: float, targets: Sequence[str]) -> None:
    """The same as quadrats.csv and dataset.toml, some masses in `unit`; area: of a quadrat [m2]."""
    suffix, masses = re.sub(r"\W", "_", unit), {role: name for role, name in MASSES.items() if role in targets}
    names = {PHOTO: PHOTO, **{role: role for role in METADATA_OF}, **{role: f"{role}_{suffix}" for role in masses}}
    table = pd.DataFrame({PHOTO: wide["image_path"]})
    table[list(METADATA_OF)] = wide[list(METADATA_OF.values())]
    mass_NT = wide[list(masses.values())].to_numpy(dtype=np.float64)
    table[[names[role] for role in masses]] = mass_NT if unit == "g" else (mass_NT / (UNITS[unit] * area)).round(6)
    table.to_csv(folder / QUADRATS_FILE, index=False)
    dataset = Dataset(columns=names, unit=unit, area=area, groups=("site", "date"))
    (folder / DATASET_FILE).write_text(dataset_toml(dataset), encoding="utf-8")


def write_test(wide: pd.DataFrame, folder: Path) -> None:
    """test.csv (three columns, no masses) and a sample_submission.csv of zeros."""
    long = _long(wide, TEST_ORDER, ("image_path",))
    long[["sample_id", "image_path", "target_name"]].to_csv(folder / "test.csv", index=False)
    long[["sample_id"]].assign(target=0.0).to_csv(folder / "sample_submission.csv", index=False)


def pictures_of(wide: pd.DataFrame, folder: Path, first_index: int) -> list[Picture]:
    """What to draw for each row of a wide table; pictures are numbered from `first_index`."""
    return [
        Picture(
            folder / row["image_path"],
            Quadrat(
                state=str(row["State"]),
                species=str(row["Species"]),
                date=str(row["Sampling_Date"]),
                height_cm=float(row["Height_Ave_cm"]),
                green_g=float(row["Dry_Green_g"]),
                dead_g=float(row["Dry_Dead_g"]),
                clover_g=float(row["Dry_Clover_g"]),
            ),
            first_index + place,
        )
        for place, row in enumerate(wide.to_dict("records"))
    ]


def draw_all(
    pictures: Sequence[Picture],
    *,
    seed: int,
    width: int,
    height: int,
    workers: int | None,
    on_progress: Progress | None,
) -> None:
    """Draw every picture, in this process or in several: the bytes are the same."""
    for folder in {picture.path.parent for picture in pictures}:
        folder.mkdir(parents=True, exist_ok=True)
    if workers is None:
        workers = 1 if len(pictures) * width * height <= INLINE_PIXELS else _cores()
    draw = functools.partial(draw_picture, seed=seed, width=width, height=height)
    if workers == 1:
        _follow(map(draw, pictures), len(pictures), on_progress)
        return
    # spawn: a forked child of a process with threads (torch, ray) may hang. A worker imports pasture_draw, no more
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            _follow(pool.map(draw, pictures, chunksize=4), len(pictures), on_progress)
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C: do not draw the rest first


def _named(wide: pd.DataFrame, folder: str, seed: int, *, taken: Iterable[str]) -> pd.DataFrame:
    """Adds image_id, like the competition's ID1011485656, and image_path; sorts by id, which mixes the dates."""
    rng = np.random.default_rng([seed, ID_PURPOSE])
    used, ids = set(taken), list[str]()
    while len(ids) < len(wide):
        name = f"ID{int(rng.integers(1_000_000_000, 2**31))}"
        if name not in used:
            used.add(name)
            ids.append(name)
    named = wide.assign(image_id=ids, image_path=[f"{folder}/{name}.jpg" for name in ids])
    return named.sort_values("image_id", ignore_index=True)


def _long(wide: pd.DataFrame, order: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """One row for each (image, target): sample_id, the columns asked for, target_name, target."""
    long = wide.loc[wide.index.repeat(len(order)), ["image_id", *columns]].reset_index(drop=True)
    long["target_name"] = list(order) * len(wide)
    long["target"] = wide[list(order)].to_numpy().ravel()
    long.insert(0, "sample_id", long["image_id"] + "__" + long["target_name"])
    return long.drop(columns="image_id")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _follow(finished: Iterable[None], total: int, on_progress: Progress | None) -> None:
    for done, _ in enumerate(finished, start=1):
        if on_progress is not None:
            on_progress(done, total)
