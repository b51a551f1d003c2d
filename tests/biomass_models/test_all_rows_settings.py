"""A model on every labelled row: which settings, which rows. Every family's is in test_families."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_inputs import inputs_for, tiny_quadrats

from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.families.probe import model as probe
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.targets import TARGETS
from biomass_models.training.all_rows import TrainedFold, config_for_all_rows, fit_all_rows


def test_the_ridge_on_all_rows_is_the_closed_form(tmp_path: Path) -> None:
    """One penalty a, grams as they are: mean + K (K + N a 1)^-1 (mass - mean), K of the standardised features."""
    quadrats, _ = tiny_quadrats(tmp_path)
    inputs = inputs_for(tmp_path, quadrats, tmp_path / "cache")
    config = ProbeConfig(
        backbone="test_vit", size=32, transform="none", log10_alpha_low=-1.0, log10_alpha_high=0.0, alphas=1
    )
    result = fit_all_rows(probe.fit, config, quadrats, inputs, seed=0)
    feature_NF = probe.embeddings(config, [inputs.features(spec) for spec in probe.feature_specs(config)])
    x_NF = np.clip((feature_NF - feature_NF.mean(0)) / feature_NF.std(0), -5, 5) / np.sqrt(feature_NF.shape[1])
    mass_NT, rows = quadrats[list(TARGETS)].to_numpy(), len(quadrats)
    kernel_NN, mean_T = x_NF @ x_NF.T, mass_NT.mean(0)
    by_hand_NT = mean_T + kernel_NN @ np.linalg.solve(kernel_NN + rows * 0.1 * np.eye(rows), mass_NT - mean_T)
    pred_NT = probe.predict(config, result.tensors, inputs)
    np.testing.assert_allclose(pred_NT, np.clip(by_hand_NT, 0, 2 * mass_NT.max(0)), atol=1e-6)
    assert result.info["train_rows"] == rows


@pytest.mark.parametrize(
    ("rows", "epochs", "expected"),
    [
        ((80, 80, 80, 80, 80), 20, 15),  # 10 steps an epoch, 200 in all; 13 an epoch on 100 rows: 15.4
        ((80, 81), 20, 16),  # 10 and 11 steps an epoch: 210 in all, 16.2
        ((100,), 20, 20),
        ((10, 10), 1, 1),  # never none
    ],
)
def test_epochs_are_scaled_to_the_steps(rows: tuple[int, ...], epochs: int, expected: int) -> None:
    config = BaselineConfig(batch_size=8, epochs=epochs)
    found = config_for_all_rows(config, [TrainedFold(each, epochs) for each in rows], 100)
    assert found == BaselineConfig(batch_size=8, epochs=expected)


def test_the_epoch_that_folds_chose_is_the_last_one() -> None:
    config = DistilledConfig(batch_size=10, epochs=30, select_best_epoch=True)
    found = config_for_all_rows(config, [TrainedFold(80, 9), TrainedFold(80, 11)], 100)  # 72 and 88 steps, 10 an epoch
    assert found == DistilledConfig(batch_size=10, epochs=8)
    assert config_for_all_rows(ProbeConfig(), [TrainedFold(80, None)], 100) == ProbeConfig()
