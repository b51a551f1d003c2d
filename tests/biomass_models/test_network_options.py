"""Options of the networks: formulas by hand, gradients, and what they leave as it was."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_inputs import inputs_for, tiny_quadrats

from biomass_models.families import registry
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.baseline.model import BaselineNet, head_of
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.targets import DEAD, GDM, TOTAL, from_components, identity_gap, weight_T
from biomass_models.training.auxiliary import Auxiliary
from biomass_models.training.fit import FoldRows
from biomass_models.training.intervals import bin_counts, interval_losses, quantile_edges
from biomass_models.training.losses import gdm_ratio_losses
from biomass_models.training.mixup import BatchRows, Mixture, Mixup
from biomass_models.training.sources import Prefix, ViewTokens

NAN = float("nan")
HEAD = BaselineConfig(
    backbone="test_vit", size=64, trained_blocks=0, epochs=3, batch_size=8, head_lr=1e-3, head_width=32,
    head_width_2=16, flips=2,
)  # fmt: skip
STUDENT = DistilledConfig(
    backbone="test_vit", size=64, layout="none", trained_blocks=0, grid=2, epochs=3, batch_size=8, head_width=32,
    head_width_2=16, teacher_epochs=10, flips=2,
)  # fmt: skip
OFF = {"baseline": HEAD, "distilled": STUDENT}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("photographs")
    quadrats, fold_N = tiny_quadrats(folder)
    return inputs_for(folder, quadrats, tmp_path_factory.mktemp("cache")), quadrats, fold_N, folder


# -- interval heads ----------------------------------------------------------------------------------------------------


def test_edges_are_quantiles_and_equal_ones_are_one() -> None:
    mass_MT = np.full((8, 5), NAN)
    mass_MT[:, 0] = np.arange(8)  # quantiles 1/7, 2/7, ... of 0 .. 7 are 1, 2, ...
    mass_MT[:, 1] = [0, 0, 0, 0, 0, 1, 2, 7]
    mass_MT[:4, 2] = [NAN, 5, 5, 5]  # does not vary
    mass_MT[:4, 3] = [3, NAN, 1, 2]
    edge_T = quantile_edges(mass_MT, 7)
    assert edge_T[0] == pytest.approx((1, 2, 3, 4, 5, 6))
    assert edge_T[1] == pytest.approx((0, 1, 2))  # four quantiles are 0
    assert edge_T[2] == edge_T[4] == ()
    assert quantile_edges(mass_MT, 2)[3] == pytest.approx((2,))
    assert bin_counts(edge_T)[:2] == (7, 4) and len(bin_counts(edge_T)) == 3


@settings(deadline=None)
@given(hnp.arrays(np.float64, (15, 5), elements=st.sampled_from([0.0, 1.0, 2.5, 30.0, NAN])), st.integers(2, 9))
def test_every_bin_holds_training_rows(mass_MT: np.ndarray, bins: int) -> None:
    for edges, mass_M in zip(quantile_edges(mass_MT, bins), mass_MT.T, strict=True):
        known = mass_M[~np.isnan(mass_M)]
        assert edges == tuple(sorted(set(edges))) and len(edges) < bins
        if edges:
            assert set(np.searchsorted(edges, known)) == set(range(len(edges) + 1))
        else:
            assert len(known) == 0 or (known < known.max()).sum() < len(known) / bins  # nearly all are as heavy


def test_interval_loss_by_hand() -> None:
    edge_T = ((1.0, 2.0), (), (5.0,), (), ())
    logit_BK = torch.tensor([[0.0, math.log(2), 0, 0, math.log(3)], [0, 0, 0, 9, 9]], requires_grad=True)
    mass_BT = torch.tensor([[1.5, 7, 9, 7, 7], [2.5, 7, NAN, 7, 7]])  # bins 1 of 3 and 1 of 2; bin 2 of 3
    loss_B = interval_losses(logit_BK, mass_BT, edge_T, torch.tensor(weight_T).float())
    assert loss_B[0].item() == pytest.approx(0.1 * math.log(2) + 0.1 * math.log(4 / 3))
    assert loss_B[1].item() == pytest.approx(0.1 * math.log(3))
    loss_B.sum().backward()
    assert logit_BK.grad is not None and logit_BK.grad[1, 3:].tolist() == [0, 0]  # not measured
    on_edge = interval_losses(logit_BK[:1], torch.tensor([[1.0, 7, 5, 7, 7]]), edge_T, torch.ones(5))
    assert on_edge.item() == pytest.approx(math.log(4) + math.log(4))  # an edge belongs to the bin below it


# -- mixup -------------------------------------------------------------------------------------------------------------

HALF_AND_QUARTER = Mixture(torch.tensor([0.5, 0.25], dtype=torch.float64), torch.tensor([1, 0]))


def test_inputs_are_mixed_by_hand_whatever_their_form() -> None:
    one = torch.tensor([[4.0, 0], [0, 8]])
    mixed = torch.tensor([[2.0, 4], [3, 2]])
    assert torch.equal(HALF_AND_QUARTER.of_inputs(one), mixed)
    tokens = HALF_AND_QUARTER.of_inputs((ViewTokens(one[:, None], one[:, None, :, None]),))[0]
    assert torch.equal(tokens.global_BVD, mixed[:, None]) and torch.equal(tokens.patch_BVPD, mixed[:, None, :, None])
    (prefix,) = HALF_AND_QUARTER.of_inputs((Prefix(one[:, None], (64, 32)),))
    assert torch.equal(prefix.value_BV, mixed[:, None]) and prefix.size == (64, 32)


def test_a_mixed_mass_is_measured_where_both_are() -> None:
    mass_MT = torch.tensor([[4.0, 1, 0, 4, 5], [9, 9, 9, 9, 9], [0, NAN, 2, 2, NAN]])
    rows = BatchRows(torch.tensor([0, 2]), HALF_AND_QUARTER)
    expected = torch.tensor([[2.0, NAN, 1, 3, NAN], [3, NAN, 0.5, 3.5, NAN]])
    torch.testing.assert_close(rows.of(mass_MT), expected, equal_nan=True)
    weight_M5 = torch.where(mass_MT.isnan(), 0.0, torch.tensor([0.1, 0.1, 0.1, 0.2, 0.5]))
    assert rows.weights(weight_M5)[:, [1, 4]].eq(0).all()
    torch.testing.assert_close(rows.weights(weight_M5)[:, 0], torch.tensor([0.1, 0.1]))
    assert rows.weights(weight_M5[0]) is not None and torch.equal(rows.weights(weight_M5[0]), weight_M5[0])
    assert torch.equal(BatchRows(torch.tensor([1])).of(mass_MT), mass_MT[1:2])


@settings(deadline=None)
@given(st.integers(1, 9), st.floats(0.1, 3), st.integers(0, 99))
def test_mixtures_are_coherent_and_ratios_are_those_of_the_mixture(rows: int, alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mass_MT = torch.from_numpy(from_components(*rng.gamma(1.0, 20.0, (3, rows))))
    mixture = Mixup(alpha, seed).draw(rows)
    assert mixture is not None and sorted(mixture.partner_B.tolist()) == list(range(rows))
    assert ((mixture.share_B >= 0) & (mixture.share_B <= 1)).all()
    mixed_BT = BatchRows(torch.arange(rows), mixture).of(mass_MT)
    assert identity_gap(mixed_BT.numpy()).max() < 1e-10
    truth = (mixed_BT[:, [GDM, DEAD]] / mixed_BT[:, [TOTAL]]).log()
    output_BT = torch.zeros(rows, 5, dtype=torch.float64)
    output_BT[:, 1:3] = truth
    assert gdm_ratio_losses(output_BT, mixed_BT).abs().max() < 1e-5
    assert Mixup(0.0, seed).draw(rows) is None


# -- every option ------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "intervals": {"interval_bins": 7, "interval_weight": 0.3},
    "mixup": {"mixup_alpha": 0.4},
}


@pytest.fixture(params=[f"{family} with {option}" for family in OFF for option in OPTIONS])
def case(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    """A family's name, its configuration without and with an option."""
    family, _, option = request.param.partition(" with ")
    return family, OFF[family], replace(OFF[family], **OPTIONS[option])


