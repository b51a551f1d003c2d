from __future__ import annotations

import pytest
import torch

from biomass_models.backbones.adapter import BackboneError, build_backbone, parameter_groups, weightless
from biomass_models.backbones.weights import WeightsSource
from biomass_models.training.heads import mlp_head

RANDOM = WeightsSource(kind="random")
# class token; a register and mean pooling; a register and attention pooling; four kinds of CNN
KINDS = ["test_vit", "test_vit2", "test_vit3", "test_convnext", "test_efficientnet", "test_resnet", "test_mambaout"]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(160, 160), (64, 96)])
def test_every_kind_gives_global_vector_and_full_grid(name: str, size: tuple[int, int]) -> None:
    backbone = build_backbone(name, RANDOM)
    height, width, note = backbone.fit_size(*size)
    assert (height, width, note) == (*size, "")
    with torch.inference_mode():
        tokens = backbone(torch.rand(2, 3, height, width))
        layers = backbone.layers(torch.rand(2, 3, height, width), (0, 1))
    rows, columns = tokens.grid
    assert tokens.global_BD.shape == (2, weightless(name).widths(height, width)[0])
    assert tokens.patch_BPD.shape[:2] == (2, rows * columns)
    assert (rows > columns) == (height > width)
    assert len(layers) == 2
    assert layers[1].patch_BPD.shape[1] == layers[1].grid[0] * layers[1].grid[1]


@pytest.mark.parametrize("name", KINDS)
def test_first_layer_is_the_final_one(name: str) -> None:
    backbone, picture = build_backbone(name, RANDOM), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        final, again = backbone(picture), backbone.layers(picture, (0, 1))[0]
    torch.testing.assert_close(final.global_BD, again.global_BD)
    torch.testing.assert_close(final.patch_BPD, again.patch_BPD)


@pytest.mark.parametrize(("name", "registers"), [("test_vit2", 1), ("vit_small_patch14_reg4_dinov2", 5)])
def test_prefix_tokens_are_no_patches(name: str, registers: int) -> None:
    backbone = build_backbone(name, RANDOM)
    side = 4 * backbone.patch[0]
    picture = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        tokens = backbone(picture)
        every = backbone.model.forward_features(backbone.normalise(picture))
    assert tokens.grid == (4, 4)
    torch.testing.assert_close(tokens.patch_BPD, every[:, registers:])
    if name.startswith("test"):  # no class token: the pooled patches stand for it
        expected = backbone.model.fc_norm(every[:, registers:].mean(1))
    else:
        expected = every[:, 0]
    torch.testing.assert_close(tokens.global_BD, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        *((f"vit_{size}_patch16_dinov3.lvd1689m", 5) for size in ("small", "small_plus", "base", "large", "huge_plus")),
        ("vit_small_patch14_dinov2.lvd142m", 1),
        ("vit_base_patch14_reg4_dinov2.lvd142m", 5),
        ("eva02_tiny_patch14_224", 1),
        ("vit_base_patch16_siglip_224", 0),
        ("convnext_tiny", 0),
        ("tf_efficientnet_lite0", 0),
    ],
)
def test_published_backbones_give_a_full_grid_without_prefix_tokens(name: str, prefix: int) -> None:
    backbone = weightless(name)
    height, width, _ = backbone.fit_size(224, 448)
    tokens = backbone(torch.empty(1, 3, height, width, device="meta"))
    rows, columns = tokens.grid
    every = backbone.model.forward_features(torch.empty(1, 3, height, width, device="meta"))
    places = every.shape[1] if every.ndim == 3 else every.shape[2] * every.shape[3]
    assert tokens.patch_BPD.shape[1] == rows * columns == places - prefix
    assert columns == 2 * rows
    assert len(backbone.blocks()) >= 12


def test_sizes_are_rounded_with_a_note_or_refused() -> None:
    assert weightless("vit_small_patch14_dinov2").fit_size(980, 980) == (980, 980, "")
    height, width, note = weightless("vit_small_patch14_dinov2").fit_size(224, 100)
    assert (height, width) == (224, 98)
    assert "224x98" in note
    assert weightless("test_resnet").fit_size(99, 101) == (99, 101, "")
    with pytest.raises(BackboneError, match="160x160"):
        weightless("test_vit_relpos").fit_size(224, 224)


@pytest.mark.parametrize("name", KINDS)
def test_gradient_reaches_what_trains_and_nothing_else(name: str) -> None:
    backbone = build_backbone(name, RANDOM)
    backbone.train_last(2)
    backbone.train()
    backbone(torch.rand(2, 3, 64, 64)).global_BD.square().sum().backward()
    trained = {key for key, tensor in backbone.model.named_parameters() if tensor.requires_grad}
    assert trained
    assert trained == {key for key, tensor in backbone.model.named_parameters() if tensor.grad is not None}
    assert trained <= set(backbone.trained_state())


def test_trained_part_is_the_last_blocks_and_the_final_norm() -> None:
    backbone = build_backbone("test_vit", RANDOM)
    backbone.train_last(2)
    parts = {".".join(name.split(".")[:2]) for name in backbone.trained_state()}
    assert parts == {"blocks.4", "blocks.5", "norm.weight", "norm.bias"}
    backbone.train_last(0)
    assert not backbone.trained_state()
    with pytest.raises(BackboneError, match="6 blocks"):
        backbone.train_last(7)


def test_frozen_batch_norm_stays_as_it_is() -> None:
    backbone = build_backbone("test_efficientnet", RANDOM)
    backbone.train_last(1)
    backbone.train()
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    backbone(torch.rand(4, 3, 64, 64))
    moved = {name for name, tensor in backbone.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert moved <= set(backbone.trained_state())
    backbone.eval()
    assert not any(module.training for module in backbone.modules())


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_each_trainable_parameter_is_in_one_group(name: str) -> None:
    backbone = build_backbone(name, RANDOM)
    backbone.train_last(2)
    head = mlp_head(64, width=8, width_2=4, dropout=0.0)
    groups = parameter_groups(backbone, head, backbone_lr=1e-5, head_lr=1e-3, weight_decay=0.1)
    grouped = [id(tensor) for group in groups for tensor in group["params"]]
    trainable = [id(t) for module in (backbone, head) for t in module.parameters() if t.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    in_head = {id(tensor) for tensor in head.parameters()}
    for group in groups:
        for tensor in group["params"]:
            assert group["lr"] == (1e-3 if id(tensor) in in_head else 1e-5)
            assert group["weight_decay"] == (0.1 if tensor.ndim > 1 else 0.0)
