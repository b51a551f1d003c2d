"""Adapters on a tiny transformer: what trains, what is stored, and that they can be merged into the weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_inputs import RANDOM, inputs_for, tiny_quadrats

from biomass_models.backbones.adapter import Backbone, BackboneError, build_backbone, parameter_groups
from biomass_models.families import registry
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.baseline.model import BaselineNet, head_of
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.training.network import Network

pytestmark = pytest.mark.slow
KINDS = ("lora", "dora")
CONFIG = BaselineConfig(
    backbone="test_vit", size=64, trained_blocks=2, epochs=2, batch_size=8, head_lr=1e-2, head_width=16,
    head_width_2=8, adapters="lora", adapter_rank=4,
)  # fmt: skip
STUDENT = DistilledConfig(
    backbone="test_vit", size=64, layout="none", trained_blocks=1, epochs=2, batch_size=8, head_lr=1e-2, grid=2,
    head_width=16, head_width_2=8, teacher_epochs=10, adapters="dora", adapter_rank=4, prefix_bank="float32", flips=2,
)  # fmt: skip


def adapted(kind: str, rank: int = 4) -> Network:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    config = replace(CONFIG, adapters=kind, adapter_rank=rank)
    backbone = build_backbone("test_vit", RANDOM)
    backbone.train_last(config.trained_blocks)
    net = BaselineNet(backbone, head_of(config, backbone.widths(64, 64)[0]))
    net.adapt(config)
    return net


def backbone_of(net: Network) -> Backbone:
    assert isinstance(net.backbone, Backbone)
    return net.backbone


@pytest.mark.parametrize("kind", KINDS)
def test_they_begin_as_the_backbone_alone(kind: str) -> None:
    picture = torch.rand(2, 3, 64, 64)
    plain, net = build_backbone("test_vit", RANDOM)(picture), adapted(kind).eval()
    torch.testing.assert_close(backbone_of(net)(picture).global_BD, plain.global_BD, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_of_the_last_blocks_and_new_layers_train(kind: str) -> None:
    net = adapted(kind).train()
    backbone = backbone_of(net)
    _randomise(backbone)
    net(torch.rand(4, 3, 64, 64)).square().sum().backward()
    trainable = {name for name, tensor in net.named_parameters() if tensor.requires_grad}
    assert {name for name, tensor in net.named_parameters() if tensor.grad is not None} == trainable
    assert all(name.startswith("head.") or ".lora_" in name for name in trainable)
    count = len(backbone.blocks())
    inside = {name.split("blocks.")[1].split(".")[0] for name in trainable if "blocks." in name}
    assert inside == {str(count - 1), str(count - 2)}
    matrices = 2 if kind == "lora" else 3
    assert len([name for name in trainable if ".lora_" in name]) == 2 * 4 * matrices  # qkv, proj, fc1, fc2
    stored = {name for name in net.trained_state() if name.startswith("backbone.")}
    assert stored == {name.replace("backbone.model.", "backbone.") for name in trainable if ".lora_" in name}
    groups = parameter_groups(backbone, net.new_layers(), backbone_lr=1e-3, head_lr=1e-3, weight_decay=0.05)
    assert sum(len(group["params"]) for group in groups) == len(trainable)


@pytest.mark.parametrize("rank", [1, 4])
def test_the_rank_is_what_it_says(rank: int) -> None:
    state = adapted("lora", rank).trained_state()
    first = {name: tensor for name, tensor in state.items() if ".lora_A." in name}
    second = {name: tensor for name, tensor in state.items() if ".lora_B." in name}
    assert {len(tensor) for tensor in first.values()} == {rank}
    assert {tensor.shape[1] for tensor in second.values()} == {rank}


@pytest.mark.parametrize("kind", KINDS)
def test_merged_into_the_weights_they_give_the_same_outputs(kind: str) -> None:
    net = adapted(kind).eval()
    backbone, picture = backbone_of(net), torch.rand(2, 3, 64, 64)
    before = backbone(picture).global_BD
    _randomise(backbone)
    apart = backbone(picture).global_BD
    assert (apart - before).abs().max() > 1e-3
    for module in backbone.modules():
        if hasattr(module, "merge"):
            module.merge()
    torch.testing.assert_close(backbone(picture).global_BD, apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [CONFIG, STUDENT], ids=["baseline", "student on prefixes"])
def test_a_fit_is_stored_without_pickle_and_predicts_the_same(config: Any, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    family = registry.model("baseline" if config is CONFIG else "distilled")
    quadrats, fold_N = tiny_quadrats(tmp_path)
    inputs = inputs_for(tmp_path, quadrats, tmp_path / "cache")
    result, again = (family.fit(config, quadrats, fold_N, 0, inputs, seed=0) for _ in range(2))
    assert result.pred_NT.tobytes() == again.pred_NT.tobytes()
    assert np.isfinite(result.pred_NT).all() and (result.pred_NT >= 0).all()
    moved = [tensor.abs().sum() for name, tensor in result.tensors.items() if ".lora_B." in name]
    assert len(moved) == 4 * config.trained_blocks and all(total > 0 for total in moved)
    safetensors.torch.save_file(result.tensors, tmp_path / "model.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    pred_NT = family.predict(config, tensors, inputs)
    np.testing.assert_allclose(pred_NT[result.row_N], result.pred_NT, atol=1e-4)


def test_without_peft_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    net = BaselineNet(build_backbone("test_vit", RANDOM), head_of(CONFIG, 64))
    with pytest.raises(BackboneError, match=r"pip install pasture-biomass\[adapters\]"):
        net.adapt(CONFIG)


def test_blocks_without_linear_layers_are_refused() -> None:
    pytest.importorskip("peft")
    net = BaselineNet(build_backbone("test_resnet", RANDOM), head_of(CONFIG, 64))
    with pytest.raises(BackboneError, match="adapters=none"):
        net.adapt(CONFIG)


def _randomise(backbone: Backbone) -> None:
    """Training changes the second matrices, which begin at 0."""
    with torch.no_grad():
        for name, tensor in backbone.named_parameters():
            if ".lora_B." in name:
                tensor.normal_(std=0.2)
