"""What the student is scored by: coherent masses from five outputs, and every term of its loss by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from biomass_models.families.distilled import model as distilled
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.targets import CLOVER, GDM, GREEN, TOTAL, from_components, identity_gap
from biomass_models.training.losses import (
    distillation_losses,
    gdm_ratio_losses,
    green_ratio_losses,
    ratio_terms,
    total_losses,
)
from biomass_models.training.ratios import log_z, reconstruct
from biomass_models.training.scaling import TargetScaler

PLAIN = TargetScaler("log1p", np.zeros(5), np.ones(5), np.full(5, 1e3))  # z is log1p of grams


def masses(green: float, dead: float, clover: float) -> torch.Tensor:
    return torch.from_numpy(from_components(green, dead, clover)).float()[None]


def test_reconstruction_by_hand() -> None:
    output = torch.tensor([[np.log1p(10.0), np.log(0.8), np.log(0.2), np.log(0.25), np.log(0.75)]])
    np.testing.assert_allclose(reconstruct(output, PLAIN)[0], [2.0, 2.0, 6.0, 8.0, 10.0], rtol=1e-6)
    scaled = TargetScaler("log1p", np.full(5, 2.0), np.full(5, 0.5), np.full(5, 1e3))
    assert reconstruct(torch.tensor([[1.0, 0, 0, 0, 0]]), scaled)[0, TOTAL].item() == pytest.approx(np.expm1(2.5))
    assert reconstruct(torch.tensor([[-9.0, 0, 0, 0, 0]]), scaled)[0].tolist() == [0.0] * 5


@settings(deadline=None)
@given(
    output=hnp.arrays(np.float32, (6, 5), elements=st.floats(-60000, 60000, width=32)),
    kind=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_any_logits_give_coherent_masses(output: np.ndarray, kind: torch.dtype) -> None:
    scaler = TargetScaler.fit(from_components([9.0, 30], [0, 12], [4, 0]), "log1p")
    mass_NT = reconstruct(torch.from_numpy(output).to(kind), scaler).double().numpy()
    assert np.isfinite(mass_NT).all()
    assert (mass_NT >= 0).all()
    assert (mass_NT <= scaler.cap_T[TOTAL] * (1 + 1e-6)).all()
    assert identity_gap(mass_NT).max() <= 1e-5 * scaler.cap_T[TOTAL]


def test_total_loss_by_hand() -> None:
    output, mass = torch.tensor([[3.0, 0, 0, 0, 0]]), masses(np.expm1(1.0), 0, 0)  # two standard deviations apart
    assert total_losses(output, mass, PLAIN, delta=1.0).item() == pytest.approx(1.0 * (2 - 0.5))
    assert total_losses(output, mass, PLAIN, delta=3.0).item() == pytest.approx(0.5 * 2**2)


def test_ratio_losses_by_hand() -> None:
    even = torch.zeros(1, 5)
    apart = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert gdm_ratio_losses(even, masses(2, 1, 1)).item() == pytest.approx(apart)  # GDM 3 : dead 1
    assert green_ratio_losses(even, masses(3, 9, 1)).item() == pytest.approx(apart)
    right = torch.tensor([[0.0, np.log(3.0), 0, np.log(2.0), 0]])
    assert gdm_ratio_losses(right, masses(2, 1, 1)).item() == pytest.approx(0, abs=1e-7)
    assert green_ratio_losses(right, masses(2, 1, 1)).item() == pytest.approx(0, abs=1e-7)
    assert gdm_ratio_losses(even, masses(5, 0, 0)).item() == pytest.approx(np.log(2))  # a share of 0 adds nothing


def test_rows_without_a_ratio_give_no_loss_and_no_gradient() -> None:
    output = torch.randn(2, 5, requires_grad=True)
    mass = torch.cat([masses(0, 0, 0), masses(0, 7, 0)])
    loss = gdm_ratio_losses(output, mass) + green_ratio_losses(output, mass)
    assert loss[0].item() == 0.0
    loss.sum().backward()
    assert output.grad is not None and torch.isfinite(output.grad).all()
    assert output.grad[0].tolist() == [0.0] * 5
    assert output.grad[1, 3:].tolist() == [0.0] * 2  # green and clover are both 0, GDM : dead is not
    assert output.grad[1, 1:3].abs().min() > 0


def test_distillation_compares_the_same_quantities() -> None:
    output = torch.tensor([[np.log1p(10.0), np.log(0.8), np.log(0.2), np.log(0.25), np.log(0.75)]])
    same = reconstruct(output, PLAIN)
    assert distillation_losses(output, same, PLAIN, delta=1.0).item() == pytest.approx(0, abs=1e-12)
    more_dead = same + torch.tensor([[0, 5.0, 0, 0, 5.0]])
    apart = np.log1p(15.0) - np.log1p(10.0)  # the total alone: GDM, green and clover agree
    assert distillation_losses(output, more_dead, PLAIN, delta=1.0).item() == pytest.approx(0.5 * apart**2 / 4)
    assert log_z(same, PLAIN)[0].tolist() == pytest.approx(np.log1p([10.0, 8.0, 2.0, 6.0]).tolist())


def test_samples_are_weighed_before_the_mean_and_terms_switch_off() -> None:
    output, mass = torch.randn(3, 5), torch.cat([masses(4, 2, 1), masses(1, 1, 1), masses(0, 3, 0)])
    weight = torch.tensor([3.0, 0.0, 1.0])
    terms = ratio_terms(output, mass, weight, PLAIN, total=3.0, ratio=1.2, delta=1.0)
    assert terms["total"].item() == pytest.approx(
        3.0 * (weight * total_losses(output, mass, PLAIN, delta=1.0)).sum().item() / 3
    )
    assert terms["gdm_ratio"].item() == pytest.approx(1.2 * (weight * gdm_ratio_losses(output, mass)).sum().item() / 3)
    assert set(terms) == {"total", "gdm_ratio", "green_ratio"}
    assert set(ratio_terms(output, mass, weight, PLAIN, total=3.0, ratio=0.0, delta=1.0)) == {"total"}


def test_the_students_loss_by_hand() -> None:
    """Every term is weighed by sample before the mean, with the configuration's own weights and delta."""
    config = DistilledConfig(total_weight=2.0, ratio_weight=0.7, distillation_weight=1.5, huber_delta=0.1)
    output = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    mass, taught = torch.cat([masses(4, 2, 1), masses(1, 1, 1), masses(9, 3, 0)]), torch.cat([masses(2, 2, 2)] * 3)
    weight = torch.tensor([3.0, 0.0, 0.5])
    terms = distilled.student_terms(config, output, mass, weight, taught, PLAIN)

    def huber(apart: torch.Tensor) -> torch.Tensor:
        return torch.where(apart.abs() < 0.1, 0.5 * apart**2, 0.1 * (apart.abs() - 0.05))

    total = 2.0 * (weight * huber(output[:, 0] - torch.log1p(mass[:, TOTAL]))).sum() / 3
    columns = [TOTAL, GDM, GREEN, CLOVER]
    gap = torch.log1p(reconstruct(output, PLAIN)[:, columns]) - torch.log1p(taught[:, columns])
    assert terms["total"].item() == pytest.approx(total.item(), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx(
        (1.5 * (weight * huber(gap).mean(1)).sum() / 3).item(), rel=1e-4
    )
    assert terms["green_ratio"].item() == pytest.approx(
        (0.7 * (weight * green_ratio_losses(output, mass)).sum() / 3).item(), rel=1e-5
    )
    assert "distillation" not in distilled.student_terms(config, output, mass, weight, None, PLAIN)
