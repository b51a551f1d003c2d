"""Rows that models have labelled, in the table of a fit: their weights, and a ridge by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_inputs import inputs_for, tiny_quadrats

from biomass_models.data.cell_weights import WEIGHT_COLUMNS, cell_weights, measured_masses, row_weights
from biomass_models.errors import UserError
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.families.probe.model import MODEL, embeddings, feature_specs
from biomass_models.families.pseudo_rows import with_pseudo_rows
from biomass_models.fold_rows import ALWAYS, PSEUDO, labelled_rows, training_rows
from biomass_models.ridge.solve import Ridge
from biomass_models.targets import TARGETS, TOTAL, weight_T
from biomass_models.training.fit import FoldRows
from biomass_models.training.scaling import TargetScaler

ROWS, PHOTOGRAPHS = 6, 3


def table_of(**more: object) -> pd.DataFrame:
    masses = dict(zip(TARGETS, np.arange(5.0 * ROWS).reshape(ROWS, 5).T, strict=True))
    return pd.DataFrame(
        {"image_id": [f"q{row}" for row in range(ROWS)], **masses, "fold": [0, 0, 1, 1, 2, ALWAYS]}
    ).assign(group=["a", "a", "b", "b", "c", "d"], Sampling_Date=pd.Timestamp(2015, 2, 4), State="Tas", **more)


def added(table: pd.DataFrame, weight: float = 0.3, share: float = 1.0) -> pd.DataFrame:
    names = pd.Series([f"new{row}" for row in range(PHOTOGRAPHS)])
    label_PT = np.full((PHOTOGRAPHS, 5), 2.0)
    return with_pseudo_rows(table, names, label_PT, np.full(PHOTOGRAPHS, share), weight)


def test_what_was_weighed_stays_as_it_is_and_the_rest_counts_less() -> None:
    table = table_of()
    whole = added(table, 0.3, share=0.5)
    assert whole[: len(table)][list(table.columns)].equals(table.astype(whole[list(table.columns)].dtypes))
    assert labelled_rows(whole).tolist() == [True] * ROWS + [False] * PHOTOGRAPHS and labelled_rows(table).all()
    np.testing.assert_allclose(cell_weights(whole), [weight_T] * ROWS + [0.15 * weight_T] * PHOTOGRAPHS)
    np.testing.assert_allclose(row_weights(cell_weights(whole), len(whole)), [1.0] * ROWS + [0.15] * PHOTOGRAPHS)
    for fold in range(3):
        for ordered in (False, True):
            assert training_rows(whole["fold"], fold, ordered=ordered)[ROWS:].all()
    rows = FoldRows.of(whole, whole["fold"].to_numpy(), 1, np.arange(len(whole)))
    assert rows.train_M.tolist() == [0, 1, 4, 5, 6, 7, 8] and rows.labelled_M.tolist() == [0, 1, 4, 5]
    assert rows.valid_M.tolist() == [2, 3]
    np.testing.assert_array_equal(rows.of_training(np.arange(4.0)), [0, 1, 2, 3, np.nan, np.nan, np.nan])


def test_own_weights_and_masses_that_were_not_measured() -> None:
    """A user's weights, two photographs of one quadrat, and the total alone."""
    table, own_T = table_of(), np.array([0.0, 0.0, 0.0, 0.0, 2.0])
    table[list(WEIGHT_COLUMNS)] = own_T * np.array([1, 1, 1, 1, 0.5, 0.5])[:, None]
    table.loc[:, list(TARGETS[:TOTAL])] = np.nan
    mass_NT, weight = measured_masses(added(table, 0.25))
    assert np.isnan(mass_NT[:, :TOTAL]).all() and not np.isnan(mass_NT[:, TOTAL]).any()
    np.testing.assert_allclose(weight[:, TOTAL], [2, 2, 2, 2, 1, 1, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.01])
def test_a_weight_lies_above_0_and_is_at_most_1(weight: float) -> None:
    with pytest.raises(UserError, match=f"more than 0 and at most as much as a weighed one, 1, got {weight}"):
        added(table_of(), weight)


