"""Pooled statistics of tokens, and layers by their share of the depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_inputs import RANDOM, inputs_for, tiny_quadrats

from biomass_models.backbones.adapter import Tokens, build_backbone, weightless
from biomass_models.config_rules import STATISTICS, pooling_of, sizes_of, taps_of
from biomass_models.data.images import load_views, views_for
from biomass_models.errors import UserError
from biomass_models.features import encoding
from biomass_models.features import inputs as inputs_module
from biomass_models.features.encoding import encode, to_image
from biomass_models.features.outputs import GLOBAL, PATCH_GEM, PATCH_MAX, PATCH_MEAN, PATCH_MIN, PATCH_STD, Grid
from biomass_models.features.pooled import outputs_of, pooled, tap_layers
from biomass_models.features.spec import FeatureSpec

SPEC = FeatureSpec(backbone="test_vit", views=views_for("halves", 32))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("photographs")
    return folder, tiny_quadrats(folder)[0].iloc[:4]


def tokens_of(patch_PD: list[list[float]], dtype: torch.dtype = torch.float32) -> Tokens:
    patch_BPD = torch.tensor([patch_PD], dtype=dtype)
    return Tokens(torch.tensor([[9.0, 9.0]]), patch_BPD, (patch_BPD.shape[1], 1))


def test_statistics_are_those_computed_by_hand() -> None:
    tokens = tokens_of([[1.0, -2.0], [2.0, 1.0], [3.0, -1.0]])
    by_hand = {
        GLOBAL: [9.0, 9.0],
        PATCH_MEAN: [2.0, -2 / 3],
        PATCH_MAX: [3.0, 1.0],
        PATCH_MIN: [1.0, -2.0],
        PATCH_GEM: [12 ** (1 / 3), -((8 / 3) ** (1 / 3))],  # (1 + 8 + 27) / 3; (-8 + 1 - 1) / 3
        PATCH_STD: [(2 / 3) ** 0.5, (14 / 9) ** 0.5],
    }
    for output, expected in by_hand.items():
        torch.testing.assert_close(output.reduce(tokens)[0], torch.tensor(expected))
    assert tuple(by_hand) == outputs_of(STATISTICS)


def test_gem_is_finite_and_signed_in_half_precision() -> None:
    """|x|^3 of 300 is 2.7e7, far beyond what float16 holds; a zero has no sign and stays a zero."""
    for dtype in (torch.float16, torch.bfloat16):
        found = PATCH_GEM.reduce(tokens_of([[300.0, 0.0], [-60.0, 0.0]], dtype))[0]
        given_PD = torch.tensor([[300.0], [-60.0]], dtype=dtype).double()  # as the type rounds them
        torch.testing.assert_close(found, torch.tensor([float((given_PD**3).mean() ** (1 / 3)), 0.0]))


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=9), st.floats(0.0625, 8, width=32))
def test_laws_of_gem(values: list[float], factor: float) -> None:
    """Between the smallest and the largest; odd; scales with its tokens; of equal tokens it is the token."""

    def gem(numbers: list[float]) -> float:
        return float(PATCH_GEM.reduce(tokens_of([[number, number] for number in numbers]))[0, 0])

    found = gem(values)
    room = 1e-4 * max(1.0, *map(abs, values))  # a cube root of what cancels in float32
    if abs(sum(value**3 for value in values)) > 1e-3 * sum(abs(value) ** 3 for value in values):
        assert min(values) - room <= found <= max(values) + room
        assert gem([factor * value for value in values]) == pytest.approx(factor * found, rel=1e-2, abs=room)
    assert gem([-value for value in values]) == -found
    assert gem([values[0]] * 5) == pytest.approx(values[0], rel=1e-5, abs=1e-12)


def test_taps_are_the_nearest_layers() -> None:
    assert weightless("vit_small_patch14_dinov2").depth == 12
    assert tap_layers("vit_small_patch14_dinov2", (0.67, 0.83, 1.0)) == (4, 2, 0)  # blocks 8, 10 and 12 of 12
    assert tap_layers("vit_small_patch14_dinov2", (0.01, 0.04, 0.5)) == (11, 6)  # the first for both
    assert tap_layers("tf_efficientnet_lite0", (0.67, 0.83, 1.0)) == (2, 1, 0)  # 5 stages: 3, 4 and 5
    assert tap_layers("test_vit", (0.25, 1.0)) == (4, 0)  # 1.5 of 6 is 2


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_efficientnet"])
def test_layers_have_the_same_numbers_whichever_are_asked_for(name: str) -> None:
    backbone, picture = build_backbone(name, RANDOM), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        every = backbone.layers(picture, tuple(range(backbone.depth)))
        some = backbone.layers(picture, (3, 0, 2))
    assert len(every) == backbone.depth
    for number, tokens in zip((3, 0, 2), some, strict=True):
        assert torch.equal(tokens.patch_BPD, every[number].patch_BPD)
        assert torch.equal(tokens.global_BD, every[number].global_BD)


def test_an_inner_layer_is_the_output_of_its_block() -> None:
    """Block 8 of 12, through the final norm; seen by a hook, without timm's own way of showing layers."""
    backbone = build_backbone("vit_tiny_patch16_224", RANDOM)
    seen: list[torch.Tensor] = []
    backbone.blocks()[7].register_forward_hook(lambda _module, _given, output: seen.append(output))
    with torch.inference_mode():
        picture = torch.rand(1, 3, 32, 48)
        tokens = backbone.layers(picture, tap_layers("vit_tiny_patch16_224", (0.67,)))[0]
        expected = backbone.model.norm(seen[0])
    torch.testing.assert_close(tokens.patch_BPD, expected[:, 1:])
    torch.testing.assert_close(tokens.global_BD, expected[:, 0])


