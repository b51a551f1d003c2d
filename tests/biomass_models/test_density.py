"""Densities of patches: the formula by hand, what the loss sees, and maps whose mean is the prediction."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_inputs import inputs_for, tiny_quadrats

from biomass_models.backbones.adapter import Backbone
from biomass_models.families.density import model as density
from biomass_models.families.density.config import DensityConfig
from biomass_models.families.density.network import (
    COMPONENTS,
    LEAST_MEAN,
    DensityNet,
    component_means,
    density_loss,
    five_masses,
)
from biomass_models.features.outputs import Grid
from biomass_models.targets import (
    CLOVER,
    DEAD,
    GDM,
    GREEN,
    TARGETS,
    TOTAL,
    from_components,
    identity_gap,
    weight_T,
    weights_of,
)
from biomass_models.training.maps import FINEST, MASS_MAP_COLUMNS, mass_maps
from biomass_models.training.sources import ViewTokens

CONFIG = DensityConfig(
    backbone="test_vit", size=64, epochs=3, batch_size=8, head_width=16, head_width_2=8, flips=2, dropout=0.0
)
TRAINED = replace(CONFIG, trained_blocks=1, flips=1)
MEAN_C = np.array([20.0, 8.0, 2.0])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("photographs")
    quadrats, fold_N = tiny_quadrats(folder)
    return inputs_for(folder, quadrats, tmp_path_factory.mktemp("cache")), quadrats, fold_N


def net_for(config: DensityConfig = CONFIG, backbone: Backbone | None = None, width: int = 6) -> DensityNet:
    torch.manual_seed(0)
    return DensityNet(config, backbone, patch_width=width, mean_C=MEAN_C).eval()


def tokens(width: int = 6, scale: float = 1.0) -> ViewTokens:
    draw = np.random.default_rng(0).normal(size=(4, 2, 9, width)) * scale
    return ViewTokens(torch.zeros(4, 2, width), torch.from_numpy(draw).float())


def masses_by_hand(net: DensityNet, patch_BVPD: torch.Tensor) -> np.ndarray:
    z = net.head(patch_BVPD).detach().double().numpy()
    return (np.log1p(np.exp(z)) / math.log(2) * MEAN_C).mean((1, 2))


def test_a_mass_is_the_mean_of_the_densities_of_all_tokens() -> None:
    net, part = net_for(), tokens()
    output = net((part,))
    np.testing.assert_allclose(output.mass_BC.detach().numpy(), masses_by_hand(net, part.patch_BVPD), rtol=1e-5)
    assert output.density_BVPC.shape == (4, 2, 9, 3)
    # of one patch everywhere the mean is its own density, and z = 0 is the training rows' mean
    with torch.no_grad():
        for parameter in net.head[-1].parameters():
            parameter.zero_()
    assert torch.allclose(net((part,)).mass_BC, torch.tensor(MEAN_C).float().expand(4, 3))


def test_the_nonlinearity_is_of_a_token_and_not_of_their_mean() -> None:
    net, part = net_for(), tokens(scale=5.0)
    alike = part._replace(patch_BVPD=part.patch_BVPD.mean((1, 2), keepdim=True).expand(-1, 2, 9, -1))
    assert (net((part,)).mass_BC - net((alike,)).mass_BC).abs().max() > 0.1
    order = torch.randperm(9)
    torch.testing.assert_close(net((part._replace(patch_BVPD=part.patch_BVPD[:, :, order]),)).mass_BC,
                               net((part,)).mass_BC)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_masses_are_coherent_and_not_negative_in_half_precision(dtype: torch.dtype, scale: float) -> None:
    net = net_for()
    net.head.to(dtype)
    part = tokens(scale=scale)
    output = net((part._replace(patch_BVPD=part.patch_BVPD.to(dtype)),))
    assert output.mass_BC.dtype == torch.float32 and output.density_BVPC.isfinite().all()
    mass_NT = five_masses(output.mass_BC.double()).detach().numpy()
    assert (mass_NT >= 0).all() and identity_gap(mass_NT).max() < 1e-9
    whole = net_for()((part,)).mass_BC
    torch.testing.assert_close(output.mass_BC, whole, rtol=0.1, atol=0.5)


def test_the_loss_is_by_hand() -> None:
    """beta 5: an error of 3 g costs .9, one of 10 g costs 7.5; PyTorch's Huber loss would cost five times that."""
    mass_BC = torch.tensor([[3.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    goal_BT = torch.zeros(2, 5)
    # green, GDM and total are off; of weights .1, .2 and .5
    expected = 0.8 * (0.9 + 7.5) / 2
    loss = density_loss(mass_BC, goal_BT, torch.tensor(weight_T).float(), beta=5.0)
    assert float(loss) == pytest.approx(expected)
    partly = goal_BT.clone()
    partly[1, [GREEN, GDM]] = float("nan")
    weight = torch.from_numpy(weights_of(partly.numpy().astype(float))).float()
    assert float(density_loss(mass_BC, partly, weight, beta=5.0)) == pytest.approx((0.8 * 0.9 + 0.5 * 7.5) / 2)


def test_an_unmeasured_cell_reaches_neither_loss_nor_gradient() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.5]]).expand(4, 5)
    found = set()
    for value in (float("nan"), 0.0, 1e9):
        net, goal_BT = net_for(), torch.full((4, 5), value)
        goal_BT[:, TOTAL] = 40.0
        density_loss(net((tokens(),)).mass_BC, goal_BT, weight, beta=5.0).backward()
        found.add(b"".join(p.grad.numpy().tobytes() for p in net.parameters() if p.grad is not None))
    assert len(found) == 1


