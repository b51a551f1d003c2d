"""The generated data directory: files as the competition ships them, seeds, and the bands that the real labels show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from biomass_models.data import references
from biomass_models.data.dataset import MASSES, inspect_dataset
from biomass_models.data.folds import assign_folds
from biomass_models.data.problems import DataError
from biomass_models.data.table import read_masses, read_test, read_train
from biomass_models.errors import UserError
from biomass_models.pasture.draw import Quadrat, draw_quadrat
from biomass_models.pasture.facts import held_out_plan, read_fact, share_out, training_plan
from biomass_models.pasture.files import training_table
from biomass_models.pasture.light import Lighting, draw_lighting
from biomass_models.pasture.make import contact_sheet, make_pasture
from biomass_models.targets import TARGETS, identity_gap, weighted_r2_score
from orchestration.cli import app

pytestmark = pytest.mark.slow

NEUTRAL = Lighting(
    soil_3=np.array([120.0, 90.0, 70.0]),
    leaf_3=np.ones(3),
    straw_3=np.array([206.0, 184.0, 132.0]),
    gain_3=np.ones(3),
    gamma=1.0,
    sun=0.0,
    azimuth=0.0,
    veil=0.0,
)
SWARD = Quadrat(
    state="Tas", species="Ryegrass_Clover", date="2015/9/4", height_cm=4.0, green_g=10.0, dead_g=5.0, clover_g=0.0
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of 12 + 5 small pictures, drawn in this process."""
    out = tmp_path_factory.mktemp("pasture") / "tiny"
    make_pasture(out, images=12, test_images=5, width=200, height=100, workers=1)
    return out


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """All 357 training pictures of seed 0, smaller than usual, and what the progress callback heard."""
    out = tmp_path_factory.mktemp("pasture") / "full"
    heard: list[tuple[int, int]] = []
    make_pasture(out, test_images=3, width=240, height=120, workers=2, on_progress=lambda *counts: heard.append(counts))
    return out, heard


def wide(seed: int) -> pd.DataFrame:
    """The training table of a seed as read_train returns it, without drawing its pictures."""
    table = training_table(357, seed)
    return table.assign(Sampling_Date=pd.to_datetime(table["Sampling_Date"], format="%Y/%m/%d"))


def pixels(quadrat: Quadrat, *, index: int = 0, lighting: Lighting = NEUTRAL, stamped: bool = False) -> np.ndarray:
    picture = draw_quadrat(quadrat, seed=0, index=index, width=300, height=150, lighting=lighting, stamped=stamped)
    return np.asarray(picture).astype(int)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- files


def test_tables_are_as_the_competition_ships_them(tiny: Path) -> None:
    train = pd.read_csv(tiny / "train.csv")
    assert list(train.columns) == [
        "sample_id", "image_path", "Sampling_Date", "State", "Species", "Pre_GSHH_NDVI", "Height_Ave_cm",
        "target_name", "target",
    ]  # fmt: skip
    assert len(train) == 60
    assert train["sample_id"].str.fullmatch(r"ID\d{10}__(Dry_(Green|Dead|Clover|Total)_g|GDM_g)").all()
    assert train["Sampling_Date"].str.fullmatch(r"2015/[1-9]\d?/[1-9]\d?").all()  # no leading zeros
    image_id = train["sample_id"].str.split("__").str[0]
    assert (train["image_path"] == "train/" + image_id + ".jpg").all()
    assert (train["sample_id"].str.split("__").str[1] == train["target_name"]).all()
    test = pd.read_csv(tiny / "test.csv")
    assert list(test.columns) == ["sample_id", "image_path", "target_name"]
    assert list(pd.read_csv(tiny / "sample_submission.csv")["sample_id"]) == list(test["sample_id"])
    assert set(test["sample_id"]).isdisjoint(train["sample_id"])