def test_an_option_moves_the_numbers_and_is_fitted_alone(case: tuple[str, Any, Any], world: Any) -> None:
    """It begins with the weights that the network has without it."""
    family, off, on = case
    inputs, quadrats, fold_N, _ = world
    model = registry.model(family)
    without, with_it = (model.fit(config, quadrats, fold_N, 0, inputs, seed=0) for config in (off, on))
    assert without.pred_NT.tobytes() != with_it.pred_NT.tobytes()
    assert not registry.family(family).batches_folds(on)
    first = [model.fit(replace(c, epochs=1, head_lr=1e-9, min_lr=0.0), quadrats, fold_N, 0, inputs, seed=0)
             for c in (off, on)]  # fmt: skip
    for name, tensor in first[0].tensors.items():
        torch.testing.assert_close(first[1].tensors[name], tensor, atol=1e-6, rtol=1e-6)


def test_interval_heads_are_thrown_away(world: Any) -> None:
    inputs, quadrats, fold_N, _ = world
    for family, off in OFF.items():
        model, on = registry.model(family), replace(off, interval_bins=7)
        results = [model.fit(config, quadrats, fold_N, 0, inputs, seed=0) for config in (off, on)]
        assert set(results[0].tensors) == set(results[1].tensors)
        assert "loss/intervals" in results[1].epochs[0]


def test_gradient_of_the_heads_reaches_what_lies_before_them(world: Any) -> None:
    """Both, and nothing else: the last layer of the regression learns from the masses alone."""
    quadrats = world[1]
    config = replace(HEAD, interval_bins=7)
    rows = FoldRows.of(quadrats, world[2], 0, np.arange(len(quadrats)))
    auxiliary = Auxiliary.of(config, rows, torch.ones(len(rows.train_M)))
    assert auxiliary is not None
    net = BaselineNet(None, head_of(config, 12))
    net.learn_beside(auxiliary)
    terms = auxiliary.terms(net.observed(torch.randn(6, 12)), BatchRows(torch.arange(6)))
    torch.stack(list(terms.values())).sum().backward()
    reached = {name for name, tensor in net.named_parameters() if tensor.grad is not None and tensor.grad.abs().sum()}
    assert reached == {name for name, _ in net.named_parameters()} - {"head.6.weight", "head.6.bias"}
