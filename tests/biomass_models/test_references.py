"""Reference predictions: hand-computed means, no look at the scored fold, penalties chosen by date."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from biomass_models.data import references
from biomass_models.data.cell_weights import WEIGHT_COLUMNS
from biomass_models.data.references import (
    COLOUR_NAMES,
    colour_ridge,
    colour_statistics,
    metadata_trees,
    per_target_mean,
)
from biomass_models.targets import (
    CLOVER,
    DEAD,
    GDM,
    GREEN,
    TARGETS,
    TOTAL,
    from_components,
    weight_T,
    weighted_r2_score,
)

N_DATES, PER_DATE = 12, 8


def made_up(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Quadrats of 12 dates with masses at random, and folds by date."""
    rng = np.random.default_rng(seed)
    n = N_DATES * PER_DATE
    date_N = np.repeat(np.arange(N_DATES), PER_DATE)
    quadrats = pd.DataFrame(
        {
            "image_id": [f"ID{i}" for i in range(n)],
            "Sampling_Date": pd.Timestamp("2015-03-01") + pd.to_timedelta(date_N * 20, unit="D"),
            "State": "Tas",
            "Species": np.where(rng.random(n) < 0.5, "Ryegrass", "Clover"),
            "Pre_GSHH_NDVI": rng.uniform(0.3, 0.9, n),
            "Height_Ave_cm": rng.uniform(1, 20, n),
        }
    )
    quadrats[list(TARGETS)] = from_components(*rng.gamma(2.0, 8.0, (3, n)))
    folds = pd.DataFrame({"image_id": quadrats["image_id"], "fold": date_N % 4, "group": date_N.astype(str)})
    return quadrats, folds


def test_per_target_mean_by_hand() -> None:
    quadrats = pd.DataFrame({"image_id": list("abcd")})
    quadrats[list(TARGETS)] = [[2, 0, 0, 2, 2], [4, 2, 0, 4, 6], [10, 0, 2, 12, 12], [20, 4, 0, 20, 24]]
    folds = pd.DataFrame({"image_id": list("abcd"), "fold": [0, 0, 1, 1], "group": list("abcd")})
    expected = [[15, 2, 1, 16, 18]] * 2 + [[3, 1, 0, 3, 4]] * 2
    np.testing.assert_allclose(per_target_mean(quadrats, folds), expected)


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["mean", "trees", "ridge"])
def test_no_reference_sees_the_masses_of_the_fold_that_it_predicts(reference: str) -> None:
    quadrats, folds = made_up(1)
    colour_NF = np.random.default_rng(2).normal(size=(len(quadrats), 5))
    predict = {
        "mean": lambda table: per_target_mean(table, folds),
        "trees": lambda table: metadata_trees(table, folds),
        "ridge": lambda table: colour_ridge(colour_NF, table, folds),
    }[reference]
    held = folds["fold"].to_numpy() == 2
    altered = quadrats.copy()
    altered.loc[held, list(TARGETS)] = 3 * altered.loc[held, list(TARGETS)] + 50
    before, after = predict(quadrats), predict(altered)
    np.testing.assert_array_equal(before[held], after[held])
    assert np.abs(before[~held] - after[~held]).max() > 1
    assert before.min() >= 0


@pytest.mark.slow
def test_metadata_trees_find_what_height_tells() -> None:
    quadrats, folds = made_up(3)
    quadrats[list(TARGETS)] = from_components(
        3 * quadrats["Height_Ave_cm"], np.zeros(len(quadrats)), np.zeros(len(quadrats))
    )
    truth_NT = quadrats[list(TARGETS)].to_numpy()
    assert weighted_r2_score(truth_NT, metadata_trees(quadrats, folds)) > 0.9
    np.testing.assert_array_equal(metadata_trees(quadrats, folds, seed=7), metadata_trees(quadrats, folds, seed=7))


@pytest.mark.slow
def test_colour_ridge_recovers_a_linear_law_in_any_units() -> None:
    quadrats, folds = made_up(4)
    truth_NT = quadrats[list(TARGETS)].to_numpy()
    components_NC = truth_NT[:, :3]
    pred_NT = colour_ridge(components_NC @ [[1, 2, 0], [0, 1, 1], [3, 0, 1]] + 7.0, quadrats, folds)
    assert weighted_r2_score(truth_NT, pred_NT) > 0.99
    rescaled_NT = colour_ridge(components_NC * [1e-3, 1.0, 1e4], quadrats, folds)
    np.testing.assert_allclose(rescaled_NT, colour_ridge(components_NC, quadrats, folds), rtol=1e-6)


