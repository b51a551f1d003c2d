"""The student: what its gradient reaches, what its attention says, what its teacher is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from tiny_inputs import inputs_for, tiny_quadrats, write_photographs

from biomass_models.backbones.adapter import Backbone, parameter_groups
from biomass_models.families.base import Artefact
from biomass_models.families.distilled import model as distilled
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.families.distilled.student import Student
from biomass_models.features.rows import Rows
from biomass_models.targets import CLOVER, DEAD, GDM, GREEN, TARGETS, TOTAL, from_components, identity_gap
from biomass_models.training.fit import FitError
from biomass_models.training.losses import distillation_losses, ratio_terms
from biomass_models.training.maps import FINEST, MAP_COLUMNS, coarse_map
from biomass_models.training.scaling import TargetScaler
from biomass_models.training.sources import PixelSource, ViewSource

pytestmark = pytest.mark.slow

PLAIN = TargetScaler("log1p", np.zeros(5), np.ones(5), np.full(5, 1e3))  # z is log1p of grams
FROZEN = DistilledConfig(
    backbone="test_vit", size=64, layout="halves", local_size=32, trained_blocks=0, grid=2, epochs=3, batch_size=8,
    head_width=32, head_width_2=16, crop_width=16, flips=2, teacher_epochs=30,
)  # fmt: skip
TRAINED = replace(FROZEN, trained_blocks=1, grid=0, flips=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("photographs")
    quadrats, fold_N = tiny_quadrats(folder)
    return inputs_for(folder, quadrats, tmp_path_factory.mktemp("cache")), quadrats, fold_N


def student_with(backbone: Backbone, config: DistilledConfig) -> Student:
    tokens = backbone(torch.rand(1, 3, 64, 64))
    return Student(
        config, backbone, global_width=tokens.global_BD.shape[1], patch_width=tokens.patch_BPD.shape[2]
    ).eval()


def test_registers_are_no_patches_and_pooling_is_the_published_one() -> None:
    """A backbone with 4 registers, against tokens cut out and pooled by hand, head by head."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", reg_tokens=4, num_classes=0, dynamic_img_size=True)
    backbone = Backbone(model, "test_vit")
    net = student_with(backbone, replace(TRAINED, layout="none"))
    picture = torch.rand(2, 1, 3, 64, 64)
    output, _, (look_BVP,) = net((picture,))
    token_BRD = model.forward_features(backbone.normalise(picture[:, 0]))
    patch_BPD = token_BRD[:, 1 + 4 :]
    assert look_BVP.shape == (2, 1, patch_BPD.shape[1])
    linear, _, _, last = net.pooling.score
    by_head = (torch.tanh(linear(patch_BPD)) @ last.weight.T).softmax(1)
    assert by_head.shape[-1] == 4
    pooled = torch.stack([(by_head[:, :, head, None] * patch_BPD).sum(1) for head in range(4)]).mean(0)
    torch.testing.assert_close(output, net.head(torch.cat([token_BRD[:, 0], pooled], 1)), atol=1e-5, rtol=1e-4)


def test_local_views_are_weighed_and_their_order_does_not_matter(world: Any) -> None:
    net = student_with(world[0].backbone("test_vit"), TRAINED)
    whole, local = torch.rand(2, 1, 3, 64, 64), torch.rand(2, 2, 3, 32, 32)
    output, weight_BL, looks = net((whole, local))
    torch.testing.assert_close(weight_BL.sum(1), torch.ones(2))
    assert [look.shape[1] for look in looks] == [1, 2]
    swapped = net((whole, local.flip(1)))
    torch.testing.assert_close(swapped.output_BT, output, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(swapped.weight_BL, weight_BL.flip(1))


def loss_of(net: Student, parts: Any) -> torch.Tensor:
    mass = torch.from_numpy(from_components([4.0, 1.0], [2.0, 5.0], [1.0, 1.0])).float()
    output = net(parts).output_BT
    terms = ratio_terms(output, mass, torch.ones(2), PLAIN, total=3.0, ratio=1.2, delta=1.0)
    taught = distillation_losses(output, mass + 3, PLAIN, delta=1.0).mean()
    return torch.stack([*terms.values(), taught]).sum()


@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "test_efficientnet", "test_convnext"])
def test_gradient_reaches_each_trained_tensor_and_each_is_in_one_group(name: str, world: Any) -> None:
    backbone = world[0].backbone(name)
    backbone.train_last(1)
    net = student_with(backbone, replace(TRAINED, backbone=name)).train()
    loss_of(net, (torch.rand(2, 1, 3, 64, 64), torch.rand(2, 2, 3, 64, 64))).backward()
    trainable = {param: tensor for param, tensor in net.named_parameters() if tensor.requires_grad}
    assert {param for param, tensor in trainable.items() if tensor.grad is not None} == set(trainable)
    assert all(tensor.grad.abs().sum() > 0 for param, tensor in trainable.items() if "score" in param)  # type: ignore
    groups = parameter_groups(backbone, net.new_layers(), backbone_lr=1e-4, head_lr=3e-4, weight_decay=0.05)
    grouped = [id(tensor) for group in groups for tensor in group["params"]]
    assert sorted(grouped) == sorted(id(tensor) for tensor in trainable.values())
    rate = {id(tensor): group["lr"] for group in groups for tensor in group["params"]}
    assert all(rate[id(t)] == (1e-4 if param.startswith("backbone") else 3e-4) for param, t in trainable.items())
    assert all(group["weight_decay"] == 0 for group in groups for tensor in group["params"] if tensor.ndim <= 1)


