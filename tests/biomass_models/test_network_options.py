"""Options of the networks: formulas by hand, gradients, and what they leave as it was."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
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
from biomass_models.targets import DEAD, GDM, TARGETS, TOTAL, from_components, identity_gap, weight_T
from biomass_models.training import network
from biomass_models.training.auxiliary import Auxiliary
from biomass_models.training.fit import FoldRows
from biomass_models.training.intervals import bin_counts, interval_losses, quantile_edges
from biomass_models.training.losses import gdm_ratio_losses
from biomass_models.training.mixup import BatchRows, Mixture, Mixup
from biomass_models.training.predicted_metadata import Heads, PredictedMetadata, metadata_losses, metadata_targets
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


# -- predicted metadata ------------------------------------------------------------------------------------------------


def noted(rows: int, **columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"image_id": [f"q{row}" for row in range(rows)], **columns})


def test_metadata_become_numbers_and_classes_of_the_training_rows() -> None:
    table = noted(
        40, Pre_GSHH_NDVI=[0.2, 0.6] * 19 + [None, 0.4], Height_Ave_cm=[3.0] * 40, State=["Tas"] * 39 + [None],
        Species=["Rye"] * 20 + ["Clover"] * 15 + ["Lucerne"] * 3 + ["Barley", None],
    )  # fmt: skip
    heads, target_MP = metadata_targets(table)
    assert heads.numbers == ("Pre_GSHH_NDVI",) and heads.classes == (("Species", 3),)  # a height, a state: nothing
    sd = np.std([0.2, 0.6] * 19 + [0.4])
    assert target_MP[[0, 1, 39], 0] == pytest.approx([-0.2 / sd, 0.2 / sd, 0.0]) and np.isnan(target_MP[38, 0])
    places = {"Clover": 0, "Rye": 1, "other": 2}  # under 15 rows: other
    for row, name in ((0, "Rye"), (34, "Clover"), (35, "other"), (38, "other")):
        assert target_MP[row, 1:].tolist() == [float(place == places[name]) for place in range(3)]
    assert np.isnan(target_MP[39, 1:]).all()
    nothing, empty = metadata_targets(noted(4, State=["Tas", "Tas", None, None], Height_Ave_cm=[None] * 4))
    assert nothing.sizes == (0,) and empty.shape == (4, 0)


def test_shuffled_metadata_are_the_same_rows_in_another_order() -> None:
    table = noted(30, Pre_GSHH_NDVI=list(range(30)), State=["Tas", "WA", "NSW"] * 10)
    (heads, plain_MP), (same, mixed_MP) = metadata_targets(table), metadata_targets(table, shuffled_by=3)
    assert heads == same and (mixed_MP != plain_MP).any()
    assert sorted(map(tuple, mixed_MP)) == sorted(map(tuple, plain_MP))


def test_metadata_loss_by_hand() -> None:
    heads = Heads(("Pre_GSHH_NDVI", "Height_Ave_cm"), (("Species", 2), ("State", 2)))
    log = math.log(3)
    output_BP = torch.tensor([[1.0, 4, log, 0, 0, 0], [1, 4, log, 0, 0, 0], [1, 4, log, 0, 0, 0]], requires_grad=True)
    target_BP = torch.tensor(
        [[0, 2, 1, 0, 0, 1], [NAN, 4, NAN, NAN, 1, 0], [1, NAN, 0.5, 0.5, NAN, NAN]], dtype=torch.float64
    )
    loss_B = metadata_losses(output_BP, target_BP, heads)
    assert loss_B[0].item() == pytest.approx((0.5 + 1.5 + 0.2 * math.log(4 / 3) + 0.2 * math.log(2)) / 3)
    assert loss_B[1].item() == pytest.approx(0.2 * math.log(2) / 3)
    assert loss_B[2].item() == pytest.approx(0.2 * (math.log(4 / 3) + math.log(4)) / 2 / 3)  # a mixed row
    loss_B.sum().backward()
    assert output_BP.grad is not None and output_BP.grad.isfinite().all()
    assert output_BP.grad[1, [0, 2, 3]].eq(0).all() and output_BP.grad[2, [1, 4, 5]].eq(0).all()


def test_the_modulation_begins_as_none_and_is_the_formula() -> None:
    torch.manual_seed(0)
    film, embedding_BD = PredictedMetadata(4, (1, 2)), torch.randn(3, 4)
    modulated_BD, output_BP = film(embedding_BD)
    assert torch.equal(modulated_BD, embedding_BD)
    with torch.no_grad():
        film.gain.weight.copy_(torch.randn(4, 3))
        film.shift.weight.copy_(torch.randn(4, 3))
    known_BP = torch.cat([output_BP[:, :1], output_BP[:, 1:].softmax(1)], dim=1)
    expected = (1 + known_BP @ film.gain.weight.T) * embedding_BD + known_BP @ film.shift.weight.T
    modulated_BD, _ = film(embedding_BD)
    torch.testing.assert_close(modulated_BD, expected)
    film.zero_grad()
    modulated_BD.square().sum().backward()  # of what follows alone: it flows through what is predicted
    assert film.heads[1].weight.grad is not None and film.heads[1].weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_metadata_are_never_read_at_prediction_time(world: Any) -> None:
    """Of the held-out rows they may be changed or missing; predicting others needs image and path alone."""
    inputs, quadrats, fold_N, folder = world
    columns = ["Pre_GSHH_NDVI", "Height_Ave_cm", "Species", "State"]
    for family, off in OFF.items():
        config, model = replace(off, predicted_metadata="film"), registry.model(family)
        unknown = quadrats.copy()
        unknown.loc[fold_N == 0, columns] = None
        results = [model.fit(config, table, fold_N, 0, inputs, seed=0) for table in (quadrats, unknown)]
        assert results[0].pred_NT.tobytes() == results[1].pred_NT.tobytes()
        assert "loss/metadata" in results[0].epochs[0]
        assert any(name.startswith("film.") for name in results[0].tensors)
        pred = {
            model.predict(config, results[0].tensors, inputs_for(folder, table, inputs.store.root)).tobytes()
            for table in (quadrats, unknown, quadrats.drop(columns=columns), quadrats[["image_id", "image_path"]])
        }
        assert len(pred) == 1


def test_a_table_without_metadata_has_nothing_to_predict(world: Any) -> None:
    inputs, quadrats, fold_N, _ = world
    bare = quadrats[["image_id", "group", *TARGETS]]
    result = registry.model("baseline").fit(replace(HEAD, predicted_metadata="film"), bare, fold_N, 0, inputs, seed=0)
    assert np.isfinite(result.pred_NT).all() and not any(name.startswith("film.") for name in result.tensors)
    assert any("no metadata are predicted" in note for note in result.info["notes"])


# -- every option ------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "intervals": {"interval_bins": 7, "interval_weight": 0.3},
    "mixup": {"mixup_alpha": 0.4},
    "predicted metadata": {"predicted_metadata": "film"},
    "stamps": {"stamped": 2},
    "shuffled metadata": {"predicted_metadata": "shuffled"},
}


@pytest.fixture(params=[f"{family} with {option}" for family in OFF for option in OPTIONS])
def case(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    """A family's name, its configuration without and with an option."""
    family, _, option = request.param.partition(" with ")
    return family, OFF[family], replace(OFF[family], **OPTIONS[option])


