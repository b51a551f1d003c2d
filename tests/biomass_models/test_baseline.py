from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_inputs import RANDOM, inputs_for, tiny_quadrats
from torch import Tensor, nn

from biomass_models.backbones.adapter import weightless
from biomass_models.backbones.devices import MicroBatch
from biomass_models.config_rules import TRANSFORMS
from biomass_models.families.baseline import model as baseline
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.features.chunks import SUFFIX, read_chunk
from biomass_models.features.inputs import Inputs
from biomass_models.training.fit import FitError, seed_for, seeded, split_rows
from biomass_models.training.heads import mlp_head
from biomass_models.training.loop import Ema, Schedule, cosine_lr, train_epochs
from biomass_models.training.losses import weighted_mse_loss
from biomass_models.training.scaling import TargetScaler

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
FROZEN = BaselineConfig(backbone="test_efficientnet", size=64, trained_blocks=0, epochs=30, flips=2, head_lr=3e-3)
grams = hnp.arrays(np.float64, (6, 5), elements=st.floats(0, 300))


@given(mass_NT=grams, transform=st.sampled_from(TRANSFORMS))
def test_scaling_comes_back_to_the_same_grams(mass_NT: np.ndarray, transform: str) -> None:
    scaler = TargetScaler.fit(mass_NT, transform)
    back_NT = scaler.grams(scaler.scale(mass_NT))
    np.testing.assert_allclose(back_NT, mass_NT, atol=1e-6)
    assert (scaler.sd_T >= 1e-3).all()
    stored = TargetScaler.from_arrays(scaler.arrays(), transform)
    np.testing.assert_array_equal(stored.grams(scaler.scale(mass_NT)), back_NT)


@given(
    z_NT=hnp.arrays(np.float32, (4, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    transform=st.sampled_from(TRANSFORMS),
)
def test_any_output_gives_finite_grams_within_the_cap(z_NT: np.ndarray, transform: str) -> None:
    scaler = TargetScaler.fit(np.array([[10.0, 0, 3, 13, 13], [20, 0, 0, 20, 20]]), transform)
    pred_NT = scaler.grams(z_NT)
    assert (pred_NT >= 0).all()
    assert (pred_NT <= np.array([40, 1, 6, 40, 40]) * (1 + 1e-12)).all()


def test_weighted_mse_by_hand() -> None:
    output_BT = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 2, 1]])
    assert weighted_mse_loss(output_BT, torch.zeros(2, 5)).item() == pytest.approx((0.1 + 0.2 * 4 + 0.5) / 2)


def test_head_is_the_published_one() -> None:
    kinds = [type(layer).__name__ for layer in mlp_head(384, width=256, width_2=128, dropout=0.4)]
    assert kinds == ["LayerNorm", "Linear", "GELU", "Dropout", "Linear", "GELU", "Linear"]
    assert mlp_head(384, width=256, width_2=128, dropout=0.4)(torch.zeros(3, 384)).shape == (3, 5)


def test_cosine_by_hand() -> None:
    assert cosine_lr(0, 100, 1e-3, 1e-6) == pytest.approx(1e-3)
    assert cosine_lr(50, 100, 1e-3, 1e-6) == pytest.approx((1e-3 + 1e-6) / 2)
    assert 1e-6 < cosine_lr(99, 100, 1e-3, 1e-6) < 2e-6


def test_moving_average_by_hand() -> None:
    live = torch.tensor([0.0])
    ema = Ema([live], decay=0.15)
    for value in (1.0, 2.0):
        live.fill_(value)
        ema.update()
    expected = 0.0
    for value, decay in ((1.0, 1 / 10), (2.0, 0.15)):
        expected = decay * expected + (1 - decay) * value
    with ema.applied():
        assert live.item() == pytest.approx(expected)
    assert live.item() == 2.0


