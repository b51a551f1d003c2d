from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import linear_model
from tiny_inputs import inputs_for, tiny_quadrats

from biomass_models.errors import UserError
from biomass_models.families.probe import model as probe
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.features.outputs import PATCH_GEM
from biomass_models.features.spec import needed_arrays
from biomass_models.ridge import chosen
from biomass_models.ridge.chosen import inner_errors
from biomass_models.ridge.solve import FURTHEST, Ridge, ridge_path, shrinkage, standardiser
from biomass_models.training.fit import FitError


@pytest.mark.parametrize("shape", [(30, 7), (12, 40)])
def test_ridge_is_scikit_learns(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    feature_NF, goal_NT, new_MF = rng.normal(size=shape), rng.normal(size=(shape[0], 5)), rng.normal(size=(4, shape[1]))
    mean_F, scale_F = standardiser(feature_NF)
    alpha_A = np.array([1e-4, 0.03, 2.0])
    path_AMT = ridge_path(feature_NF, goal_NT, new_MF, alpha_A)
    for alpha, pred_MT in zip(alpha_A, path_AMT, strict=True):
        oracle = linear_model.Ridge(alpha=alpha * shape[0]).fit((feature_NF - mean_F) * scale_F, goal_NT)
        expected = oracle.predict((new_MF - mean_F) * scale_F)
        np.testing.assert_allclose(pred_MT, expected, atol=1e-8)
        fitted = Ridge.fit(feature_NF, goal_NT, np.full(5, alpha))
        np.testing.assert_allclose(fitted.predict(new_MF), expected, atol=1e-8)


def test_standardised_rows_have_a_mean_square_norm_of_one() -> None:
    feature_NF = np.random.default_rng(1).normal(3, 5, (50, 8))
    mean_F, scale_F = standardiser(feature_NF)
    assert (((feature_NF - mean_F) * scale_F) ** 2).sum(1).mean() == pytest.approx(1.0)


def test_dead_features_say_nothing() -> None:
    rng = np.random.default_rng(2)
    feature_NF, goal_NT = rng.normal(size=(20, 3)), rng.normal(size=(20, 5))
    dead_NF = np.hstack([feature_NF, np.full((20, 1), 7.0)])
    fitted = Ridge.fit(dead_NF, goal_NT, np.full(5, 0.1))
    moved = dead_NF + np.array([0, 0, 0, 100.0])
    np.testing.assert_allclose(fitted.predict(moved), fitted.predict(dead_NF))
    assert np.isfinite(shrinkage(np.zeros(2), np.array([0.0]), 3)).all()


def test_one_penalty_per_target_is_each_targets_own_fit() -> None:
    rng = np.random.default_rng(3)
    feature_NF, goal_NT = rng.normal(size=(25, 6)), rng.normal(size=(25, 5))
    alpha_T = np.array([1e-3, 1e-2, 0.1, 1.0, 10.0])
    together = Ridge.fit(feature_NF, goal_NT, alpha_T).predict(feature_NF)
    for target, alpha in enumerate(alpha_T):
        alone = Ridge.fit(feature_NF, goal_NT, np.full(5, alpha)).predict(feature_NF)
        np.testing.assert_allclose(together[:, target], alone[:, target])


def test_groups_are_not_split_when_the_penalty_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    group_N = np.repeat([f"d{k}" for k in range(6)], 5).astype(object)
    feature_NF = rng.normal(size=(30, 4))
    feature_NF[:, 0] = np.repeat(np.arange(6), 5)  # a fingerprint of the group
    seen: list[tuple[set[float], set[float]]] = []

    def spy(train_NF: np.ndarray, goal: np.ndarray, test_MF: np.ndarray, *more: np.ndarray) -> np.ndarray:
        seen.append((set(train_NF[:, 0]), set(test_MF[:, 0])))
        return ridge_path(train_NF, goal, test_MF, *more)

    monkeypatch.setattr(chosen, "ridge_path", spy)
    inner_errors(ProbeConfig(), feature_NF, rng.gamma(2, 5, (30, 5)), group_N, seed=0)
    assert len(seen) == 4
    assert not any(train & test for train, test in seen)
    assert set().union(*(test for _, test in seen)) == set(range(6))


def test_grouped_penalty_resists_features_that_name_the_group() -> None:
    """Features that only name the sampling date are worthless for a new one: the largest penalty wins."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(10), 8)
    feature_NF = np.eye(10)[group] + rng.normal(0, 0.05, (80, 10))
    mass_NT = np.repeat(rng.gamma(2, 10, (10, 5)), 8, axis=0) + rng.uniform(0, 1, (80, 5))
    config = ProbeConfig(transform="none")
    by_group = inner_errors(config, feature_NF, mass_NT, group.astype(str).astype(object), seed=0).sum(1)
    by_row = inner_errors(config, feature_NF, mass_NT, np.arange(80).astype(str).astype(object), seed=0).sum(1)
    assert by_group.argmin() > by_row.argmin() + 5
    with pytest.raises(FitError, match="2 groups"):
        inner_errors(config, feature_NF, mass_NT, np.full(80, "d", dtype=object), seed=0)


def test_a_unit_that_is_loud_on_one_new_row_counts_no_more_than_its_limit() -> None:
    rng = np.random.default_rng(0)
    feature_NF, goal_NT = rng.normal(size=(60, 8)), rng.normal(size=(60, 5))
    feature_NF[:, 3] *= 1e-3  # all but silent on the training rows
    ridge = Ridge.fit(feature_NF, goal_NT, np.full(5, 0.1))
    loud, limit = feature_NF[:1].copy(), feature_NF[:1].copy()
    loud[0, 3] = 1e6
    limit[0, 3] = feature_NF[:, 3].mean() + FURTHEST * feature_NF[:, 3].std()
    np.testing.assert_allclose(ridge.predict(loud), ridge.predict(limit), atol=1e-12)
    path_ANT = ridge_path(feature_NF, goal_NT, loud, np.array([0.1]))
    np.testing.assert_allclose(path_ANT[0], ridge.predict(loud), atol=1e-12)


def test_features_are_the_pooled_ones_side_by_side(tmp_path: Path) -> None:
    """Sizes, then taps, then statistics, then views; each block is what `pooled` says of its bank alone."""
    table, _ = tiny_quadrats(tmp_path, images=4)
    inputs = inputs_for(tmp_path, table, tmp_path / "cache")
    config = ProbeConfig(
        backbone="test_vit", size=32, more_sizes="48", layout="halves", taps="0.5+1", pooling="mean+max+min+gem"
    )
    specs = probe.feature_specs(config)
    assert [(spec.views[0].height, spec.layers, len(spec.outputs)) for spec in specs] == [
        (32, (3, 0), 4),
        (48, (3, 0), 4),
    ]
    found_NF = probe.embeddings(config, [inputs.features(spec) for spec in specs])
    assert found_NF.shape == (4, 2 * 2 * 4 * 2 * 64)
    block_NF = found_NF[:, 2 * 4 * 2 * 64 :][:, 4 * 2 * 64 :][:, 3 * 2 * 64 :]  # 48 px, last layer, GeM
    expected_NVD = inputs.features(specs[1]).stack(PATCH_GEM, layer=0).mean(1)
    np.testing.assert_array_equal(block_NF, expected_NVD.double().flatten(1))
    merged = replace(config, view_merge="mean")
    assert probe.embeddings(merged, [inputs.features(spec) for spec in specs]).shape == (4, 2 * 2 * 4 * 64)


def test_taps_at_the_end_are_the_last_layer() -> None:
    """Settings that say the same need the same arrays: nothing is encoded twice."""
    plain = ProbeConfig(backbone="test_vit", size=32)
    assert probe.feature_specs(replace(plain, taps="1")) == probe.feature_specs(plain)
    last = probe.feature_specs(replace(plain, layers=2))[0]
    assert set(needed_arrays(probe.feature_specs(replace(plain, taps="0.83+1"))[0])) == set(needed_arrays(last))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": 2, "taps": "0.5+1"}, "set layers=1 or taps to nothing"),
        ({"more_sizes": "224+448"}, "more_sizes must be other sizes than size"),
        ({"pooling": "std+mean"}, r"in this order: mean\+std"),
        ({"taps": "2"}, r"taps must be shares of the depth"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ProbeConfig(**settings)