def test_every_row_has_its_picture_and_truth_lies_outside(tiny: Path) -> None:
    train, test = read_train(tiny), read_test(tiny)
    named = {tiny / path for path in [*train["image_path"], *test["image_path"]]}
    assert named == set(tiny.rglob("*.jpg"))
    for path in named:
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (200, 100))
    truth = read_masses(tiny.with_name("tiny-truth.csv"))
    assert sorted(truth.index) == sorted(test["image_id"])
    assert identity_gap(truth.to_numpy()).max() < 1e-9


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    for name, seed, workers in (("one", 3, 1), ("two", 3, 2), ("other", 4, 1)):
        make_pasture(tmp_path / name, images=5, test_images=2, seed=seed, width=100, height=50, workers=workers)
    one, two, other = (files_of(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert (tmp_path / "one-truth.csv").read_bytes() == (tmp_path / "two-truth.csv").read_bytes()
    assert one["train.csv"] != other["train.csv"]
    assert one.keys().isdisjoint(name for name in other if name.endswith("jpg"))


def test_one_image_is_enough(tmp_path: Path) -> None:
    summary = make_pasture(tmp_path / "one", images=1, test_images=1, width=100, height=50)
    assert (summary.train_images, summary.train_dates, summary.test_images, summary.test_dates) == (1, 1, 1, 1)
    assert len(read_train(tmp_path / "one")) == len(read_test(tmp_path / "one")) == 1


def test_no_test_images_make_a_directory_to_learn_from(tmp_path: Path) -> None:
    summary = make_pasture(tmp_path / "one", images=3, test_images=0, width=100, height=50)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"train.csv", "train"}
    assert [path.name for path in tmp_path.iterdir()] == ["one"] and summary.truth_path is None
    assert summary.text() == f"Wrote {tmp_path / 'one'}: 3 training photographs of 3 dates, no test photographs"
    with_tests = make_pasture(tmp_path / "two", images=3, test_images=2, width=100, height=50)
    assert with_tests.text().endswith(f"2 test photographs of 2; their masses are in {tmp_path / 'two-truth.csv'}")
    assert (tmp_path / "one" / "train.csv").read_bytes() == (tmp_path / "two" / "train.csv").read_bytes()


def test_like_keeps_the_table_and_draws_its_masses(tiny: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    text = pd.read_csv(tiny / "train.csv", dtype=str)[:20].replace({"Sampling_Date": {r"/0?": "/"}}, regex=True)
    text["sample_id"], text["image_path"] = "X" + text["sample_id"], "train/X" + text["image_path"].str[6:]
    text.to_csv(table, index=False)
    summary = make_pasture(tmp_path / "out", like=table, test_images=2, width=100, height=50)
    assert (tmp_path / "out" / "train.csv").read_bytes() == table.read_bytes()
    assert summary.train_images == 4
    assert {path.stem for path in (tmp_path / "out" / "train").iterdir()} == set(text["image_path"].str[6:-4])


def test_an_unsound_like_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    text = pd.read_csv(tiny / "train.csv", dtype=str)
    text.loc[7, "target"] = "heavy"
    text["image_path"] = "../" + text["image_path"]
    text.to_csv(table, index=False)
    with pytest.raises(DataError, match="heavy"):
        make_pasture(tmp_path / "out", like=table, images=1, test_images=1, width=100, height=50)
    assert list(tmp_path.iterdir()) == [table]


def test_places_and_numbers_are_refused_before_drawing(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be new or empty"):
        make_pasture(tiny, images=1, test_images=1)
    with pytest.raises(UserError, match="must lie outside"):
        make_pasture(tmp_path / "x", truth_path=tmp_path / "x" / "truth.csv", images=1, test_images=1)
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        make_pasture(tmp_path / "x", images=0)
    with pytest.raises(ValueError, match="width must be at least 100, got 50"):
        make_pasture(tmp_path / "x", width=50)
    assert not (tmp_path / "x").exists()


def test_contact_sheet_shows_the_photographs(tiny: Path, tmp_path: Path) -> None:
    contact_sheet(tiny, tmp_path / "sheet.png", images=6)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.size == (4 * 400, 2 * 218)
        assert np.asarray(sheet)[:200, :1600].std() > 10


def test_progress_counts_every_picture(full: tuple[Path, list[tuple[int, int]]]) -> None:
    assert full[1] == [(done, 360) for done in range(1, 361)]


# ---- masses and metadata


@given(st.integers(0, 2000), st.lists(st.floats(0.01, 100), min_size=1, max_size=30))
def test_shares_are_whole_and_near_proportional(total: int, weights: list[float]) -> None:
    count = share_out(total, weights)
    quota = total * np.array(weights) / np.sum(weights)
    assert count.sum() == total
    assert (np.abs(count - quota) < 1 + 1e-6).all()


def test_training_plan_follows_the_facts() -> None:
    plan = training_plan(357, np.random.default_rng(5))
    for name, keys in (("dates", ["State", "Sampling_Date"]), ("by_state_species", ["State", "Species"])):
        facts = read_fact(name).set_index(keys)["images"].sort_index()
        assert plan.groupby(keys).size().to_dict() == facts.to_dict()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400), st.integers(0, 10**6))
def test_test_dates_are_never_training_dates(images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = training_plan(images, rng), held_out_plan(images, rng)
    assert len(train) == len(test) == images
    assert set(train["Sampling_Date"]).isdisjoint(test["Sampling_Date"])
    assert set(train["Sampling_Date"].str[:4]).isdisjoint(test["Sampling_Date"].str[:4])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_masses_have_the_quirks_of_the_real_labels(seed: int) -> None:
    table = wide(seed)
    mass_NT = table[list(TARGETS)].to_numpy()
    assert identity_gap(mass_NT).max() < 1e-9
    assert (mass_NT >= 0).all()
    assert mass_NT[:, 4].min() > 0.9
    np.testing.assert_allclose(mass_NT, mass_NT.round(4), rtol=0, atol=1e-12)
    west, south_east = table[table["State"] == "WA"], table[table["State"] == "NSW"]
    assert (west["Dry_Dead_g"] == 0).all()
    assert (south_east["Dry_Clover_g"] == 0).mean() > 0.95
    overall = read_fact("overall").set_index("Unnamed: 0")
    for target, zeros in (("Dry_Clover_g", 0.38), ("Dry_Dead_g", 0.11), ("Dry_Green_g", 0.05)):
        assert abs((table[target] == 0).mean() - zeros) < 0.06
        assert table[target].skew() > 1.0
    for target in TARGETS:
        mean, spread = overall.loc["mean", target], overall.loc["std", target]
        assert abs(table[target].mean() - mean) < 0.35 * mean
        assert 0.6 * spread < table[target].std() < 1.4 * spread


def test_ndvi_and_height_agree_with_the_masses() -> None:
    facts = read_fact("spearman").set_index("target_name")
    ranks = pd.concat([wide(seed) for seed in range(3)])[[*TARGETS, "Pre_GSHH_NDVI", "Height_Ave_cm"]].corr("spearman")
    for mass, sign in (("Dry_Green_g", "Height_Ave_cm"), ("GDM_g", "Height_Ave_cm"), ("GDM_g", "Pre_GSHH_NDVI")):
        assert abs(ranks.loc[mass, sign] - facts.loc[mass, sign]) < 0.2
    assert ranks.loc["Dry_Clover_g", "Height_Ave_cm"] < 0 < ranks.loc["Dry_Green_g", "Pre_GSHH_NDVI"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_table_bands(seed: int) -> None:
    """Per-target mean 0.20-0.28; metadata trees 0.63-0.79 by date and at least 0.05 more at random."""
    table = wide(seed)
    mass_NT = table[list(TARGETS)].to_numpy()
    by_date, at_random = (assign_folds(table, scheme=scheme, seed=0) for scheme in ("date", "random"))
    assert 0.20 < weighted_r2_score(mass_NT, references.per_target_mean(table, by_date)) < 0.28
    trees = weighted_r2_score(mass_NT, references.metadata_trees(table, by_date))
    assert 0.63 < trees < 0.79
    assert weighted_r2_score(mass_NT, references.metadata_trees(table, at_random)) > trees + 0.05


# ---- photographs


def test_colour_alone_tells_little(full: tuple[Path, list[tuple[int, int]]]) -> None:
    """Ridge on colour statistics scores 0.25-0.60 under folds by date."""
    table = read_train(full[0])
    colour_NF = np.stack([references.colour_statistics(full[0] / path) for path in table["image_path"]])
    pred_NT = references.colour_ridge(colour_NF, table, assign_folds(table, scheme="date", seed=0))
    assert 0.25 < weighted_r2_score(table[list(TARGETS)].to_numpy(), pred_NT) < 0.60


@pytest.mark.parametrize("part", ["green_g", "dead_g", "clover_g"])
def test_more_mass_covers_more_and_dense_swards_saturate(part: str) -> None:
    """The covered share of blue ground grows with each mass, and by less per gram the denser the sward is."""
    grams = [0.0, 2.0, 10.0, 30.0, 90.0]
    bare = replace(SWARD, green_g=0.0, dead_g=0.0, clover_g=0.0)
    blue_ground = replace(NEUTRAL, soil_3=np.array([40.0, 40.0, 160.0]))
    covered = []
    for mass in grams:
        red, green, blue = np.moveaxis(pixels(replace(bare, **{part: mass}), lighting=blue_ground), -1, 0)
        covered.append(float((blue < np.maximum(red, green)).mean()))
    assert covered[0] < 0.01
    gain_per_gram = np.diff(covered) / np.diff(grams)
    assert (gain_per_gram > 0).all()
    assert gain_per_gram[0] > 5 * gain_per_gram[-1]
    assert covered[-1] < 1


def test_leaves_are_green_and_straw_is_not() -> None:
    def greenness(quadrat: Quadrat) -> float:
        red, green, _ = pixels(quadrat).mean(axis=(0, 1))
        return float(green - red)

    straw = replace(SWARD, green_g=0.0, dead_g=30.0)
    assert greenness(replace(SWARD, green_g=30.0)) > 15
    assert greenness(straw) < -5
    assert greenness(replace(straw, clover_g=30.0)) > greenness(straw) + 10


def test_species_have_shapes_of_their_own() -> None:
    """Long blades run on from pixel to pixel; leaflets do not: gradients are coarser for phalaris than for clover."""

    def roughness(quadrat: Quadrat) -> float:
        grey = np.mean([pixels(quadrat, index=index).sum(axis=-1) for index in range(3)], axis=0)
        return float(np.abs(np.diff(grey, axis=1)).mean() / grey.std())

    phalaris = replace(SWARD, species="Phalaris", green_g=25.0, dead_g=0.0, height_cm=12.0)
    clover = replace(SWARD, species="Clover", green_g=0.0, dead_g=0.0, clover_g=25.0)
    assert roughness(clover) > 1.15 * roughness(phalaris)


def test_a_mass_leaves_the_other_parts_where_they_are() -> None:
    """Each part draws from its own stream: with one more gram of clover most of the picture stays as it was."""
    changed = np.abs(pixels(replace(SWARD, clover_g=0.3)) - pixels(SWARD)).max(axis=-1) > 40
    assert 0 < changed.mean() < 0.05


def test_light_belongs_to_the_date() -> None:
    """Exposure and balance differ more between dates than between the pictures of one date."""
    gain = np.array(
        [
            [
                np.log(draw_lighting(np.random.default_rng(date), np.random.default_rng([date, i])).gain_3)
                for i in range(8)
            ]
            for date in range(60)
        ]
    )
    assert (gain.mean(axis=1).std(axis=0) > 1.05 * gain.std(axis=1).mean(axis=0)).all()
    assert gain.std(axis=(0, 1)).min() > 0.15


def test_stamp_is_orange_at_the_bottom_right_and_nowhere_else() -> None:
    changed = np.abs(pixels(SWARD, stamped=True) - pixels(SWARD)).max(axis=-1) > 0
    rows, columns = np.nonzero(changed)
    assert rows.min() > 0.85 * 150
    assert columns.min() > 0.5 * 300
    red, green, blue = pixels(SWARD, stamped=True)[changed].max(axis=0)
    assert red > green > blue + 20


def test_a_quarter_of_the_pictures_carries_a_stamp() -> None:
    """Orange pixels in the bottom right corner of pictures of bare, grey ground."""
    bare = replace(SWARD, green_g=0.0, dead_g=0.0)
    grey = replace(NEUTRAL, soil_3=np.array([90.0, 90.0, 90.0]))
    stamped = 0
    for index in range(200):
        picture = draw_quadrat(bare, seed=0, index=index, width=200, height=100, lighting=grey)
        red, _, blue = np.moveaxis(np.asarray(picture)[85:, 100:].astype(int), -1, 0)
        stamped += bool((red - blue > 90).any())
    assert 34 <= stamped <= 66  # 50 expected, standard deviation 6.1


def test_a_new_day_changes_the_light_of_the_same_sward() -> None:
    def mean_rgb(date: str) -> np.ndarray:
        picture = draw_quadrat(replace(SWARD, date=date), seed=0, index=0, width=100, height=50)
        return np.asarray(picture).mean(axis=(0, 1))

    assert np.abs(mean_rgb("2015/9/4") - mean_rgb("2015/9/3")).max() > 5


@pytest.mark.parametrize("targets", ["total", "total,clover", "clover, total", "all"])
def test_quadrats_have_the_masses_that_were_asked_for(tmp_path: Path, targets: str) -> None:
    options = ["--form", "quadrats", "--unit", "kg/ha", "--area", "0.25", "--width", "100", "--images", "3"]
    command = ["data", "make", str(tmp_path / "own"), *options, "--test-images", "0", "--targets", targets]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    dataset, problems = inspect_dataset(tmp_path / "own")
    assert dataset is not None and problems == []
    asked = set(MASSES) if targets == "all" else {"total", "clover"} & {name.strip() for name in targets.split(",")}
    assert {role for role in dataset.columns if role in MASSES} == asked
    table = pd.read_csv(tmp_path / "own" / "quadrats.csv")
    assert {name for name in table if name.endswith("_kg_ha")} == {f"{name}_kg_ha" for name in asked}
    assert not (tmp_path / "own" / "test.csv").exists() and not (tmp_path / "own-truth.csv").exists()
    make_pasture(tmp_path / "all", images=3, test_images=0, width=100, height=50)  # the same pasture
    grams = read_train(tmp_path / "all")
    for role in asked:
        np.testing.assert_allclose(table[f"{role}_kg_ha"] * 0.25 * 0.1, grams[MASSES[role]], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": ["totl"]}, "did you mean total"),
        ({"targets": []}, "none of green"),
        ({"targets": ["total"], "form": "competition"}, "go with --form quadrats"),
    ],
)
def test_masses_that_are_none_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_pasture(tmp_path / "own", images=1, test_images=0, **{"form": "quadrats", **options})
    assert not (tmp_path / "own").exists()