def test_folds_without_rows_are_refused() -> None:
    train, valid = split_rows(np.array([0, 1, 0]), 1)
    assert (train.tolist(), valid.tolist()) == ([0, 2], [1])
    with pytest.raises(FitError, match="fold 2"):
        split_rows(np.array([0, 1, 0]), 2)


def test_seeds_differ_by_purpose() -> None:
    assert len({seed_for(seed, purpose) for seed in range(20) for purpose in ("order", "dropout")}) == 40


def small_training(loss_wrapper: Callable[[Tensor], None], *, epochs: int = 3) -> tuple[nn.Module, MicroBatch]:
    with seeded(0, "test", CPU):
        module = nn.Linear(4, 5)
        feature_ND, goal_NT = torch.randn(24, 4), torch.randn(24, 5)

    def loss_of(index_B: Tensor) -> dict[str, Tensor]:
        loss_wrapper(index_B)
        loss = weighted_mse_loss(module(feature_ND[index_B]), goal_NT[index_B])
        return {"part": 0.25 * loss, "rest": 0.75 * loss}

    schedule = Schedule(epochs=epochs, batch_size=16, min_lr=0.0, clip_norm=1e9, ema_decay=0.0)
    groups = [{"params": list(module.parameters()), "lr": 1e-2}]
    micro = train_epochs(
        module, [], groups, 24, schedule, loss_of, lambda record, last: None,
        device=CPU, seed=0, should_stop=None,
    )  # fmt: skip
    return module, micro


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("pretend"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_running_out_of_memory_halves_the_micro_batch_and_keeps_the_step(error: RuntimeError) -> None:
    def too_small(index_B: Tensor) -> None:
        if len(index_B) > 6:
            raise error

    whole, _ = small_training(lambda index_B: None)
    halved, micro = small_training(too_small)
    assert micro.size == 4
    torch.testing.assert_close(halved.weight, whole.weight, atol=1e-6, rtol=1e-5)


def test_one_picture_that_does_not_fit_is_an_error() -> None:
    def never(index_B: Tensor) -> None:
        raise torch.cuda.OutOfMemoryError("pretend")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="smaller size"):
        small_training(never)


def test_another_error_of_a_gpu_halves_nothing() -> None:
    def fails(index_B: Tensor) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        small_training(fails)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("photographs")
    quadrats, fold_N = tiny_quadrats(folder, images=40)
    return inputs_for(folder, quadrats, tmp_path_factory.mktemp("cache")), quadrats, fold_N


def test_head_learns_what_the_colours_say(world: Any) -> None:
    inputs, quadrats, fold_N = world
    result = baseline.fit(FROZEN, quadrats, fold_N, 0, inputs, seed=0)
    losses = [record["loss"] for record in result.epochs]
    assert losses[-1] < 0.6 * losses[0]
    assert result.info["scored_epoch"] == len(result.epochs) == 30
    assert result.info["epoch_chosen_on_validation"] is False


def test_a_loss_that_is_not_finite_names_the_epoch(world: Any) -> None:
    inputs, quadrats, fold_N = world
    broken = quadrats.assign(Dry_Total_g=np.where(quadrats.index == 5, np.inf, quadrats["Dry_Total_g"]))
    with pytest.raises(FitError, match="epoch 1 of 30"), np.errstate(invalid="ignore"):
        baseline.fit(FROZEN, broken, fold_N, 1, inputs, seed=0)


def test_best_epoch_is_recorded_as_chosen_on_validation(world: Any) -> None:
    inputs, quadrats, fold_N = world
    result = baseline.fit(replace(FROZEN, select_best_epoch=True, head_lr=3e-2), quadrats, fold_N, 0, inputs, seed=0)
    best = max(result.epochs, key=lambda record: record["score"])
    assert result.info["epoch_chosen_on_validation"] is True
    assert result.info["scored_epoch"] == best["epoch"]
    pred_NT = baseline.predict(replace(FROZEN, select_best_epoch=True), result.tensors, inputs)
    np.testing.assert_allclose(pred_NT[result.row_N], result.pred_NT, atol=1e-4)


