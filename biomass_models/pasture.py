"""A generated data directory: quadrat photographs drawn from masses, and tables exactly as the competition ships them.

For demos and tests: the competition's own files may not be handed on. `pasture_facts` plans dates and species,
`pasture_table` draws masses and metadata, `pasture_draw` (with `pasture_plants`, `pasture_light`) draws photographs.

All constants of the generator were fixed once, on seed 0, against bands that the real labels show (issue 2), before
any model was tuned on its pictures; tests hold the bands. They are not to be changed to make a model look better.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from biomass_models.pasture_draw import Quadrat, draw_quadrat
from biomass_models.pasture_facts import held_out_plan, training_plan
from biomass_models.pasture_table import draw_table
from biomass_models.table import METADATA, TRAIN_FILE, masses_to_long, read_train
from biomass_models.targets import TARGETS

JPEG_QUALITY = 88
TRAIN_PURPOSE, TEST_PURPOSE, ID_PURPOSE, SHEET_PURPOSE = 1, 2, 3, 4
TEST_INDEX = (
    1_000_000  # pictures of the test set are numbered from here: their streams never meet training streams
)
INLINE_PIXELS = 8_000_000  # up to so many pixels in all, starting processes takes longer than drawing

# the competition lists targets in different orders in its two tables
TRAIN_ORDER = ("Dry_Clover_g", "Dry_Dead_g", "Dry_Green_g", "Dry_Total_g", "GDM_g")
TEST_ORDER = ("Dry_Clover_g", "Dry_Dead_g", "Dry_Green_g", "GDM_g", "Dry_Total_g")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PastureSummary:
    """What was written, and where."""

    out_dir: Path
    truth_path: Path
    train_images: int
    train_dates: int  # sampling dates within states
    test_images: int
    test_dates: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Picture:
    """One photograph to draw: where to, from what, and the address of its random numbers."""

    path: str
    quadrat: Quadrat
    index: int


def make_pasture(
    out_dir: Path,
    *,
    truth_path: Path | None = None,
    images: int = 357,
    test_images: int = 120,
    seed: int = 0,
    like: Path | None = None,
    width: int = 1000,
    height: int = 500,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> PastureSummary:
    """Write a data directory: train.csv, test.csv, sample_submission.csv, train/ and test/ with JPEG photographs.

    out_dir        must be new or empty; it appears complete or not at all
    truth_path     masses of the test images, `sample_id,target`; default <out_dir>-truth.csv, never inside out_dir
    like           a train.csv whose rows are drawn instead of generated ones (`images` then plays no part); copied as it is
    width, height  px, at least 100 x 50
    workers        processes; the bytes do not depend on them. By default one for each core, none for tiny sets

    Raises ValueError or FileExistsError for arguments that break these rules, DataError for an unsound `like`.
    """
    start = time.monotonic()
    out_dir = Path(out_dir)
    truth_path = out_dir.with_name(f"{out_dir.name}-truth.csv") if truth_path is None else Path(truth_path)
    _check_arguments(out_dir, truth_path, images, test_images, seed, width, height, workers)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    truth_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}-") as scratch:
        part = Path(scratch) / "data"
        (part / "train").mkdir(parents=True)
        (part / "test").mkdir()
        train, test = _tables(images, test_images, seed, None if like is None else Path(like), Path(scratch))
        if like is None:
            _long(train, TRAIN_ORDER, ("image_path", *METADATA)).to_csv(part / TRAIN_FILE, index=False)
        else:
            shutil.copyfile(like, part / TRAIN_FILE)
        test_rows = _long(test, TEST_ORDER, ("image_path",))
        test_rows[["sample_id", "image_path", "target_name"]].to_csv(part / "test.csv", index=False)
        test_rows[["sample_id"]].assign(target=0.0).to_csv(part / "sample_submission.csv", index=False)
        pictures = _pictures(train, part, 0) + _pictures(test, part, TEST_INDEX)
        _draw_all(pictures, seed, width, height, workers, on_progress)
        unfinished = truth_path.with_name(f".{truth_path.name}.{os.getpid()}")
        masses_to_long(test).to_csv(unfinished, index=False)
        unfinished.replace(truth_path)
        part.replace(out_dir)
    return PastureSummary(
        out_dir=out_dir,
        truth_path=truth_path,
        train_images=len(train),
        train_dates=_dates(train),
        test_images=len(test),
        test_dates=_dates(test),
        seconds=time.monotonic() - start,
    )


def contact_sheet(data_dir: Path, out_png: Path, *, images: int = 24, seed: int = 0) -> None:
    """A picture with a random choice of the training photographs, four in a row, each with its masses written below."""
    table = read_train(Path(data_dir))
    if images < 1:
        raise ValueError(f"a contact sheet needs at least 1 image, got images={images}")
    rng = np.random.default_rng([seed, SHEET_PURPOSE])
    chosen = np.sort(rng.choice(len(table), size=min(images, len(table)), replace=False))
    tile_width, tile_height, caption, columns = 400, 200, 18, min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * tile_width, rows * (tile_height + caption)), (24, 24, 24))
    pen = _pen(sheet)
    for place, (_, row) in enumerate(table.iloc[chosen].iterrows()):
        left, top = place % columns * tile_width, place // columns * (tile_height + caption)
        with Image.open(Path(data_dir) / row["image_path"]) as photograph:
            tile = ImageOps.fit(photograph.convert("RGB"), (tile_width - 4, tile_height - 4))
        sheet.paste(tile, (left + 2, top + 2))
        masses = (
            f"green {row['Dry_Green_g']:.0f}  dead {row['Dry_Dead_g']:.0f}  clover {row['Dry_Clover_g']:.0f} g"
        )
        pen(left + 4, top + tile_height, f"{row['State']} {row['Species'][:28]}  {masses}")
    Path(out_png).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out_png)


def _pen(sheet: Image.Image) -> Callable[[int, int, str], None]:
    from PIL import ImageDraw, ImageFont

    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    return lambda x, y, text: draw.text((x, y), text, fill=(220, 220, 220), font=font)


def _check_arguments(
    out_dir: Path,
    truth_path: Path,
    images: int,
    test_images: int,
    seed: int,
    width: int,
    height: int,
    workers: int | None,
) -> None:
    for name, value, least in (
        ("images", images, 1),
        ("test_images", test_images, 1),
        ("seed", seed, 0),
        ("width", width, 100),
        ("height", height, 50),
        ("workers", 1 if workers is None else workers, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if truth_path.resolve().is_relative_to(out_dir.resolve()):
        raise ValueError(
            f"the test images' truth must lie outside {out_dir}, got {truth_path}; choose another place"
        )
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(
            f"{out_dir} must be new or empty, but holds files; remove it or choose another place"
        )


def _tables(
    images: int, test_images: int, seed: int, like: Path | None, scratch: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Wide tables of the training and test images: image_id, image_path, METADATA (dates as text) and TARGETS."""
    test_rng = np.random.default_rng([seed, TEST_PURPOSE])
    test = draw_table(held_out_plan(test_images, test_rng), test_rng)
    if like is None:
        rng = np.random.default_rng([seed, TRAIN_PURPOSE])
        train = draw_table(training_plan(images, rng), rng)
        ids = _new_ids(len(train) + len(test), seed, taken=())
        train["image_id"], test["image_id"] = ids[: len(train)], ids[len(train) :]
        train["image_path"] = "train/" + train["image_id"] + ".jpg"
        train = train.sort_values("image_id", ignore_index=True)
    else:
        copy = scratch / "like"
        copy.mkdir()
        shutil.copyfile(
            like, copy / TRAIN_FILE
        )  # read_train reads a directory's train.csv, whatever `like` is called
        train = read_train(copy)
        train["Sampling_Date"] = [f"{date.year}/{date.month}/{date.day}" for date in train["Sampling_Date"]]
        test["image_id"] = _new_ids(len(test), seed, taken=train["image_id"])
    test["image_path"] = "test/" + test["image_id"] + ".jpg"
    return train, test.sort_values("image_id", ignore_index=True)


