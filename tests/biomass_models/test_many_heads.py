"""Folds trained together are folds trained one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_inputs import inputs_for, tiny_quadrats

from biomass_models.families.baseline import model as baseline
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.interrupt import StopRequested
from biomass_models.training.fit import FitError
from biomass_models.training.heads import mlp_head
from biomass_models.training.many_heads import ManyHeads

PLAIN = BaselineConfig(
    backbone="test_vit", size=64, trained_blocks=0, epochs=6, batch_size=8, head_lr=3e-3, head_width=32, head_width_2=16
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folds of 16, 16 and 8 images: with batches of 8 their epochs have 3, 3 and 4 steps."""
    folder = tmp_path_factory.mktemp("photographs")
    quadrats, fold_N = tiny_quadrats(folder, images=40)
    return inputs_for(folder, quadrats, tmp_path_factory.mktemp("cache")), quadrats, fold_N


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        replace(PLAIN, dropout=0.0, weight_decay=0.5, transform="none", clip_norm=0.05),
        replace(PLAIN, jittered=2, ema_decay=0.9, min_lr=1e-3),
        replace(PLAIN, batch_size=13, select_best_epoch=True, transform="sqrt"),
    ],
    ids=["plain", "clipped", "averaged", "best epoch"],
)
def test_together_is_one_by_one(config: BaselineConfig, world: Any) -> None:
    inputs, quadrats, fold_N = world
    together = baseline.fit_folds(config, quadrats, fold_N, [0, 1, 2], inputs, seeds=[5, 6, 7])
    for fold, (result, seed) in enumerate(zip(together, [5, 6, 7], strict=True)):
        alone = baseline.fit(config, quadrats, fold_N, fold, inputs, seed=seed)
        assert result.row_N.tolist() == alone.row_N.tolist()
        np.testing.assert_allclose(result.pred_NT, alone.pred_NT, rtol=2e-3, atol=2e-3)
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(result.tensors[name], tensor, rtol=1e-3, atol=1e-4)
        for own, expected in zip(result.epochs, alone.epochs, strict=True):
            assert set(own) == set(expected)
            for name in ("epoch", "loss", "lr", "score"):
                assert own[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4)
        same = ("train_rows", "scored_epoch", "epoch_chosen_on_validation", "device", "weights", "notes")
        assert {name: result.info[name] for name in same} == {name: alone.info[name] for name in same}


def test_folds_may_be_some_and_in_any_order(world: Any) -> None:
    inputs, quadrats, fold_N = world
    all_, some = (
        baseline.fit_folds(PLAIN, quadrats, fold_N, folds, inputs, seeds=[10 + fold for fold in folds])
        for folds in ([0, 1, 2], [2, 0])
    )
    np.testing.assert_allclose(some[0].pred_NT, all_[2].pred_NT, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(some[1].pred_NT, all_[0].pred_NT, rtol=2e-3, atol=2e-3)


def test_same_seeds_same_bytes(world: Any) -> None:
    inputs, quadrats, fold_N = world
    first, second = (baseline.fit_folds(PLAIN, quadrats, fold_N, [0, 1], inputs, seeds=[1, 2]) for _ in range(2))
    assert all(a.pred_NT.tobytes() == b.pred_NT.tobytes() for a, b in zip(first, second, strict=True))


def test_heads_are_views_of_the_stack() -> None:
    heads = [mlp_head(6, width=4, width_2=3, dropout=0.1).eval() for _ in range(3)]
    many = ManyHeads(heads, torch.device("cpu"))
    feature = torch.randn(3, 5, 6)
    expected = torch.stack([head(part) for head, part in zip(many.heads, feature, strict=True)])
    torch.testing.assert_close(many(feature), expected)
    with torch.no_grad():
        many.heads[1][6].bias.add_(1.0)
    torch.testing.assert_close(many(feature)[1], expected[1] + 1.0)
    torch.testing.assert_close(many(feature)[[0, 2]], expected[[0, 2]])


def test_trained_blocks_are_refused_and_bad_losses_named(world: Any, tmp_path: Path) -> None:
    inputs, quadrats, fold_N = world
    with pytest.raises(ValueError, match="trained_blocks=1"):
        baseline.fit_folds(replace(PLAIN, trained_blocks=1, min_lr=0.0), quadrats, fold_N, [0, 1], inputs, seeds=[1, 2])
    broken = quadrats.assign(Dry_Total_g=np.where(quadrats.index == 1, np.inf, quadrats["Dry_Total_g"]))
    with pytest.raises(FitError, match="epoch 1 of 6"), np.errstate(invalid="ignore"):
        baseline.fit_folds(PLAIN, broken, fold_N, [0, 1], inputs, seeds=[1, 2])
    with pytest.raises(StopRequested):
        baseline.fit_folds(PLAIN, quadrats, fold_N, [0, 1], inputs, seeds=[1, 2], should_stop=lambda: True)