def test_a_target_that_never_varies_does_not_swamp_the_distillation(world: Any) -> None:
    inputs, quadrats, fold_N = world
    mass = quadrats[list(TARGETS)].to_numpy()
    bare = quadrats.assign(
        **dict(zip(TARGETS, from_components(mass[:, GREEN], mass[:, DEAD], 0 * mass[:, 0]).T, strict=True))
    )
    first = distilled.fit(FROZEN, bare, fold_N, 0, inputs, seed=0).epochs[0]
    assert first["loss/distillation"] < first["loss/total"]


def test_all_views_of_a_picture_are_turned_alike() -> None:
    half = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    rows = Rows((half,), np.zeros(6, dtype=np.int64), np.arange(6), ())
    view = PixelSource(rows, torch.device("cpu"), flips=8, colour=0.5, blur=1.0)
    (whole,), (local,) = (
        (part[:, 0],) for part in ViewSource(((view,), (view,))).augmented(np.arange(6), torch.Generator())
    )
    torch.testing.assert_close(whole, local)
    assert not torch.equal(whole, view.plain(np.arange(6)))


def test_rows_weigh_by_their_kind_unless_told_otherwise(world: Any) -> None:
    inputs, quadrats, fold_N = world
    lone = quadrats.assign(State=np.where(quadrats.index == np.flatnonzero(fold_N != 0)[0], "WA", "Tas"))
    for weighs in (True, False):
        config = replace(FROZEN, distillation_weight=0.0, group_weights=weighs, epochs=1)
        first, second = (distilled.fit(config, table, fold_N, 0, inputs, seed=0).pred_NT for table in (quadrats, lone))
        assert np.array_equal(first, second) is not weighs


def test_missing_metadata_and_a_teacher_of_others_are_named(world: Any) -> None:
    inputs, quadrats, fold_N = world
    gap = quadrats.assign(Pre_GSHH_NDVI=quadrats["Pre_GSHH_NDVI"].where(quadrats.index != 5))
    with pytest.raises(FitError, match="need Pre_GSHH_NDVI, image q5 has none"):
        distilled.fit(FROZEN, gap, fold_N, 0 if fold_N[5] else 1, inputs, seed=0)
    with pytest.raises(FitError, match="need the column Species"):
        distilled.fit(FROZEN, quadrats.drop(columns="Species"), fold_N, 0, inputs, seed=0)
    with pytest.raises(ValueError, match="training rows"):
        distilled.fit(FROZEN, quadrats, fold_N, 0, inputs, seed=0, shared=Artefact(quadrats.head(3), 0.5))


def test_terms_are_logged_for_each_epoch(world: Any) -> None:
    inputs, quadrats, fold_N = world
    result = distilled.fit(FROZEN, quadrats, fold_N, 0, inputs, seed=0)
    terms = ("loss/total", "loss/gdm_ratio", "loss/green_ratio", "loss/distillation")
    for record in result.epochs:
        assert sum(record[term] for term in terms) == pytest.approx(record["loss"], rel=1e-4)
        assert record["loss/distillation"] > 0
    alone = distilled.fit(replace(FROZEN, distillation_weight=0.0), quadrats, fold_N, 0, inputs, seed=0)
    assert "loss/distillation" not in alone.epochs[0]
    assert np.abs(alone.pred_NT - result.pred_NT).max() > 1e-3


@pytest.mark.parametrize("config", [FROZEN, TRAINED], ids=["frozen", "trained"])
def test_attention_of_held_out_images_is_what_prediction_says(config: DistilledConfig, world: Any) -> None:
    inputs, quadrats, fold_N = world
    result = distilled.fit(config, quadrats, fold_N, 0, inputs, seed=0)
    assert result.maps is not None
    assert tuple(result.maps.columns) == MAP_COLUMNS
    assert set(result.maps["image_id"]) == set(quadrats["image_id"][fold_N == 0])
    for _, views in result.maps.groupby("image_id"):
        assert views["view"].tolist() == ["whole", "left", "right"]
        assert views["weight"].sum() == pytest.approx(1, abs=1e-5)
        assert np.isnan(views["weight"].iloc[0])
        for row in views.itertuples():
            assert len(row.look) == row.rows * row.columns  # type: ignore[arg-type, operator]
            assert np.sum(row.look) == pytest.approx(1, abs=1e-4)  # type: ignore[arg-type]
    side = 2 if config.grid else 64 // 16
    assert result.maps["rows"].iloc[0] == side
    again = distilled.maps(config, result.tensors, inputs).set_index(["image_id", "view"])
    for row in result.maps.itertuples():
        same = again.loc[(row.image_id, row.view)]
        np.testing.assert_allclose(same["look"], row.look, atol=1e-5)  # type: ignore[arg-type]
        np.testing.assert_allclose(same["weight"], row.weight, atol=1e-5)  # type: ignore[arg-type]