def _new_ids(count: int, seed: int, taken: Iterable[str]) -> list[str]:
    """Ids like the competition's (ID1011485656), none twice and none of those taken."""
    rng = np.random.default_rng([seed, ID_PURPOSE])
    used, ids = set(taken), []
    while len(ids) < count:
        name = f"ID{int(rng.integers(1_000_000_000, 2**31))}"
        if name not in used:
            used.add(name)
            ids.append(name)
    return ids


def _long(wide: pd.DataFrame, order: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """One row for each (image, target): sample_id, the wide table's columns asked for, target_name, target."""
    long = wide.loc[wide.index.repeat(len(order)), list(columns)].reset_index(drop=True)
    long["target_name"] = list(order) * len(wide)
    long["target"] = wide[list(order)].to_numpy().ravel()
    long.insert(0, "sample_id", wide["image_id"].repeat(len(order)).to_numpy() + "__" + long["target_name"])
    return long


def _pictures(wide: pd.DataFrame, folder: Path, first_index: int) -> list[_Picture]:
    pictures = []
    for index, row in enumerate(wide.to_dict("records")):
        green, dead, clover = (float(row[name]) for name in TARGETS[:3])
        quadrat = Quadrat(
            state=row["State"],
            species=row["Species"],
            date=row["Sampling_Date"],
            height_cm=float(row["Height_Ave_cm"]),
            green_g=green,
            dead_g=dead,
            clover_g=clover,
        )
        pictures.append(_Picture(str(folder / row["image_path"]), quadrat, first_index + index))
    return pictures


def _draw_all(
    pictures: list[_Picture], seed: int, width: int, height: int, workers: int | None, on_progress: Progress | None
) -> None:
    """Draw every picture, in this process or in several; all of them give the same bytes."""
    for folder in {Path(picture.path).parent for picture in pictures}:
        folder.mkdir(parents=True, exist_ok=True)
    if workers is None:
        tiny = len(pictures) * width * height <= INLINE_PIXELS
        workers = (
            1 if tiny else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
    draw = functools.partial(_draw_one, seed=seed, width=width, height=height)
    if workers == 1:
        _follow(map(draw, pictures), len(pictures), on_progress)
        return
    # spawn: a forked child of a process with threads (torch, ray) may hang
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        _follow(pool.map(draw, pictures, chunksize=4), len(pictures), on_progress)


def _follow(finished: Iterable[None], total: int, on_progress: Progress | None) -> None:
    for done, _ in enumerate(finished, start=1):
        if on_progress is not None:
            on_progress(done, total)


def _draw_one(picture: _Picture, *, seed: int, width: int, height: int) -> None:
    image = draw_quadrat(picture.quadrat, seed=seed, index=picture.index, width=width, height=height)
    image.save(picture.path, "JPEG", quality=JPEG_QUALITY)


def _dates(wide: pd.DataFrame) -> int:
    return int((wide["State"] + "|" + wide["Sampling_Date"]).nunique())