def test_names_are_their_own() -> None:
    with pytest.raises(UserError, match="have names of their own, got 'q0'"):
        with_pseudo_rows(table_of(), pd.Series(["q0"]), np.ones((1, 5)), np.ones(1), 0.3)


def test_a_weighted_ridge_is_the_one_by_hand() -> None:
    """Mean squared error by shares of the weights, features scaled by the weighed rows alone."""
    rng = np.random.default_rng(0)
    feature_NF, goal_NT = rng.normal(size=(7, 3)), rng.normal(size=(7, 5))
    weight_N, alpha = np.array([1, 1, 1, 1, 0.3, 0.3, 0.3]), 0.2
    own_NF = feature_NF[:4]
    standard = own_NF.mean(0), 1 / (own_NF.std(0) * np.sqrt(3))
    z_NF = (feature_NF - standard[0]) * standard[1]
    assert np.abs(z_NF).max() < 5 / np.sqrt(3)  # nothing is cut off
    share_N = weight_N / weight_N.sum()
    centred_NF, residual_NT = z_NF - share_N @ z_NF, goal_NT - share_N @ goal_NT
    gram_FF = (share_N[:, None] * centred_NF).T @ centred_NF + alpha * np.eye(3)
    coefficient_FT = np.linalg.solve(gram_FF, (share_N[:, None] * centred_NF).T @ residual_NT)
    by_hand = share_N @ goal_NT + centred_NF @ coefficient_FT
    found = Ridge.fit(feature_NF, goal_NT, np.full(5, alpha), weight_N, standard)
    np.testing.assert_allclose(found.predict(feature_NF), by_hand, rtol=1e-10)


@pytest.mark.slow
def test_a_probe_of_a_second_round_is_that_ridge(tmp_path: Path) -> None:
    quadrats, fold_N = tiny_quadrats(tmp_path)
    config = ProbeConfig(backbone="test_vit", size=32, log10_alpha_low=-2, log10_alpha_high=-2, alphas=1)
    inputs = inputs_for(tmp_path, quadrats, tmp_path / "cache")
    seen, asked = quadrats[fold_N != 2], quadrats[fold_N == 2]
    label_PT = asked[list(TARGETS)].to_numpy() / 2
    table = with_pseudo_rows(
        seen.assign(fold=fold_N[fold_N != 2]), asked["image_id"], label_PT, np.ones(len(asked)), 0.4
    )
    result = MODEL.fit(config, table, table["fold"].to_numpy(), 0, inputs, seed=0)
    feature_NF = embeddings(config, [inputs.features(spec) for spec in feature_specs(config)])
    feature_NF = feature_NF[inputs.images.rows(list(table["image_id"]))]
    train, weighed = table["fold"] != 0, (table["fold"] != 0) & ~table[PSEUDO]
    scaler = TargetScaler.fit(table.loc[weighed, list(TARGETS)].to_numpy(), config.transform)
    mean_F, sd_F, side = feature_NF[weighed].mean(0), feature_NF[weighed].std(0), np.sqrt(feature_NF.shape[1])
    z_NF = np.clip((feature_NF - mean_F) / (sd_F * side), -5 / side, 5 / side)
    share_M = np.where(table.loc[train, PSEUDO], 0.4, 1.0)
    share_M /= share_M.sum()
    centre_F, goal_MT = share_M @ z_NF[train], scaler.scale(table.loc[train, list(TARGETS)].to_numpy())
    kernel_MM = (z_NF[train] - centre_F) @ (z_NF[train] - centre_F).T
    dual_MT = np.linalg.solve(kernel_MM * share_M + 0.01 * np.eye(len(share_M)), goal_MT - share_M @ goal_MT)
    asked_MM = (z_NF[table["fold"] == 0] - centre_F) @ (z_NF[train] - centre_F).T * share_M
    by_hand = scaler.grams(share_M @ goal_MT + asked_MM @ dual_MT)
    np.testing.assert_allclose(result.pred_NT, by_hand, rtol=1e-6, atol=1e-6)
