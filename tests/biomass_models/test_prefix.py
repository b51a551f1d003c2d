"""A cached prefix and the trained blocks on top of it are the whole backbone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_inputs import RANDOM, inputs_for, tiny_quadrats

from biomass_models.backbones.adapter import build_backbone
from biomass_models.backbones.trunk import BackboneTail, prefix_of
from biomass_models.data.images import views_for
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.families.registry import model
from biomass_models.features.chunks import SUFFIX, read_chunk
from biomass_models.features.inputs import Inputs
from biomass_models.features.outputs import GLOBAL, Trunk
from biomass_models.features.spec import FeatureSpec

KINDS = ("test_vit", "test_vit2", "test_vit3", "test_convnext", "test_efficientnet", "test_resnet", "test_mambaout")
PUBLISHED = ("vit_small_patch16_dinov3", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224")
BASELINE = BaselineConfig(
    backbone="test_vit", size=64, trained_blocks=1, epochs=3, batch_size=8, head_lr=1e-3, backbone_lr=1e-3,
    flips=4, colour_jitter=0.0, blur=0.0, head_width=32, head_width_2=16,
)  # fmt: skip
DISTILLED = DistilledConfig(
    backbone="test_vit2", size=64, layout="halves", local_size=48, trained_blocks=1, epochs=2, batch_size=8,
    head_lr=1e-3, backbone_lr=1e-3, flips=2, colour_jitter=0.0, blur=0.0, head_width=32, head_width_2=16,
    teacher_epochs=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("photographs")
    quadrats, fold_N = tiny_quadrats(folder)
    return inputs_for(folder, quadrats, tmp_path_factory.mktemp("cache")), quadrats, fold_N


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS, *PUBLISHED])
def test_front_and_end_are_the_whole(name: str) -> None:
    backbone = build_backbone(name, RANDOM)
    height, width, _ = backbone.fit_size(112, 96)
    picture = torch.rand(2, 3, height, width)
    with torch.no_grad():
        whole, prefix = backbone(picture), prefix_of(backbone, picture, 2)
        backbone.train_last(2)
        trained = set(backbone.trained_state())
        size = sum(tensor.numel() for tensor in backbone.parameters())
        tail = BackboneTail(backbone, 2).eval()
        again = tail(prefix, (height, width))
    torch.testing.assert_close(again.global_BD, whole.global_BD)
    torch.testing.assert_close(again.patch_BPD, whole.patch_BPD)
    assert again.grid == whole.grid
    assert set(tail.trained_state()) == trained
    assert sum(tensor.numel() for tensor in tail.parameters()) < size  # the frozen blocks are gone


@pytest.mark.slow
@pytest.mark.parametrize(("family", "config"), [("baseline", BASELINE), ("distilled", DISTILLED)])
def test_cached_and_uncached_training_have_one_loss_curve(family: str, config: Any, world: Any) -> None:
    """Same draws of the same turns: what the frozen blocks say of a picture does not depend on when they say it."""
    inputs, quadrats, fold_N = world
    fresh = model(family).fit(config, quadrats, fold_N, 0, inputs, seed=4)
    cached_config = replace(config, prefix_bank="float32")
    cached = model(family).fit(cached_config, quadrats, fold_N, 0, inputs, seed=4)
    losses, expected = ([record["loss"] for record in result.epochs] for result in (cached, fresh))
    np.testing.assert_allclose(losses, expected, rtol=2e-4)
    np.testing.assert_allclose(cached.pred_NT, fresh.pred_NT, rtol=1e-2, atol=1e-2)
    assert set(cached.tensors) == set(fresh.tensors)
    crossed = model(family).predict(config, cached.tensors, inputs)[cached.row_N]
    np.testing.assert_allclose(crossed, cached.pred_NT, rtol=1e-4, atol=1e-3)  # a fit of one predicts through the other
    half = model(family).fit(replace(config, prefix_bank="float16"), quadrats, fold_N, 0, inputs, seed=4)
    np.testing.assert_allclose([record["loss"] for record in half.epochs], expected, rtol=2e-2)


def test_a_prefix_bank_holds_its_precision_and_nothing_else(world: Any, tmp_path: Path) -> None:
    inputs, quadrats, _ = world
    inputs = inputs_for(inputs.images.paths[0].parent, quadrats, tmp_path)
    spec = FeatureSpec(backbone="test_vit", views=views_for("whole", 64), flips=2, outputs=(Trunk(1),), dtype="float16")
    bank = inputs.features(spec)
    assert {array.dtype for array in bank.arrays.values()} == {np.dtype(np.float16)}
    (chunk,) = map(read_chunk, tmp_path.rglob(f"*{SUFFIX}"))
    assert set(chunk.arrays) == {f"turn{copy}.layer0.prefix-1" for copy in range(2)}
    with pytest.raises(ValueError, match="stands alone"):
        replace(spec, outputs=(Trunk(1), GLOBAL))


@pytest.mark.slow
def test_a_compiled_network_trains_and_stores_as_it_is(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile changes the rounding of sums and draws dropout masks of its own; the rest is as without it."""
    inputs, quadrats, fold_N = world
    config = replace(BASELINE, dropout=0.0)
    # the graphs of both passes are captured and run; to have them translated to C++ as well takes half a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiling = Inputs(inputs.images, cache_dir=tmp_path, weights=RANDOM, device="cpu", compile=True)
    plain = model("baseline").fit(config, quadrats, fold_N, 0, inputs, seed=4)
    compiled = model("baseline").fit(config, quadrats, fold_N, 0, compiling, seed=4)
    assert compiled.info["compiled"] and "compiled" not in plain.info
    losses, expected = ([record["loss"] for record in result.epochs] for result in (compiled, plain))
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert set(compiled.tensors) == set(plain.tensors)
    restored = model("baseline").predict(config, compiled.tensors, inputs)[compiled.row_N]
    np.testing.assert_allclose(restored, compiled.pred_NT, rtol=1e-4, atol=1e-3)