def test_means_of_the_components_follow_from_what_was_measured() -> None:
    component = np.random.default_rng(0).gamma(2.0, 8.0, (30, 3))
    mass_NT = from_components(*component.T)
    mean_C = component.mean(0)

    def means(*measured: int) -> np.ndarray:
        part_NT = np.where(np.isin(np.arange(5), measured), mass_NT, np.nan)
        return component_means(part_NT, weights_of(part_NT))

    order = [COMPONENTS.index(target) for target in (GREEN, DEAD, CLOVER)]
    np.testing.assert_allclose(component_means(mass_NT, weight_T)[order], mean_C)
    np.testing.assert_allclose(means(GREEN, DEAD, CLOVER, GDM, TOTAL)[order], mean_C)
    np.testing.assert_allclose(means(TOTAL), mean_C.sum() / 3)
    gdm = mean_C[0] + mean_C[2]
    np.testing.assert_allclose(means(GDM, TOTAL)[order], [gdm / 2, mean_C[1], gdm / 2])
    rest = mean_C[0] + mean_C[1]
    np.testing.assert_allclose(means(CLOVER, TOTAL)[order], [rest / 2, rest / 2, mean_C[2]])
    assert (component_means(np.zeros((3, 5)), weight_T) == LEAST_MEAN).all()
    weight = np.tile(weight_T, (30, 1))
    weight[:10] /= 2  # photographs of quadrats that have two
    by_hand = np.average(component, axis=0, weights=np.r_[np.full(10, 0.5), np.ones(20)])
    np.testing.assert_allclose(component_means(mass_NT, weight)[order], by_hand)


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, TRAINED], ids=["frozen", "trained"])
def test_the_gradient_reaches_every_trained_tensor(config: DensityConfig, world: Any) -> None:
    backbone = None
    part: Any = tokens(64)
    if config.trained_blocks:
        backbone = world[0].backbone("test_vit")
        backbone.train_last(config.trained_blocks)
        part = torch.rand(2, 2, 3, 64, 64)
    net = net_for(config, backbone, width=64).train()
    density_loss(net((part,)).mass_BC, torch.full((len(net((part,)).mass_BC), 5), 30.0), torch.tensor(weight_T).float(),
                 beta=5.0).backward()  # fmt: skip
    reached = {name for name, one in net.named_parameters() if one.grad is not None and (one.grad != 0).any()}
    trained = {name for name, one in net.named_parameters() if one.requires_grad}
    assert trained and reached == trained


@pytest.mark.slow
def test_tokens_are_cached_on_a_grid_in_half_the_room(world: Any) -> None:
    (spec,) = density.feature_specs(replace(CONFIG, size=128))
    bank = world[0].features(spec)
    assert bank.arrays["turn1.layer0.grid-8"].dtype == np.float16
    assert bank.stack(Grid(8)).shape == (20, 2, 2, 64, 64)  # images, turns, halves, 8 x 8 tokens, features
    whole = replace(spec, dtype="float32")
    assert spec.gigabytes(100) == pytest.approx(whole.gigabytes(100) / 2)
    numbers = 100 * 2 * 2 * (64 + 6) * 64  # the grid, and the six statistics that come with any pass
    assert spec.gigabytes(100) == pytest.approx(2 * numbers / 2**30)


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, TRAINED], ids=["frozen", "trained"])
def test_the_mean_of_a_map_is_the_prediction(config: DensityConfig, world: Any) -> None:
    inputs, quadrats, fold_N = world
    result = density.fit(config, quadrats, fold_N, 0, inputs, seed=0)
    assert result.maps is not None and tuple(result.maps.columns) == MASS_MAP_COLUMNS
    for place, image_id in enumerate(quadrats["image_id"].iloc[result.row_N]):
        own = result.maps[result.maps["image_id"] == image_id]
        assert sorted(set(own["view"])) == ["left", "right"]
        for target in COMPONENTS:
            of_mass = own[own["mass"] == TARGETS[target]]
            mean = np.mean([look.mean() for look in of_mass["look"]])
            assert mean == pytest.approx(result.pred_NT[place, target], rel=1e-4)


def test_fine_maps_are_stored_coarse_and_keep_their_mean() -> None:
    views = density.views(CONFIG)
    density_NVHWC = torch.rand(2, 2, 2 * FINEST, 2 * FINEST, 3)
    table = mass_maps(["a", "b"], views, density_NVHWC, [TARGETS[target] for target in COMPONENTS])
    assert len(table) == 2 * 2 * 3 and set(table["rows"]) == {FINEST} == set(table["columns"])
    one = table[(table["image_id"] == "b") & (table["view"] == "right") & (table["mass"] == TARGETS[CLOVER])].iloc[0]
    assert one["look"].mean() == pytest.approx(
        float(density_NVHWC[1, 1, ..., COMPONENTS.index(CLOVER)].mean()), rel=1e-5
    )


@pytest.mark.slow
def test_a_total_alone_is_learned_through_the_identity(tmp_path: Path) -> None:
    """Brighter photographs weigh more; no component was measured, and the total follows."""
    quadrats, fold_N = tiny_quadrats(tmp_path, images=40)
    table = quadrats.assign(**{name: np.nan for name in TARGETS if name != TARGETS[TOTAL]})
    inputs = inputs_for(tmp_path, quadrats, tmp_path / "cache")
    config = replace(CONFIG, epochs=80, head_lr=1e-2)
    result = density.fit(config, table, fold_N, 0, inputs, seed=0)
    assert result.epochs[-1]["loss"] < 0.6 * result.epochs[0]["loss"]
    mass_NT = result.pred_NT
    assert identity_gap(mass_NT).max() < 1e-6 and (mass_NT >= 0).all()
