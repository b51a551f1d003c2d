"""Writes small data directories in the competition's layout, for the tests of tables, checks and folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from biomass_models.data.problems import Problem, grouped
from biomass_models.data.table import TRAIN_COLUMNS, inspect_test, inspect_train
from biomass_models.targets import TARGETS, from_components

# State, date, species, NDVI, height, (green, dead, clover)
IMAGES = (
    ("ID11", "Tas", "2015/9/4", "Ryegrass_Clover", 0.62, 4.6667, (16.2751, 31.9984, 0.0)),
    ("ID12", "NSW", "2015/4/1", "Lucerne", 0.55, 16.0, (30.05, 0.0, 0.0)),
    ("ID13", "WA", "2015/9/1", "SubcloverDalkeith", 0.38, 1.0, (0.0, 0.0, 10.5)),
)


def problems_of_train(root: Path) -> list[Problem]:
    """Every problem of train.csv, errors and warnings."""
    return inspect_train(root)[1]


def problems_of_test(root: Path) -> list[Problem]:
    """Every problem of test.csv."""
    return inspect_test(root)[1]


def train_rows(images: tuple = IMAGES) -> list[list[str]]:
    """The long table's rows as text, in the order of TRAIN_COLUMNS, five for each image."""
    rows = []
    for image_id, state, date, species, ndvi, height, parts in images:
        masses = from_components(*parts)
        for name, mass in zip(TARGETS, masses, strict=True):
            path = f"train/{image_id}.jpg"
            rows.append(
                [f"{image_id}__{name}", path, date, state, species, str(ndvi), str(height), name, f"{mass:.4f}"]
            )
    return rows


def write_rows(path: Path, columns: tuple[str, ...], rows: list[list[str]]) -> None:
    path.write_text("".join(",".join(row) + "\n" for row in [list(columns), *rows]), encoding="utf-8")


def photograph(path: Path, size: tuple[int, int] = (200, 100), seed: int = 0) -> None:
    """A smooth random picture, so that it compresses like a photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (12, 24, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, quality=92)


def write_directory(root: Path) -> Path:
    """Three training images, two test images, a sample submission: without any problem."""
    root.mkdir(parents=True, exist_ok=True)
    write_rows(root / "train.csv", TRAIN_COLUMNS, train_rows())
    test = [[f"ID9{i}__{name}", f"test/ID9{i}.jpg", name] for i in (2, 1) for name in reversed(TARGETS)]
    write_rows(root / "test.csv", ("sample_id", "image_path", "target_name"), test)
    write_rows(root / "sample_submission.csv", ("sample_id", "target"), [[row[0], "0.0"] for row in test])
    for seed, name in enumerate(["train/ID11", "train/ID12", "train/ID13", "test/ID92", "test/ID91"]):
        photograph(root / f"{name}.jpg", seed=seed)
    return root


def change(root: Path, line: int, column: str, value: str, file: str = "train.csv") -> None:
    """Overwrite one cell; `line` is the line in the file, the header being line 1."""
    path = root / file
    lines = path.read_text(encoding="utf-8").split("\n")
    cells = lines[line - 1].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[line - 1] = ",".join(cells)
    path.write_text("\n".join(lines), encoding="utf-8")


def field_table(seed: int = 0) -> pd.DataFrame:
    """A wide table with the State, date and number of images of the competition's 357, presence drawn by group."""
    counts = {
        "NSW": (17, 11, 15, 9, 10, 13),
        "Tas": (17, 20, 22, 7, 18, 10, 10, 9, 9, 16),
        "Vic": (11, 7, 19, 6, 9, 10, 18, 10, 1, 11, 10),
        "WA": (12, 8, 12),
    }
    rng = np.random.default_rng(seed)
    rows = []
    for state, sizes in counts.items():
        for day, size in enumerate(sizes):
            clover_share = 0.0 if state == "NSW" else rng.uniform(0, 1)
            for _ in range(size):
                dead = 0.0 if state == "WA" else float(rng.random() < 0.95)
                date = pd.Timestamp(2015, 5, 1) + pd.Timedelta(days=day)
                rows.append((state, date, f"{state}-{day % 3}", float(rng.random() < clover_share), dead))
    table = pd.DataFrame(rows, columns=["State", "Sampling_Date", "Species", "Dry_Clover_g", "Dry_Dead_g"])
    table.insert(0, "image_id", [f"ID{i:04d}" for i in rng.permutation(len(table))])
    return table


def one(problems: list[Problem]) -> Problem:
    """The only problem as it is shown, in at most three lines."""
    (problem,) = grouped(problems)
    assert len(str(problem)) <= 3 * 80, str(problem)
    return problem