def test_a_fine_map_is_stored_coarsely() -> None:
    look_BP = torch.zeros(1, 62 * 40)
    look_BP[0, 61 * 40 + 39] = 1.0  # the last place
    map_BHW = coarse_map(look_BP, (62, 40))
    assert map_BHW.shape == (1, FINEST, FINEST)
    assert map_BHW.sum().item() == pytest.approx(1)
    assert map_BHW[0, -1, -1].item() == pytest.approx(1)
    assert coarse_map(torch.full((1, 6), 1 / 6), (2, 3)).shape == (1, 2, 3)


def test_the_published_network_trains(world: Any) -> None:
    """DINOv3 small with its last 5 blocks, five views: the reference configuration but for size and epochs."""
    inputs, quadrats, fold_N = world
    config = DistilledConfig(size=64, local_size=32, epochs=1, teacher_epochs=10)
    result = distilled.fit(config, quadrats, fold_N, 0, inputs, seed=0)
    blocks = {name.split(".")[2] for name in result.tensors if name.startswith("backbone.blocks.")}
    assert blocks == {"7", "8", "9", "10", "11"}
    assert result.maps is not None
    assert result.maps["view"].unique().tolist() == [
        "whole",
        "top-left",
        "top-right",
        "bottom-left",
        "bottom-right",
    ]
    assert identity_gap(result.pred_NT).max() < 1e-9


def test_sizes_are_rounded_with_a_note(world: Any) -> None:
    inputs, quadrats, fold_N = world
    for config in (replace(FROZEN, size=70, epochs=1), replace(TRAINED, local_size=36, epochs=1)):
        notes = distilled.fit(config, quadrats, fold_N, 0, inputs, seed=0).info["notes"]
        assert len(notes) == 1 and "rounded to" in notes[0]
    notes = distilled.fit(replace(FROZEN, grid=3, epochs=1), quadrats, fold_N, 0, inputs, seed=0).info["notes"]
    assert notes == ["grid 3 is finer than the 2 x 2 tokens of test_vit: tokens repeat"]


@pytest.mark.long
def test_metadata_are_worth_what_they_say(tmp_path: Path) -> None:
    """Labels are noisy, metadata are not: the teacher's gain is there, and gone when metadata are shuffled.

    A student that trains this long learns the labels' noise by heart; a teacher of 100 steps does not.
    """
    rng = np.random.default_rng(0)
    true_NT = from_components(*(rng.gamma(2.0, 12.0, (3, 120)) * [[1.0], [1.0], [0.05]]))  # photographs show no clover
    quadrats = write_photographs(tmp_path, true_NT)
    group = np.arange(120) % 12
    fold_N = group % 3
    noisy_NT = from_components(*(true_NT[:, [GREEN, DEAD, CLOVER]] * rng.lognormal(0, 0.9, (120, 3))).T)
    quadrats = quadrats.assign(group=[f"d{g}" for g in group], **dict(zip(TARGETS, noisy_NT.T, strict=True)))
    # what the teacher sees determines the true masses; a species string carries no number
    quadrats["Pre_GSHH_NDVI"], quadrats["Height_Ave_cm"] = np.log1p(true_NT[:, GDM]), np.log1p(true_NT[:, TOTAL])
    inputs = inputs_for(tmp_path, quadrats, tmp_path / "cache")
    config = replace(
        FROZEN, layout="none", epochs=150, head_lr=3e-3, distillation_weight=20.0, teacher_epochs=100, batch_size=40,
        group_weights=False,
    )  # fmt: skip

    def error(table: Any, setting: DistilledConfig) -> float:
        """Of log totals against the truth without noise, over all held-out rows."""
        squares = []
        for fold in range(3):
            result = distilled.fit(setting, table, fold_N, fold, inputs, seed=0)
            gap = np.log1p(result.pred_NT[:, TOTAL]) - np.log1p(true_NT[result.row_N, TOTAL])
            squares.append(gap**2)
        return float(np.concatenate(squares).mean())

    shuffled = quadrats.copy()
    order = rng.permutation(120)
    for column in ("Pre_GSHH_NDVI", "Height_Ave_cm", "Species"):
        shuffled[column] = quadrats[column].to_numpy()[order]
    alone, taught = error(quadrats, replace(config, distillation_weight=0.0)), error(quadrats, config)
    mistaught = error(shuffled, config)
    assert taught < 0.8 * alone
    assert mistaught > alone