def test_seeds_and_averages_change_the_fit(world: Any) -> None:
    inputs, quadrats, fold_N = world
    first, other = (baseline.fit(FROZEN, quadrats, fold_N, 0, inputs, seed=seed) for seed in (0, 1))
    averaged = baseline.fit(replace(FROZEN, ema_decay=0.99), quadrats, fold_N, 0, inputs, seed=0)
    assert np.abs(first.pred_NT - other.pred_NT).max() > 1e-2
    assert np.abs(first.pred_NT - averaged.pred_NT).max() > 1e-2
    assert [record["loss"] for record in first.epochs] == [record["loss"] for record in averaged.epochs]


def test_frozen_tensors_do_not_move_and_trained_ones_do(world: Any) -> None:
    inputs, quadrats, fold_N = world
    config = BaselineConfig(
        backbone="test_vit", size=64, trained_blocks=1, epochs=1, head_lr=1e-3, backbone_lr=1e-3, batch_size=16
    )
    result = baseline.fit(config, quadrats, fold_N, 0, inputs, seed=0)
    before = inputs.backbone("test_vit").model.state_dict()
    stored = {name.removeprefix("backbone."): t for name, t in result.tensors.items() if name.startswith("backbone.")}
    assert {name.split(".")[0] for name in stored} == {"blocks", "norm"}
    assert all(not torch.equal(before[name], tensor) for name, tensor in stored.items() if name.endswith("weight"))


def test_prediction_encodes_pictures_as_they_are_and_no_copies(world: Any, tmp_path: Path) -> None:
    inputs, quadrats, fold_N = world
    result = baseline.fit(replace(FROZEN, epochs=1), quadrats, fold_N, 0, inputs, seed=0)
    fresh = Inputs(inputs.images, cache_dir=tmp_path, weights=RANDOM, device="cpu")
    baseline.predict(replace(FROZEN, epochs=1), result.tensors, fresh)
    (chunk,) = map(read_chunk, tmp_path.rglob(f"*{SUFFIX}"))
    assert {name.split(".")[0] for name in chunk.arrays} == {"turn0"}


@pytest.mark.parametrize("backbone", ["test_vit", "test_vit3", "test_efficientnet"])
def test_gradient_reaches_each_trained_tensor(backbone: str, world: Any) -> None:
    free = world[0].backbone(backbone)
    free.train_last(2)
    head = mlp_head(weightless(backbone).widths(64, 64)[0], width=8, width_2=4, dropout=0.1)
    net = baseline.BaselineNet(free, head).train()
    weighted_mse_loss(net(torch.rand(4, 3, 64, 64)), torch.ones(4, 5)).backward()
    reached = {name.replace("backbone.model.", "backbone.") for name, t in net.named_parameters() if t.grad is not None}
    buffers = {name.replace("backbone.model.", "backbone.") for name, _ in net.named_buffers()}
    assert reached == set(net.trained_state()) - buffers


@settings(max_examples=20, deadline=None)
@given(total=st.integers(1, 50), size=st.integers(1, 60))
def test_slices_cover_all_rows_once(total: int, size: int) -> None:
    parts = MicroBatch(size).slices(total)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(total))
    assert len(parts) == math.ceil(total / size)


def test_bank_copies_are_drawn_from_at_random() -> None:
    feature_NCD = torch.arange(4.0).view(1, 4, 1).repeat(3, 1, 1)
    source = baseline.FeatureSource(feature_NCD)
    drawn = source.augmented(np.zeros(400, dtype=np.int64), torch.Generator().manual_seed(0)).flatten()
    assert sorted(set(drawn.tolist())) == [0, 1, 2, 3]
    assert source.plain(np.array([0, 1])).flatten().tolist() == [0, 0]
