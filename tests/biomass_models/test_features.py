from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_inputs import RANDOM, inputs_for, tiny_quadrats

from biomass_models.backbones.adapter import BackboneError, Tokens, build_backbone
from biomass_models.backbones.devices import encoding_precision
from biomass_models.data.frames import FITS
from biomass_models.data.images import load_views, views_for
from biomass_models.features import encoding
from biomass_models.features import inputs as inputs_module
from biomass_models.features.augment import turn
from biomass_models.features.chunks import SUFFIX, read_chunk
from biomass_models.features.encoding import copy_of, encode, to_image
from biomass_models.features.outputs import GLOBAL, PATCH_MEAN, PATCH_STD, Grid, Output, Trunk
from biomass_models.features.spec import FeatureSpec, array_name
from biomass_models.hashes import hash_of
from biomass_models.interrupt import StopRequested

SPEC = FeatureSpec(backbone="test_efficientnet", views=views_for("whole", 64))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("photographs")
    return folder, tiny_quadrats(folder)[0]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int]]:
    """Arrays asked for and number of photographs of each encoding run."""
    calls: list[tuple[list[str], int]] = []

    def counting(*args: Any) -> Iterator[dict[str, np.ndarray]]:
        calls.append((list(args[4]), len(args[2])))
        return encode(*args)

    monkeypatch.setattr(inputs_module, "encode", counting)
    monkeypatch.setattr("biomass_models.features.encoding.PIXELS_AT_ONCE", {"cpu": 8 * 64**2})  # batches of 8
    return calls


