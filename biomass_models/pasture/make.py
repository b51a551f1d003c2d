"""A generated data directory: quadrat photographs drawn from masses, and tables exactly as the competition ships them.

For demos and tests: the competition's own files may not be handed on. `pasture_facts` plans dates and species,
`pasture_table` draws masses and metadata, `pasture_draw` (with `pasture_plants` and `pasture_light`) draws photographs,
`pasture_files` writes all of it.

All constants of the generator were fixed before any model was tuned on its pictures, against bands that the real
labels show (metadata trees, per-target mean, ridge on colour statistics), in a few rounds on seeds 0 to 3.
The strength of the light was settled with an eye on ridge regression on frozen lite0 features as well, which had to be
clearly better than ridge on colour: shape is more informative than colour here only because the generator was built so.
Tests hold the bands. The constants are not to be changed to make a model look better.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps

from biomass_models.config_rules import known_name
from biomass_models.counted import counted
from biomass_models.data.dataset import AREA_RANGE, MASSES, UNITS, is_area
from biomass_models.data.images import load_photograph
from biomass_models.data.quadrats import PUBLISHED_AREA_M2
from biomass_models.data.table import TRAIN_FILE, masses_to_long, read_train
from biomass_models.errors import UserError
from biomass_models.pasture import files
from biomass_models.whole_files import whole_file, whole_folder, write_whole

SHEET_PURPOSE = 4
FORMS = ("competition", "quadrats")
TILE, CAPTION, COLUMNS = (400, 200), 18, 4  # px of a contact sheet's tile, px of the line below it, tiles in a row


@dataclass(frozen=True, kw_only=True, slots=True)
class PastureSummary:
    """What was written, and where."""

    out_dir: Path
    truth_path: Path | None  # None where there are no test images
    train_images: int
    train_dates: int  # sampling dates within states
    test_images: int
    test_dates: int
    seconds: float

    def text(self) -> str:
        """For people: what was written, where the test images' masses are."""
        dates = f"{counted(self.train_images, 'training photograph')} of {counted(self.train_dates, 'date')}"
        if self.truth_path is None:
            return f"Wrote {self.out_dir}: {dates}, no test photographs"
        tests = f"{counted(self.test_images, 'test photograph')} of {self.test_dates}"
        return f"Wrote {self.out_dir}: {dates}, {tests}; their masses are in {self.truth_path}"


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
    form: str = "competition",
    unit: str = "g",
    area: float = PUBLISHED_AREA_M2,
    targets: Sequence[str] = tuple(MASSES),
    workers: int | None = None,
    on_progress: files.Progress | None = None,
) -> PastureSummary:
    """Write a data directory: tables, train/ and test/ with JPEG photographs.

    The tables are train.csv (or quadrats.csv and dataset.toml), test.csv and sample_submission.csv.

    out_dir        must be new or empty; it appears complete or not at all
    test_images    0 for none: no test.csv, and no truth
    truth_path     masses of the test images, `sample_id,target`; default <out_dir>-truth.csv, never inside out_dir
    like           a train.csv whose rows are drawn in place of generated ones; `images` then plays no part
    width, height  px of the photographs, at least 100 x 50
    form           `competition` for train.csv, `quadrats` for quadrats.csv and dataset.toml
    unit, area     of the masses in quadrats.csv, and of a quadrat in m2: the masses drawn are of one quadrat
    targets        masses that quadrats.csv has: names of dataset.MASSES; the truth of test images has all five
    workers        processes; the bytes do not depend on them. By default one per core, none extra for tiny sets
    on_progress    called with (pictures done, pictures in all)

    Raises UserError for arguments that break these rules, DataError for an unsound `like`.
    """
    start = time.monotonic()
    final = Path(out_dir).resolve()
    truth_path = final.with_name(f"{final.name}-truth.csv") if truth_path is None else Path(truth_path).resolve()
    _check_numbers(images=(images, 1), test_images=(test_images, 0), seed=(seed, 0), width=(width, 100))
    _check_numbers(height=(height, 50), workers=(1 if workers is None else workers, 1))
    known_name("a form of the tables", form, FORMS)
    known_name("a unit of masses", unit, UNITS)
    if not is_area(area):
        raise UserError(f"a quadrat has an area of {AREA_RANGE} m2, got {area:g}")
    if unit != "g" and form != "quadrats":
        raise UserError(f"masses in {unit} go with --form quadrats; train.csv is in grams per quadrat")
    for name in targets:
        known_name("a mass", name, MASSES)
    if not targets:
        raise UserError(f"a table has masses, none of {', '.join(MASSES)} was asked for; name some")
    if set(targets) != set(MASSES) and form != "quadrats":
        raise UserError("some masses alone go with --form quadrats; train.csv has all five")
    _check_places(final, truth_path)
    train = files.training_table(images, seed) if like is None else files.table_like(Path(like))
    test = files.held_out_table(test_images, seed, taken=train["image_id"]) if test_images else None
    with whole_folder(final) as part:
        (part / "train").mkdir()
        if form == "quadrats":
            files.write_quadrats(train, part, unit, area, targets)
        elif like is None:
            files.write_train(train, part / TRAIN_FILE)
        else:
            shutil.copyfile(like, part / TRAIN_FILE)
        pictures = files.pictures_of(train, part, 0)
        if test is not None:
            files.write_test(test, part)
            pictures += files.pictures_of(test, part, files.TEST_INDEX)
        files.draw_all(pictures, seed=seed, width=width, height=height, workers=workers, on_progress=on_progress)
        if test is not None:
            write_whole(truth_path, masses_to_long(test).to_csv(index=False).encode())
    return PastureSummary(
        out_dir=Path(out_dir),
        truth_path=None if test is None else truth_path,
        train_images=len(train),
        train_dates=_dates(train),
        test_images=0 if test is None else len(test),
        test_dates=0 if test is None else _dates(test),
        seconds=time.monotonic() - start,
    )