def test_a_bank_holds_the_statistics_of_the_layers_asked_for(data: Any, tmp_path: Path) -> None:
    folder, table = data
    spec = replace(SPEC, layers=tap_layers("test_vit", (0.5, 1.0)), outputs=outputs_of(("mean", "max", "gem")), flips=2)
    bank = inputs_for(folder, table, tmp_path).features(spec)
    assert {name.split(".")[1] for name in bank.arrays} == {"layer0", "layer3"}
    found_NVF = pooled(bank, spec.outputs, 3)
    assert found_NVF.shape == (4, 2, 3 * 64) and found_NVF.dtype == np.float64
    backbone = build_backbone("test_vit", RANDOM)
    picture = to_image(np.stack([load_views(folder / "q2.jpg", spec.views)[1]]), torch.device("cpu"))
    with torch.inference_mode():
        copies = [backbone.layers(turned, (3,))[0].patch_BPD[0] for turned in (picture, picture.flip(3))]
    expected = [(copies[0].amax(0) + copies[1].amax(0)) / 2, (copies[0].mean(0) + copies[1].mean(0)) / 2]
    np.testing.assert_allclose(found_NVF[2, 1, 64:128], expected[0], atol=1e-5)
    np.testing.assert_allclose(found_NVF[2, 1, :64], expected[1], atol=1e-5)


def test_other_statistics_of_layers_that_are_there_need_no_pass(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = data
    passes: list[list[str]] = []

    def counting(*args: Any) -> Any:
        passes.append(list(args[4]))
        return encode(*args)

    monkeypatch.setattr(inputs_module, "encode", counting)
    inputs_for(folder, table, tmp_path).features(replace(SPEC, layers=(0, 2)))
    for statistic in STATISTICS:
        inputs_for(folder, table, tmp_path).features(replace(SPEC, outputs=outputs_of((statistic,)), layers=(2,)))
    assert len(passes) == 1
    inputs_for(folder, table, tmp_path).features(replace(SPEC, layers=(0, 3, 2)))
    assert passes[1:] == [["turn0.layer3.global"]]


def test_jittered_copies_keep_what_is_asked_for_and_the_old_three() -> None:
    always = {"global", "patch_mean", "patch_std"}
    assert {one.name for one in replace(SPEC, jittered=4, outputs=(Grid(2),)).stored} == {*always, "grid-2"}
    assert {one.name for one in SPEC.stored} == {*always, "patch_max", "patch_min", "patch_gem"}


def test_wider_statistics_do_not_depend_on_the_place_in_a_batch() -> None:
    """Of a width that no vector register divides: otherwise whole networks would be encoded picture by picture."""
    token_PD = torch.randn(49, 83, generator=torch.Generator().manual_seed(0))
    for count in (2, 5, 8):
        batch = Tokens(torch.zeros(count, 83), token_PD.repeat(count, 1, 1), (7, 7))
        for output in (PATCH_MAX, PATCH_MIN, PATCH_GEM):
            found_BD = output.reduce(batch)
            assert bool((found_BD == output.reduce(Tokens(batch.global_BD[:1], token_PD[None], (7, 7)))).all())
    backbone = build_backbone("test_vit", RANDOM)
    assert encoding.places_are_alike(backbone, replace(SPEC, layers=(0, 2)), (0, 2), torch.device("cpu"), 8)


def test_settings_are_read_from_their_texts() -> None:
    assert pooling_of("global+mean+std") == ("global", "mean", "std")
    assert pooling_of("mean+max+min+gem") == ("mean", "max", "min", "gem")
    assert taps_of("") == () and taps_of("0.67+0.83+1") == (0.67, 0.83, 1.0)
    assert sizes_of("more_sizes", "") == () and sizes_of("more_sizes", "336+448") == (336, 448)


@pytest.mark.parametrize(
    ("read", "value", "said"),
    [
        (pooling_of, "std+mean", r"in this order: mean\+std"),
        (pooling_of, "mean+mean", r"each once and in this order: mean, got"),
        (pooling_of, "median", "global, mean, max"),
        (pooling_of, "", "joined by"),
        (taps_of, "0.83+0.67", "ascending"),
        (taps_of, "0.5+0.5", "ascending"),
        (taps_of, "0", r"\(0, 1\]"),
        (taps_of, "1.2", r"\(0, 1\]"),
        (taps_of, "nan", r"\(0, 1\]"),
        (taps_of, "0.670+1.0", r"shortest spelling: 0\.67\+1"),
        (taps_of, "last", "shares of the depth"),
        (lambda value: sizes_of("more_sizes", value), "448+336", "more_sizes must be .* ascending"),
        (lambda value: sizes_of("more_sizes", value), "8", "from 16 to 4096"),
        (lambda value: sizes_of("more_sizes", value), "336.5", "got '336.5'"),
        (lambda value: sizes_of("more_sizes", value), "336+", "got '336"),
    ],
)
def test_other_texts_are_refused_with_the_rule(read: Any, value: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(value)


@pytest.mark.parametrize("layers", [(), (-1,), (0, 0)])
def test_layers_that_are_none_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="different numbers from the end"):
        replace(SPEC, layers=layers)