@pytest.mark.slow
def test_an_option_moves_the_numbers_and_is_fitted_alone(case: tuple[str, Any, Any], world: Any) -> None:
    """It begins with the weights that the network has without it."""
    family, off, on = case
    inputs, quadrats, fold_N, _ = world
    model = registry.model(family)
    without, with_it = (model.fit(config, quadrats, fold_N, 0, inputs, seed=0) for config in (off, on))
    assert without.pred_NT.tobytes() != with_it.pred_NT.tobytes()
    batched = family == "baseline" and on.stamped > 0  # a bank of more copies is a bank
    assert registry.family(family).batches_folds(on) == batched
    first = [model.fit(replace(c, epochs=1, head_lr=1e-9, min_lr=0.0), quadrats, fold_N, 0, inputs, seed=0)
             for c in (off, on)]  # fmt: skip
    for name, tensor in first[0].tensors.items():
        torch.testing.assert_close(first[1].tensors[name], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_interval_heads_are_thrown_away(world: Any) -> None:
    inputs, quadrats, fold_N, _ = world
    for family, off in OFF.items():
        model, on = registry.model(family), replace(off, interval_bins=7)
        results = [model.fit(config, quadrats, fold_N, 0, inputs, seed=0) for config in (off, on)]
        assert set(results[0].tensors) == set(results[1].tensors)
        assert "loss/intervals" in results[1].epochs[0]


@pytest.mark.parametrize("half", [torch.float32, torch.bfloat16])
def test_gradient_reaches_every_tensor(half: torch.dtype, world: Any) -> None:
    """Of new layers with all options on; interval heads alone leave the last layer of the regression as it is."""
    quadrats, fold_N = world[1:3]
    config = replace(HEAD, interval_bins=7, predicted_metadata="film")
    rows = FoldRows.of(quadrats, fold_N, 0, np.arange(len(quadrats)))
    auxiliary = Auxiliary.of(config, quadrats, rows, torch.ones(len(rows.train_M)), seed=0)
    assert auxiliary is not None
    net = BaselineNet(None, head_of(config, 12))
    net.learn_beside(auxiliary)
    with torch.autocast("cpu", dtype=half, enabled=half is not torch.float32):
        seen = net.observed(torch.randn(6, 12))
    terms = auxiliary.terms(seen, BatchRows(torch.arange(6)))
    assert set(terms) == {"intervals", "metadata"}
    torch.stack(list(terms.values())).sum().backward()
    names = {name for name, _ in net.named_parameters()}
    assert _reached(net) == names - {"head.6.weight", "head.6.bias"}
    net(torch.randn(6, 12)).square().mean().backward()
    assert _reached(net) == names


def _reached(net: torch.nn.Module) -> set[str]:
    return {name for name, tensor in net.named_parameters() if tensor.grad is not None and tensor.grad.abs().sum() > 0}


@pytest.mark.slow
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", OFF)
def test_masses_stay_coherent_in_half_precision(
    family: str, half: torch.dtype, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All options on, as a GPU of that precision trains (pretended: there is none here)."""
    inputs, quadrats, fold_N, _ = world
    monkeypatch.setattr(network, "autocast", lambda device: torch.autocast(device.type, dtype=half))
    on = replace(OFF[family], interval_bins=7, predicted_metadata="film", mixup_alpha=0.4)
    result = registry.model(family).fit(on, quadrats, fold_N, 0, inputs, seed=0)
    assert np.isfinite(result.pred_NT).all() and (result.pred_NT >= 0).all()
    assert family == "baseline" or identity_gap(result.pred_NT).max() < 1e-3