def contact_sheet(data_dir: Path, out_png: Path, *, images: int = 24, seed: int = 0) -> None:
    """A random choice of the training photographs of any data directory, four in a row, with their masses below."""
    _check_numbers(images=(images, 1), seed=(seed, 0))
    data_dir, out_png = Path(data_dir), Path(out_png)
    table = read_train(data_dir)
    rng = np.random.default_rng([seed, SHEET_PURPOSE])
    chosen = np.sort(rng.choice(len(table), size=min(images, len(table)), replace=False))
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * TILE[0], rows * (TILE[1] + CAPTION)), (24, 24, 24))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for place, row in enumerate(table.iloc[chosen].to_dict("records")):
        left, top = place % columns * TILE[0], place // columns * (TILE[1] + CAPTION)
        upright = load_photograph(data_dir / row["image_path"], *TILE)
        sheet.paste(ImageOps.fit(upright, (TILE[0] - 4, TILE[1] - 4)), (left + 2, top + 2))
        masses = f"green {row['Dry_Green_g']:.0f}, dead {row['Dry_Dead_g']:.0f}, clover {row['Dry_Clover_g']:.0f} g"
        known = " ".join(str(row[name])[:30] for name in ("State", "Species") if name in row)
        caption = f"{known}: {masses}" if known else masses
        pen.text((left + 4, top + TILE[1]), caption, fill=(220, 220, 220), font=font)
    with whole_file(out_png) as unfinished:
        sheet.save(unfinished, "PNG")


def _check_numbers(**least_of: tuple[int, int]) -> None:
    for name, (value, least) in least_of.items():
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")


def _check_places(out_dir: Path, truth_path: Path) -> None:
    if truth_path.is_relative_to(out_dir):
        raise UserError(f"the test images' truth must lie outside {out_dir}, got {truth_path}; choose another path")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"{out_dir} must be new or empty, but holds files; remove it or choose another path")


def _dates(wide: pd.DataFrame) -> int:
    return int((wide["State"] + "|" + wide["Sampling_Date"]).nunique())
