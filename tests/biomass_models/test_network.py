"""What all networks share: memory is saved by computing activations again before a fit gives up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_inputs import RANDOM, inputs_for, tiny_quadrats

from biomass_models.backbones.adapter import build_backbone
from biomass_models.backbones.trunk import BackboneTail
from biomass_models.families.baseline import model as baseline
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.baseline.model import BaselineNet
from biomass_models.training.heads import mlp_head
from biomass_models.training.network import Network

TRAINED = BaselineConfig(
    backbone="test_vit", size=64, trained_blocks=2, epochs=2, batch_size=8, head_lr=1e-3, backbone_lr=1e-3
)


def gradients(net: Network, given: Any) -> dict[str, torch.Tensor]:
    net.zero_grad()
    net(given).square().sum().backward()
    return {name: tensor.grad for name, tensor in net.named_parameters() if tensor.grad is not None}


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_efficientnet", "test_convnext", "test_resnet"])
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    backbone, given = build_backbone(name, RANDOM), torch.rand(2, 3, 64, 64)
    backbone.train_last(2)
    net = BaselineNet(backbone, mlp_head(backbone.shapes(64, 64).global_BD.shape[1], width=8, width_2=4, dropout=0.0))
    net.eval()  # no dropout, BatchNorm as it is
    kept = gradients(net, given)
    assert net.recompute() and not net.recompute()
    again = gradients(net, given)
    assert set(again) == set(kept) and len(kept) > 6
    for tensor, expected in ((again[name], kept[name]) for name in kept):
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=1e-3)


def test_what_keeps_no_activations_has_nothing_to_recompute() -> None:
    head = mlp_head(8, width=4, width_2=4, dropout=0.0)
    assert not BaselineNet(None, head).recompute()
    assert not BaselineNet(BackboneTail(build_backbone("test_vit", RANDOM), 1), head).recompute()


def test_a_fit_recomputes_before_it_gives_up(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on which one picture fits only without stored activations (pretended: there is none here)."""
    quadrats, fold_N = tiny_quadrats(tmp_path)
    inputs = inputs_for(tmp_path, quadrats, tmp_path / "cache")
    forward = BaselineNet.forward

    def short_of_memory(self: BaselineNet, given: Any) -> torch.Tensor:
        if self.training and not (self.recomputes and len(given) == 1):
            raise torch.cuda.OutOfMemoryError("pretend")
        return forward(self, given)

    monkeypatch.setattr(BaselineNet, "forward", short_of_memory)
    info = baseline.fit(TRAINED, quadrats, fold_N, 0, inputs, seed=0).info
    assert (info["micro_batch"], info["recomputed"]) == (1, True)
