"""Masses that were not measured: nothing that is fitted looks at what stands in their cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import linear_model
from tiny_inputs import inputs_for, tiny_quadrats

from biomass_models.config_rules import TRANSFORMS
from biomass_models.data.cell_weights import WEIGHT_COLUMNS, cell_weights, measured_alike, measured_masses, row_weights
from biomass_models.families import registry
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.density.config import DensityConfig
from biomass_models.families.distilled.config import DistilledConfig, learned_targets, learns
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.families.stack.config import StackConfig
from biomass_models.ridge.chosen import inner_errors
from biomass_models.ridge.solve import Ridge, ridge_path, standardiser
from biomass_models.targets import CLOVER, DEAD, GDM, GREEN, TARGETS, TOTAL, from_components, weight_T
from biomass_models.training.fit import FoldResult
from biomass_models.training.losses import (
    distillation_losses,
    gdm_ratio_losses,
    green_ratio_losses,
    ratio_terms,
    total_losses,
    weighted_mse_loss,
)
from biomass_models.training.ratios import reconstruct
from biomass_models.training.scaling import SMALLEST_SD, TargetScaler

NAN = float("nan")
IN_UNMEASURED = (NAN, 0.0, 1e9)  # what may stand in a cell that was not measured
PLAIN = TargetScaler("log1p", np.zeros(5), np.ones(5), np.full(5, 1e3))  # z is log1p of grams


def measured_in(rows: int, *targets: int) -> np.ndarray:
    """[rows, 5]: these targets in every row."""
    return np.tile(np.isin(np.arange(5), targets), (rows, 1))


def mixed(rows: int) -> np.ndarray:
    """All five in two rows of three, the total alone in the third."""
    return np.where((np.arange(rows) % 3 == 0)[:, None], measured_in(rows, TOTAL), True)


def with_unmeasured(quadrats: pd.DataFrame, measured_NT: np.ndarray, value: float) -> pd.DataFrame:
    """The table with `value` in the cells that were not measured, which its weights say."""
    table = quadrats.copy()
    table[list(TARGETS)] = np.where(measured_NT, table[list(TARGETS)].to_numpy(), value)
    if not np.isnan(value):
        table[list(WEIGHT_COLUMNS)] = np.where(measured_NT, weight_T, 0.0)
    return table


# -- tables ------------------------------------------------------------------------------------------------------------


def test_weights_of_rows_and_sets_of_targets_by_hand() -> None:
    table = pd.DataFrame([[1, 2, NAN, NAN, 3], [4, 5, 6, NAN, 7], [8, 9, 1, NAN, 2]], columns=list(TARGETS))
    weight = np.array([[1, 1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5, 0.5], [0.25] * 5]) * weight_T
    table[list(WEIGHT_COLUMNS)] = weight
    mass_NT, cells = measured_masses(table)
    np.testing.assert_array_equal(cells, np.where(np.isnan(mass_NT), 0.0, weight))
    assert row_weights(cells, 3).tolist() == [1.0, 0.5, 0.25]
    assert row_weights(weight_T, 3).tolist() == [1.0, 1.0, 1.0]
    found = {tuple(columns): rows.tolist() for columns, rows in measured_alike(mass_NT)}
    assert found == {(GREEN, DEAD, TOTAL): [0, 1, 2], (CLOVER,): [1, 2]}


def test_what_stands_in_an_unmeasured_cell_is_not_read() -> None:
    quadrats = pd.DataFrame(from_components([1.0, 2], [3, 4], [5, 6]), columns=list(TARGETS))
    seen = [measured_masses(with_unmeasured(quadrats, mixed(2), value)) for value in IN_UNMEASURED]
    assert len({(mass.tobytes(), weight.tobytes()) for mass, weight in seen}) == 1
    assert cell_weights(quadrats) is weight_T and measured_masses(quadrats)[0].tolist() == quadrats.values.tolist()


# -- scaling -----------------------------------------------------------------------------------------------------------


@given(
    mass_NT=hnp.arrays(np.float64, (7, 5), elements=st.floats(0, 300)),
    measured_NT=hnp.arrays(np.bool_, (7, 5)),
    transform=st.sampled_from(TRANSFORMS),
)
def test_each_target_is_scaled_by_its_measured_cells(
    mass_NT: np.ndarray, measured_NT: np.ndarray, transform: str
) -> None:
    scaler = TargetScaler.fit(np.where(measured_NT, mass_NT, NAN), transform)
    for target, rows in enumerate(measured_NT.T):
        own = mass_NT[rows] if rows.any() else np.zeros((2, 5))
        alone = TargetScaler.fit(own, transform)
        for part in ("mean_T", "sd_T", "cap_T"):
            assert getattr(scaler, part)[target] == pytest.approx(getattr(alone, part)[target], rel=1e-9, abs=1e-9)
    assert np.isfinite(scaler.grams(np.full((1, 5), 99.0))).all()


def test_a_target_that_was_never_measured_is_scaled_as_one_that_is_always_0() -> None:
    scaler = TargetScaler.fit(np.array([[NAN, 2, NAN, NAN, 7], [NAN, 4, NAN, NAN, 9.0]]), "none")
    assert scaler.mean_T.tolist() == [0, 3, 0, 0, 8] and scaler.cap_T.tolist() == [1, 8, 1, 1, 18]
    assert scaler.sd_T.tolist() == [SMALLEST_SD, 1, SMALLEST_SD, SMALLEST_SD, 1]


# -- losses ------------------------------------------------------------------------------------------------------------


def bytes_of(loss_of: Callable[[torch.Tensor], torch.Tensor], output_BT: torch.Tensor) -> bytes:
    """Of a loss and its gradient, which must be finite."""
    leaf = output_BT.clone().requires_grad_()
    loss = loss_of(leaf)
    loss.backward()
    assert leaf.grad is not None and torch.isfinite(loss) and torch.isfinite(leaf.grad).all()
    return loss.detach().numpy().tobytes() + leaf.grad.numpy().tobytes()


@settings(deadline=None)
@given(
    output_BT=hnp.arrays(np.float32, (4, 5), elements=st.floats(-30, 30, width=32)),
    measured_BT=hnp.arrays(np.bool_, (4, 5)),
)
def test_an_unmeasured_goal_changes_no_byte_of_loss_and_gradient(
    output_BT: np.ndarray, measured_BT: np.ndarray
) -> None:
    output, weight = torch.from_numpy(output_BT), torch.from_numpy(np.where(measured_BT, weight_T, 0.0)).float()
    goals = [torch.where(weight > 0, 0.5, value) for value in IN_UNMEASURED]
    assert len({bytes_of(lambda leaf, goal=goal: weighted_mse_loss(leaf, goal, weight), output) for goal in goals}) == 1
    apart = np.where(measured_BT, (output_BT.astype(np.float64) - 0.5) ** 2 * weight_T, 0.0).sum(1).mean()
    assert weighted_mse_loss(output, goals[0], weight).item() == pytest.approx(apart, rel=1e-5, abs=1e-6)


def test_cells_that_all_count_as_published_give_the_published_loss() -> None:
    output, goal = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.ones(6, 5)
    weight = torch.from_numpy(weight_T).float()
    published = weighted_mse_loss(output, goal)
    assert weighted_mse_loss(output, goal, weight).item() == published.item()
    assert weighted_mse_loss(output, goal, weight.expand(6, 5)).item() == pytest.approx(published.item(), rel=1e-6)


def test_terms_of_rows_without_a_mass_are_0_and_the_others_are_what_they_were() -> None:
    output = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    full = torch.from_numpy(from_components([4.0, 1, 3, 2], [2.0, 5, 0, 1], [1.0, 1, 2, 0])).float()
    part = full.clone()
    part[0, [GREEN, CLOVER]] = NAN  # GDM, dead and total
    part[1, [GREEN, DEAD, GDM]] = NAN  # total and clover
    part[2, [GREEN, DEAD, CLOVER, GDM, TOTAL]] = NAN
    whole = (
        total_losses(output, full, PLAIN, delta=1.0),
        gdm_ratio_losses(output, full),
        green_ratio_losses(output, full),
    )
    masked = (
        total_losses(output, part, PLAIN, delta=1.0),
        gdm_ratio_losses(output, part),
        green_ratio_losses(output, part),
    )
    for one, other, kept in zip(whole, masked, ([1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]), strict=True):
        assert torch.equal(other, one * torch.tensor(kept))

    def loss(leaf: torch.Tensor) -> torch.Tensor:
        terms = ratio_terms(leaf, part, torch.ones(4), PLAIN, total=3.0, ratio=1.2, delta=1.0)
        return torch.stack(list(terms.values())).sum()

    leaf = output.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    assert (leaf.grad != 0).tolist() == [
        [True, True, True, False, False], [True, False, False, False, False], [False] * 5, [True] * 5
    ]  # fmt: skip


def test_what_a_teacher_does_not_know_is_not_distilled() -> None:
    output = torch.tensor([[np.log1p(10.0), np.log(0.8), np.log(0.2), np.log(0.25), np.log(0.75)]])
    taught = reconstruct(output, PLAIN) + torch.tensor([[0, 5.0, 0, 0, 5.0]])
    apart = 0.5 * (np.log1p(15.0) - np.log1p(10.0)) ** 2
    taught[0, [GREEN, CLOVER]] = NAN
    assert distillation_losses(output, taught, PLAIN, delta=1.0).item() == pytest.approx(apart / 4)
    unmeasured = TargetScaler.fit(np.array([[NAN, NAN, NAN, NAN, 1.0], [NAN, NAN, NAN, NAN, 20]]), "log1p")
    total_alone = distillation_losses(output, taught, unmeasured, delta=1e3).item()
    student, teacher = (reconstruct(output, unmeasured)[0, TOTAL].item(), 15.0)
    assert total_alone == pytest.approx(0.5 * ((np.log1p(teacher) - np.log1p(student)) / unmeasured.sd_T[TOTAL]) ** 2)


# -- ridge -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 7), (14, 50)])
def test_each_target_is_a_ridge_of_the_rows_in_which_it_was_measured(shape: tuple[int, int]) -> None:
    """Oracle: scikit-learn with sample weights, on those rows alone."""
    rng = np.random.default_rng(0)
    feature_NF, goal_NT, new_MF = rng.normal(size=shape), rng.normal(size=(shape[0], 5)), rng.normal(size=(4, shape[1]))
    weight_N, alpha_A = rng.uniform(0.3, 1.0, shape[0]), np.array([1e-3, 0.2])
    measured_NT = np.where(np.isin(np.arange(5), (GREEN, CLOVER)), rng.random(shape)[:, :1] < 0.6, True)
    measured_NT[:, GDM] = False
    goal_NT = np.where(measured_NT, goal_NT, NAN)
    mean_F, scale_F = standardiser(feature_NF)
    path_AMT = ridge_path(feature_NF, goal_NT, new_MF, alpha_A, weight_N)
    for alpha, pred_MT in zip(alpha_A, path_AMT, strict=True):
        np.testing.assert_allclose(Ridge.fit(feature_NF, goal_NT, np.full(5, alpha), weight_N).predict(new_MF), pred_MT)
        assert pred_MT[:, GDM].tolist() == [0.0] * 4
        for target in (GREEN, DEAD, CLOVER, TOTAL):
            rows = measured_NT[:, target]
            oracle = linear_model.Ridge(alpha=alpha * weight_N[rows].sum()).fit(
                (feature_NF[rows] - mean_F) * scale_F, goal_NT[rows, target], sample_weight=weight_N[rows]
            )
            np.testing.assert_allclose(pred_MT[:, target], oracle.predict((new_MF - mean_F) * scale_F), atol=1e-8)


def test_inner_errors_are_those_of_measured_cells() -> None:
    rng = np.random.default_rng(3)
    feature_NF, mass_NT = rng.normal(size=(60, 6)), rng.gamma(2, 5, (60, 5))
    group_N = np.repeat([f"d{k}" for k in range(6)], 10).astype(object)
    whole_AT = inner_errors(ProbeConfig(), feature_NF, mass_NT, group_N, seed=0)
    part_NT, weight = np.where(measured_in(60, TOTAL, DEAD), mass_NT, NAN), measured_in(60, TOTAL, DEAD) * weight_T
    part_AT = inner_errors(ProbeConfig(), feature_NF, part_NT, group_N, seed=0, weight=weight)
    np.testing.assert_allclose(part_AT[:, [TOTAL, DEAD]], whole_AT[:, [TOTAL, DEAD]], rtol=1e-8)
    assert (part_AT[:, [GREEN, CLOVER, GDM]] == 0).all()


# -- families ----------------------------------------------------------------------------------------------------------

HEAD = BaselineConfig(
    backbone="test_vit", size=64, trained_blocks=0, head_lr=3e-3, epochs=3, head_width=32, head_width_2=16, flips=2
)
STUDENT = DistilledConfig(
    backbone="test_convnext", size=64, layout="halves", local_size=32, trained_blocks=0, grid=2, epochs=2, batch_size=8,
    head_width=32, head_width_2=16, teacher_epochs=20, flips=2,
)  # fmt: skip
DENSITY = DensityConfig(
    backbone="test_vit", size=64, epochs=3, batch_size=8, head_width=16, head_width_2=8, flips=2, head_lr=1e-2
)
TOTAL_ALONE, TOTAL_CLOVER, WITHOUT_COMPONENTS = (TOTAL,), (TOTAL, CLOVER), (DEAD, GDM, TOTAL)
CASES = {
    "probe": ("probe", ProbeConfig(backbone="test_convnext", size=64, alpha_per_target=True, alphas=5)),
    "shared penalty": ("probe", ProbeConfig(backbone="test_vit", size=64, transform="none", alphas=5)),
    "stack": ("stack", StackConfig(backbone="test_vit", size=32, taps="1", choose_penalty=True, penalties=3)),
    "stack of kernels": ("stack", StackConfig(backbone="test_vit", size=32, taps="1", regressor="kernel")),
    "stack of SVRs": ("stack", StackConfig(backbone="test_vit", size=32, taps="1", regressor="svr", goals="log1p")),
    "stack of trees": ("stack", StackConfig(backbone="test_vit", size=32, taps="1", regressor="trees", trees=5)),
    "frozen baseline": ("baseline", HEAD),
    "trained baseline": ("baseline", replace(HEAD, backbone="test_efficientnet", trained_blocks=1, epochs=1)),
    "densities": ("density", DENSITY),
    "trained densities": ("density", replace(DENSITY, backbone="test_vit2", size=32, trained_blocks=1, epochs=1)),
    "frozen student": ("distilled", STUDENT),
    "trained student": ("distilled", replace(STUDENT, backbone="test_vit2", trained_blocks=1, grid=0, epochs=1)),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("photographs")
    quadrats, fold_N = tiny_quadrats(folder, images=36)
    return inputs_for(folder, quadrats, tmp_path_factory.mktemp("cache")), quadrats, fold_N


def bytes_of_fit(result: FoldResult) -> bytes:
    numbers = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in result.epochs]
    tensors = b"".join(result.tensors[name].numpy().tobytes() for name in sorted(result.tensors))
    return result.pred_NT.tobytes() + tensors + repr(numbers).encode()


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["total alone", "total and more", "mixed"])
@pytest.mark.parametrize("name", CASES)
def test_no_fit_looks_at_unmeasured_cells(name: str, pattern: str, world: Any) -> None:
    inputs, quadrats, fold_N = world
    family, config = CASES[name]
    more = WITHOUT_COMPONENTS if family == "distilled" else TOTAL_CLOVER
    rows = len(quadrats)
    patterns = {"total alone": measured_in(rows, TOTAL), "total and more": measured_in(rows, *more)}
    measured_NT = patterns.get(pattern, mixed(rows))
    assert registry.family(family).learns(measured_NT[fold_N != 0]) is None
    tables = [with_unmeasured(quadrats, measured_NT, value) for value in IN_UNMEASURED]
    results = [registry.model(family).fit(config, table, fold_N, 0, inputs, seed=1) for table in tables]
    assert len({bytes_of_fit(result) for result in results}) == 1
    pred_NT = results[0].pred_NT
    assert np.isfinite(pred_NT[:, measured_NT.any(0)]).all() and (pred_NT[:, measured_NT.any(0)] >= 0).all()
    assert np.isfinite(results[0].epochs[-1]["score"])
    changed = tables[0].assign(Dry_Total_g=tables[0]["Dry_Total_g"] * np.where(fold_N == 1, 3.0, 1.0))
    other = registry.model(family).fit(config, changed, fold_N, 0, inputs, seed=1)
    assert np.abs(other.pred_NT - pred_NT)[:, TOTAL].max() > 1e-3  # what was measured does matter
    again = registry.model(family).predict(config, results[0].tensors, inputs)[results[0].row_N]
    np.testing.assert_allclose(again, pred_NT, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_folds_of_a_partly_measured_table_are_one_batch_too(world: Any) -> None:
    inputs, quadrats, fold_N = world
    table = with_unmeasured(quadrats, mixed(len(quadrats)), NAN)
    model = registry.model("baseline")
    assert model.fit_folds is not None
    together = model.fit_folds(HEAD, table, fold_N, [0, 1, 2], inputs, seeds=[5, 6, 7])
    for fold, result in enumerate(together):
        alone = model.fit(HEAD, table, fold_N, fold, inputs, seed=5 + fold)
        np.testing.assert_allclose(result.pred_NT, alone.pred_NT, rtol=2e-3, atol=2e-3)
        assert result.epochs[-1]["loss"] == pytest.approx(alone.epochs[-1]["loss"], rel=1e-3)
    assert len({
        b"".join(bytes_of_fit(one) for one in model.fit_folds(
            HEAD, with_unmeasured(quadrats, mixed(len(quadrats)), value), fold_N, [0, 1], inputs, seeds=[5, 6]
        ))
        for value in IN_UNMEASURED
    }) == 1  # fmt: skip


@pytest.mark.slow
def test_a_total_alone_is_predicted_as_it_is_beside_the_others(world: Any) -> None:
    """A ridge with a penalty of its own learns nothing from the other targets."""
    inputs, quadrats, fold_N = world
    _, config = CASES["probe"]
    alone = with_unmeasured(quadrats, measured_in(len(quadrats), TOTAL), NAN)
    one, other = (
        registry.model("probe").fit(config, table, fold_N, 0, inputs, seed=1).pred_NT for table in (alone, quadrats)
    )
    np.testing.assert_allclose(one[:, TOTAL], other[:, TOTAL], rtol=1e-9)


@pytest.mark.slow
def test_photographs_of_one_quadrat_count_as_one(world: Any) -> None:
    """Every photograph twice, each with half its weight, is every photograph once."""
    inputs, quadrats, fold_N = world
    twice = pd.concat([quadrats, quadrats], ignore_index=True)
    twice[list(WEIGHT_COLUMNS)] = np.tile(weight_T / 2, (len(twice), 1))
    model, (_, config) = registry.model("probe"), CASES["shared penalty"]
    once = model.fit(config, quadrats, fold_N, 0, inputs, seed=1)
    both = model.fit(config, twice, np.tile(fold_N, 2), 0, inputs, seed=1)
    np.testing.assert_allclose(both.pred_NT, np.tile(once.pred_NT, (2, 1)), rtol=1e-8)
    for name in ("score", "inner_score"):
        assert both.epochs[0][name] == pytest.approx(once.epochs[0][name], rel=1e-8)


# -- what a student can learn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "unlearned"),
    [
        (TOTAL_ALONE, None),
        (WITHOUT_COMPONENTS, None),
        ((GREEN, DEAD, CLOVER, GDM, TOTAL), None),
        (TOTAL_CLOVER, "Dry_Clover_g"),
        ((GREEN, CLOVER, GDM), "Dry_Green_g, Dry_Clover_g, GDM_g"),
        ((DEAD,), "Dry_Dead_g"),
        ((GREEN, CLOVER, TOTAL), "Dry_Green_g, Dry_Clover_g"),
    ],
)
def test_a_student_names_the_masses_that_it_has_no_term_for(targets: tuple[int, ...], unlearned: str | None) -> None:
    reason = learns(measured_in(30, *targets))
    assert (reason is None) if unlearned is None else (reason is not None and reason.startswith(f"{unlearned}: it"))
    assert registry.family("probe").learns(measured_in(30, *targets)) is None


def test_each_term_needs_ten_rows_unless_all_was_measured() -> None:
    few = np.vstack([measured_in(9, GREEN, DEAD, CLOVER, GDM, TOTAL), measured_in(20, TOTAL)])
    reason = learns(few)
    assert reason is not None and reason.startswith("Dry_Green_g, Dry_Dead_g, Dry_Clover_g, GDM_g: it learns the total")
    assert learns(np.vstack([few, few[:1]])) is None and learns(few[:9]) is None
    assert learned_targets(few).all() and learned_targets(few, 10).tolist() == [False, False, False, False, True]
    apart = np.vstack([measured_in(20, GREEN, TOTAL), measured_in(20, CLOVER, TOTAL)])  # never both in one row
    assert (learns(apart) or "").startswith("Dry_Green_g, Dry_Clover_g: ")