def test_bank_holds_what_the_backbone_says_of_each_turned_picture(data: Any, tmp_path: Path) -> None:
    folder, table = data
    spec = replace(SPEC, backbone="test_vit", flips=8, outputs=(GLOBAL, PATCH_MEAN, PATCH_STD, Grid(2)))
    bank = inputs_for(folder, table, tmp_path).features(spec)
    backbone = build_backbone("test_vit", RANDOM)
    picture = to_image(np.stack(load_views(folder / "q3.jpg", spec.views)), torch.device("cpu"))
    assert bank.stack(GLOBAL).shape == (len(table), 8, 1, 64)
    for copy in (0, 5):
        with torch.inference_mode():
            tokens = backbone(turn(picture, copy))
        torch.testing.assert_close(bank.stack(GLOBAL)[3, copy, 0], tokens.global_BD[0], atol=1e-5, rtol=1e-4)
        patch_PD = tokens.patch_BPD[0]
        torch.testing.assert_close(bank.stack(PATCH_MEAN)[3, copy, 0], patch_PD.mean(0), atol=1e-5, rtol=1e-4)
        spread = patch_PD.std(0, correction=0)
        torch.testing.assert_close(bank.stack(PATCH_STD)[3, copy, 0], spread, atol=1e-5, rtol=1e-4)
        quarters = patch_PD.view(2, 2, 2, 2, -1).mean((1, 3)).flatten(0, 1)  # 4 x 4 tokens -> 2 x 2
        torch.testing.assert_close(bank.stack(Grid(2))[3, copy, 0], quarters, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_that_multiplies_bfloat16_encodes_in_it(
    native: bool, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features in their own arrays, near the exact ones; prefixes, which training would compute itself, stay exact."""
    folder, table = data
    inputs = inputs_for(folder, table, tmp_path)
    exact = inputs.features(SPEC).stack(GLOBAL)
    prefix = replace(SPEC, outputs=(Trunk(1),), dtype="float32")
    exact_prefix = inputs.features(prefix).rows(Trunk(1), np.arange(4), np.zeros(4, int))
    monkeypatch.setenv("BIOMASS_ENCODING", "auto")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    again = inputs_for(folder, table, tmp_path)
    found = again.features(SPEC).stack(GLOBAL)
    error = float((found - exact).norm() / exact.norm())
    assert 1e-5 < error < 0.1 if native else error == 0
    np.testing.assert_array_equal(again.features(prefix).rows(Trunk(1), np.arange(4), np.zeros(4, int)), exact_prefix)


def test_a_precision_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOMASS_ENCODING", "bfloat")
    with pytest.raises(ValueError, match="auto or float32, got 'bfloat'"):
        encoding_precision(torch.device("cpu"))


def test_views_and_layers_have_their_own_arrays(data: Any, tmp_path: Path) -> None:
    folder, table = data
    spec = replace(SPEC, views=views_for("halves", 32), layers=(0, 1), jittered=1, dtype="float16")
    bank = inputs_for(folder, table, tmp_path).features(spec)
    assert bank.stack(GLOBAL).shape == (len(table), 2, 2, 256)
    assert bank.stack(GLOBAL, layer=1).shape == (len(table), 2, 2, 48)
    assert bank.arrays["turn0.layer0.global"].dtype == np.float16
    assert bank.stack(GLOBAL).dtype == torch.float32
    left, right = bank.stack(GLOBAL)[:, 0, 0], bank.stack(GLOBAL)[:, 0, 1]
    assert (left - right).abs().max() > 1e-3
    assert (bank.stack(GLOBAL)[:, 0] - bank.stack(GLOBAL)[:, 1]).abs().max() > 1e-3


def test_only_new_copies_are_computed_and_other_processes_find_them(data: Any, tmp_path: Path, counted: Any) -> None:
    folder, table = data
    inputs_for(folder, table, tmp_path).features(replace(SPEC, flips=2))
    inputs_for(folder, table, tmp_path).features(SPEC)
    inputs_for(folder, table, tmp_path).features(replace(SPEC, flips=4, outputs=(GLOBAL, PATCH_MEAN)))
    asked = [sorted({name.split(".")[0] for name in names}) for names, _ in counted]
    assert asked == [["turn0", "turn1"], ["turn2", "turn3"]]


def test_what_changes_the_numbers_is_in_the_key(data: Any, tmp_path: Path, counted: Any) -> None:
    folder, table = data
    copy = tmp_path / "photographs"
    shutil.copytree(folder, copy)
    cache = tmp_path / "cache"
    for spec in (SPEC, replace(SPEC, stamp="remove"), replace(SPEC, views=views_for("whole", 96)), SPEC):
        inputs_for(copy, table, cache).features(spec)
    assert [photographs for _, photographs in counted] == [len(table)] * 3
    counted.clear()
    shutil.copy(copy / "q0.jpg", copy / "q1.jpg")
    inputs_for(copy, table, cache).features(SPEC)
    shutil.copy(folder / "q1.jpg", copy / "q1.jpg")
    (copy / "q2.jpg").rename(copy / "renamed.jpg")
    table = table.replace({"q2.jpg": "renamed.jpg"})
    inputs_for(copy, table.iloc[::-1], cache).features(SPEC)
    assert not counted  # content counts, not time, name or place


def test_stop_is_honoured_and_resumed_where_it_stopped(data: Any, tmp_path: Path, counted: Any) -> None:
    folder, table = data
    seen: list[tuple[int, int]] = []
    stopping = inputs_for(folder, table, tmp_path)
    with pytest.raises(StopRequested, match="8 of 20"):
        stopping.features(SPEC, should_stop=lambda: bool(seen), on_progress=lambda *now: seen.append(now))
    whole = inputs_for(folder, table, tmp_path).features(SPEC, on_progress=lambda *now: seen.append(now))
    assert seen == [(8, 20), (16, 20), (20, 20)]
    assert [photographs for _, photographs in counted] == [20, 12]
    fresh = inputs_for(folder, table, tmp_path / "other").features(SPEC)
    assert torch.equal(whole.stack(GLOBAL), fresh.stack(GLOBAL))


def test_processes_of_one_node_do_not_compute_the_same(data: Any, tmp_path: Path, counted: Any) -> None:
    folder, table = data
    banks = []
    threads = [
        threading.Thread(target=lambda: banks.append(inputs_for(folder, table, tmp_path).features(SPEC))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 1
    assert torch.equal(banks[0].stack(GLOBAL), banks[1].stack(GLOBAL))


def test_jittered_copies_depend_on_seed_and_picture_alone(data: Any, tmp_path: Path) -> None:
    folder, table = data
    spec = replace(SPEC, jittered=1)
    many = inputs_for(folder, table, tmp_path / "a").features(spec).stack(GLOBAL)
    few = inputs_for(folder, table.iloc[[5, 2]], tmp_path / "b").features(spec).stack(GLOBAL)
    assert torch.equal(few[1], many[2])
    other = inputs_for(folder, table, tmp_path / "a").features(replace(spec, bank_seed=1)).stack(GLOBAL)
    assert torch.equal(other[:, 0], many[:, 0])
    assert not torch.allclose(other[:, 1], many[:, 1], atol=1e-3)


def test_sizes_that_patches_do_not_divide_are_noted(data: Any, tmp_path: Path) -> None:
    folder, table = data
    bank = inputs_for(folder, table, tmp_path).features(
        replace(SPEC, backbone="test_vit", views=views_for("whole", 70))
    )
    assert bank.spec.views[0].height == 64
    assert "rounded to 64x64" in bank.notes[0]


def test_pixels_are_decoded_once(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, table = data
    first = inputs_for(folder, table, tmp_path).pixels(SPEC.views[0], stamp="keep")
    monkeypatch.setattr("biomass_models.features.encoding.load_views", None)
    again = inputs_for(folder, table, tmp_path).pixels(SPEC.views[0], stamp="keep")
    np.testing.assert_array_equal(first.read(), again.read())
    np.testing.assert_array_equal(first.take(np.array([4]))[0], load_views(folder / "q4.jpg", SPEC.views)[0])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """357 different photographs."""
    folder = tmp_path_factory.mktemp("many")
    return folder, tiny_quadrats(folder, images=357)[0]


FAMILIES_OF_SPECS = {
    "transformer": replace(SPEC, backbone="test_vit", flips=2, jittered=1, outputs=(GLOBAL, Grid(2)), layers=(0, 1)),
    "convolutional": replace(SPEC, views=views_for("halves", 32)),
    "trunk": replace(SPEC, backbone="test_vit", outputs=(Trunk(1),)),
    "half": replace(SPEC, backbone="test_vit", dtype="float16"),
    "by place": replace(SPEC, backbone="efficientnet_b0", views=views_for("whole", 64)),
}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", FAMILIES_OF_SPECS)
def test_a_photograph_has_the_same_bytes_alone_among_30_and_among_357(
    kind: str, encoding: str, many: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = many
    spec = FAMILIES_OF_SPECS[kind]
    if encoding == "bfloat16":
        monkeypatch.setenv("BIOMASS_ENCODING", "auto")
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    whole = inputs_for(folder, table, tmp_path / "357").features(spec)
    some = [*range(100, 130)]
    few = inputs_for(folder, table.iloc[some], tmp_path / "30").features(spec)
    for row in (100, 129):
        alone = inputs_for(folder, table.iloc[[row]], tmp_path / f"alone-{row}").features(spec)
        for name, array in whole.arrays.items():
            expected = array.take(np.array([row])).tobytes()
            assert alone.arrays[name].read().tobytes() == expected
            assert few.arrays[name].take(np.array([row - 100])).tobytes() == expected


@dataclass(frozen=True)
class Loudest(Output):
    """What a package of others may keep: the largest value of each feature over the patches."""

    name = "loudest"

    def reduce(self, tokens: Tokens) -> torch.Tensor:
        return tokens.patch_BPD.float().amax(1)


@dataclass(frozen=True)
class Impostor(Loudest):
    """Another output under the same name."""


@pytest.mark.parametrize(
    "spec",
    [*FAMILIES_OF_SPECS.values(), replace(SPEC, outputs=(Loudest(),)), replace(SPEC, outputs=(Grid(3),), flips=2)],
)
def test_a_spec_knows_the_size_of_its_bank(spec: FeatureSpec, data: Any, tmp_path: Path) -> None:
    folder, table = data
    inputs_for(folder, table, tmp_path).features(spec)
    chunks = [read_chunk(path) for path in tmp_path.rglob(f"*{SUFFIX}")]
    written = sum(place.nbytes for chunk in chunks for place in chunk.arrays.values())
    inner = spec.layers != (0,)  # whose widths may be others
    assert written == pytest.approx(spec.gigabytes(len(table)) * 2**30, rel=0.2 if inner else 1e-9)
    names = {name for chunk in chunks for name in chunk.arrays}
    assert {array_name(copy, 0, output.name) for copy in spec.copies() for output in spec.stored} <= names


def test_banks_keep_the_names_that_they_had(data: Any) -> None:
    """A bank with another name is encoded again by everybody. If this fails after an edit that moves no number, the
    hash of the new source gets a line in hashes.SAME_NUMBERS; if a number moved, its line goes, and this changes."""
    made = encoding.describe(FAMILIES_OF_SPECS["transformer"], "weights", torch.device("cpu"), 8)
    assert (made["code"], made["decoder"]["code"]) == ("adad69201ac13989", "4e3796a7ea2bd5f0")
    versions = {"timm": "t", "torch": "t", "threads": 1, "decoder": {**made["decoder"], "pillow": "p"}}
    assert hash_of({**made, **versions}) == "b97e4ca361035373"


def _banks(cache: Path) -> dict[str, dict[str, Any]]:
    """What names each bank of a store, by its folder."""
    return {path.parent.name: json.loads(path.read_text()) for path in cache.glob("*/bank.json")}


def test_each_fit_has_banks_of_its_own_and_stretched_ones_keep_their_names(data: Any, tmp_path: Path) -> None:
    folder, table = data
    for fit in FITS:
        inputs = inputs_for(folder, table.iloc[:3], tmp_path / fit, fit=fit)
        inputs.features(SPEC)
        inputs.of(np.array([0, 2])).features(SPEC)
        inputs.of(np.array([1])).pixels(SPEC.views[0], stamp="keep")
    stretched, *others = (_banks(tmp_path / fit) for fit in FITS)
    assert len(stretched) == 2 and not any({"fit", "frames"} & facts.keys() for facts in stretched.values())
    for fit, banks in zip(FITS[1:], others, strict=True):
        assert len(banks) == 2 and not banks.keys() & stretched.keys()
        plain = [{name: fact for name, fact in one.items() if name not in ("fit", "frames")} for one in banks.values()]
        assert {facts["fit"] for facts in banks.values()} == {fit}
        assert {hash_of(facts) for facts in plain} == {hash_of(facts) for facts in stretched.values()}


def test_features_and_pixels_are_of_the_frame(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    table, _ = tiny_quadrats(folder, images=3)
    wide, tall = folder / "q0.jpg", folder / "q1.jpg"
    for path, size in ((wide, (160, 80)), (tall, (90, 120))):
        Image.open(path).resize(size).save(path, quality=95)
    by_fit = {fit: inputs_for(folder, table.iloc[:2], tmp_path / "cache", fit=fit) for fit in FITS}
    for fit, inputs in by_fit.items():
        pixels = inputs.pixels(SPEC.views[0], stamp="keep").read()
        for path, seen in zip((wide, tall), pixels, strict=True):
            np.testing.assert_array_equal(seen, load_views(path, SPEC.views, fit=fit)[0])
    stretched, cropped, padded = (inputs.features(SPEC).stack(GLOBAL) for inputs in by_fit.values())
    assert torch.equal(stretched[0], cropped[0]) and torch.equal(stretched[0], padded[0])  # it is 2 : 1
    assert not torch.equal(stretched[1], cropped[1]) and not torch.equal(cropped[1], padded[1])


def test_code_of_others_that_makes_an_output_is_in_the_name_of_its_bank() -> None:
    plain, other = (replace(SPEC, outputs=outputs) for outputs in ((GLOBAL,), (GLOBAL, Loudest())))
    names = [encoding.describe(spec, "weights", torch.device("cpu"), 8) for spec in (plain, other)]
    assert "outputs" not in names[0]
    assert names[1] == {**names[0], "outputs": {"loudest": hash_of({"source": Path(__file__).read_text()})}}
    with pytest.raises(ValueError, match="one output"):
        replace(SPEC, outputs=(Loudest(), Impostor()))


def test_networks_whose_products_depend_on_the_place_see_one_picture_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_place(_backbone: Any, image_BCHW: torch.Tensor, *_: Any) -> dict[Any, torch.Tensor]:
        return {"a": torch.ones(len(image_BCHW)), "b": image_BCHW.mean((1, 2, 3)) + torch.arange(len(image_BCHW))}

    device, backbone = torch.device("cpu"), build_backbone("test_vit", RANDOM)
    assert encoding.places_are_alike(backbone, replace(SPEC, backbone="test_vit"), (0,), device, 8)
    monkeypatch.setattr(encoding, "_ALIKE", {})
    monkeypatch.setattr(encoding, "_outputs", by_place)
    assert not encoding.places_are_alike(backbone, SPEC, (0,), device, 8)
    assert encoding.places_are_alike(backbone, SPEC, (0,), device, 1)


def test_a_batch_that_does_not_fit_is_halved_for_good_and_its_bank_is_another(
    data: Any, tmp_path: Path, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = data
    outputs = encoding._outputs

    def short_of_memory(backbone: Any, image_BCHW: torch.Tensor, *rest: Any) -> Any:
        if len(image_BCHW) > 4:
            raise torch.cuda.OutOfMemoryError("pretend")
        return outputs(backbone, image_BCHW, *rest)

    monkeypatch.setattr(encoding, "_ALIKE", {("pretend",): True})
    monkeypatch.setattr(encoding, "places_are_alike", lambda *_: True)
    monkeypatch.setattr(encoding, "_outputs", short_of_memory)
    inputs = inputs_for(folder, table, tmp_path)
    inputs.features(SPEC)
    inputs.features(replace(SPEC, stamp="remove"))
    banks = [
        json.loads(path.read_text())["batch"]
        for path in tmp_path.glob("*/bank.json")
        if any(path.parent.rglob("*.safetensors"))
    ]
    assert banks == [4, 4]


def test_added_photographs_and_those_of_a_test_set_are_encoded_once(data: Any, tmp_path: Path, counted: Any) -> None:
    folder, table = data
    inputs_for(folder, table.iloc[:12], tmp_path).features(SPEC)
    inputs_for(folder, table, tmp_path).features(SPEC)  # eight labelled photographs more
    assert [photographs for _, photographs in counted] == [12, 8]
    test = inputs_for(folder, table.iloc[[3, 15]], tmp_path, area="prediction")
    assert test.features(SPEC).arrays["turn0.layer0.global"].shape == (2, 1, 256)
    assert len(counted) == 2


@pytest.mark.parametrize("bad", [{"outputs": ("patches",)}, {"flips": 3}, {"dtype": "int8"}, {"layers": 0}])
def test_specs_check_themselves(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        replace(SPEC, **bad)


def test_each_picture_is_jittered_in_its_own_way() -> None:
    spec = replace(SPEC, jittered=1, colour_jitter=0.3)
    alike_BCHW = torch.rand(1, 3, 16, 16).expand(3, 3, 16, 16)
    first, other, again = copy_of(alike_BCHW, spec.copies()[1], spec, ("a", "b", "a"))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize(
    ("value", "outputs", "dtype", "remedy"),
    [
        (1e5, (Trunk(2),), "float16", r"store them as float32 \(prefix_bank=float32\)"),
        (1e5, (GLOBAL, Grid(2)), "float16", r"store them as float32 \(token_bank=float32\)"),
        (np.inf, (Trunk(2),), "float16", "set trained_blocks=0"),
        (np.inf, (GLOBAL,), "float32", "set BIOMASS_ENCODING=float32"),
    ],
)
def test_features_that_are_not_finite_name_what_makes_them_so(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, outputs: Any, dtype: str, remedy: str
) -> None:
    folder, table = data
    given = encoding._outputs

    def large(*arguments: Any) -> Any:
        return {name: torch.full_like(tensor, value) for name, tensor in given(*arguments).items()}

    monkeypatch.setattr(encoding, "_outputs", large)
    inputs = inputs_for(folder, table.iloc[:2], tmp_path)
    spec = replace(SPEC, backbone="test_vit", outputs=outputs, dtype=dtype)
    with pytest.raises(BackboneError, match=remedy):
        inputs.features(spec)
    if np.isfinite(value):  # as the message says
        assert inputs.features(replace(spec, dtype="float32")).notes == ()