@pytest.mark.slow
def test_the_penalty_is_chosen_by_date_not_by_image() -> None:
    """Statistics that only say which date it is explain random inner folds and must be shrunk away by inner dates."""
    quadrats, folds = made_up(5)
    rng = np.random.default_rng(6)
    date_N = np.repeat(np.arange(N_DATES), PER_DATE)
    offset_NC = rng.gamma(2.0, 15.0, (N_DATES, 3))[date_N] + rng.gamma(2.0, 1.0, (len(date_N), 3))
    quadrats[list(TARGETS)] = from_components(*offset_NC.T)
    code_NF = rng.normal(size=(N_DATES, 8))[date_N] + 0.01 * rng.normal(size=(len(date_N), 8))
    truth_NT = quadrats[list(TARGETS)].to_numpy()
    by_date = weighted_r2_score(truth_NT, colour_ridge(code_NF, quadrats, folds))
    mean = weighted_r2_score(truth_NT, per_target_mean(quadrats, folds))
    unshrunk = np.empty_like(truth_NT)
    for fold in range(4):
        train = folds["fold"].to_numpy() != fold
        model = references.Ridge(alpha=references.ALPHAS[0]).fit(code_NF[train], truth_NT[train])
        unshrunk[~train] = model.predict(code_NF[~train])
    assert by_date > mean - 0.1
    assert by_date > weighted_r2_score(truth_NT, np.maximum(unshrunk, 0)) + 0.3


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["mean", "trees", "ridge"])
def test_references_are_fitted_on_measured_cells_and_blank_what_never_was(reference: str) -> None:
    """Oracle: each set of targets alone, on the rows in which it was measured."""
    quadrats, folds = made_up(9)
    colour_NF = np.random.default_rng(2).normal(size=(len(quadrats), 5))
    predict = {
        "mean": per_target_mean,
        "trees": metadata_trees,
        "ridge": lambda table, folds: colour_ridge(colour_NF, table, folds),
    }[reference]
    measured_NT = np.isin(np.arange(5), (DEAD, TOTAL)) | np.zeros((len(quadrats), 5), dtype=bool)
    measured_NT[:, CLOVER] = np.random.default_rng(3).random(len(quadrats)) < 0.5
    tables = []
    for value in (np.nan, 0.0, 1e9):
        table = quadrats.copy()
        table[list(TARGETS)] = np.where(measured_NT, table[list(TARGETS)].to_numpy(), value)
        if not np.isnan(value):
            table[list(WEIGHT_COLUMNS)] = np.where(measured_NT, weight_T, 0.0)
        tables.append(table)
    pred_NT, *others = (predict(table, folds) for table in tables)
    assert all(other.tobytes() == pred_NT.tobytes() for other in others)
    assert np.isnan(pred_NT[:, [GREEN, GDM]]).all() and np.isfinite(pred_NT[:, [DEAD, CLOVER, TOTAL]]).all()
    if reference == "mean":
        train = (folds["fold"] != 0).to_numpy()
        clover = quadrats["Dry_Clover_g"].to_numpy()[train & measured_NT[:, CLOVER]].mean()
        assert pred_NT[~train, CLOVER] == pytest.approx(clover)
    beside = tables[0].assign(Dry_Clover_g=np.where(measured_NT[:, CLOVER], 2 * quadrats["Dry_Clover_g"] + 1, np.nan))
    if reference != "ridge":  # whose penalty is chosen on all targets together
        np.testing.assert_array_equal(predict(beside, folds)[:, [DEAD, TOTAL]], pred_NT[:, [DEAD, TOTAL]])


def test_photographs_of_one_quadrat_weigh_as_one_in_references() -> None:
    quadrats = pd.DataFrame({"image_id": list("abcd")})
    quadrats[list(TARGETS)] = np.tile(np.array([1.0, 4, 4, 7])[:, None], (1, 5))
    quadrats[list(WEIGHT_COLUMNS)] = np.array([1, 0.5, 0.5, 1])[:, None] * weight_T
    folds = pd.DataFrame({"image_id": list("abcd"), "fold": [0, 0, 0, 1], "group": list("abcd")})
    assert per_target_mean(quadrats, folds)[3].tolist() == [2.5] * 5  # of 1 and of 4, not of 1, 4 and 4


def test_one_training_date_still_gives_a_prediction() -> None:
    quadrats, folds = made_up(7)
    two = folds["group"].isin(["0", "1"]).to_numpy()
    colour_NF = np.random.default_rng(0).normal(size=(int(two.sum()), 4))
    pred_NT = colour_ridge(colour_NF, quadrats[two].reset_index(drop=True), folds[two].reset_index(drop=True))
    assert np.isfinite(pred_NT).all()


def test_colour_statistics_of_one_colour(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), (100, 150, 50)).save(tmp_path / "plain.png")
    statistic = dict(zip(COLOUR_NAMES, colour_statistics(tmp_path / "plain.png"), strict=True))
    for name, value in (("red", 100 / 255), ("green", 150 / 255), ("blue", 50 / 255), ("value", 150 / 255)):
        for kind in ("mean", "p5", "p95"):
            assert statistic[f"{name}_{kind}"] == pytest.approx(value)
    assert statistic["excess_green_mean"] == pytest.approx((2 * 150 - 100 - 50) / 300)
    assert statistic["excess_red_mean"] == pytest.approx((1.4 * 100 - 150) / 300)
    # hue 90 degrees, saturation 2/3; PIL stores both in 8 bits
    assert statistic["hue_cos_mean"] == pytest.approx(0, abs=0.02)
    assert statistic["hue_sin_mean"] == pytest.approx(2 / 3, abs=0.01)
    assert all(value == pytest.approx(0, abs=1e-12) for name, value in statistic.items() if name.endswith("_sd"))


def test_colour_statistics_do_not_depend_on_where_things_are(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(np.ascontiguousarray(rgb[::-1, ::-1])).save(tmp_path / "b.png")
    np.testing.assert_allclose(colour_statistics(tmp_path / "a.png"), colour_statistics(tmp_path / "b.png"))


def test_unlike_rows_are_refused() -> None:
    quadrats, folds = made_up(8)
    with pytest.raises(ValueError, match="same image ids in the same order"):
        per_target_mean(quadrats, folds.iloc[::-1])
    with pytest.raises(ValueError, match="need training rows for every fold, fold 0 has none"):
        per_target_mean(quadrats, folds.assign(fold=0))
    with pytest.raises(ValueError, match="finite, one row for each of 96 quadrats"):
        colour_ridge(np.full((96, 2), np.nan), quadrats, folds)
