from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from biomass_models.backbones import weights
from biomass_models.backbones.adapter import create_timm
from biomass_models.backbones.checkpoints import read_checkpoint
from biomass_models.backbones.obtain import target_folder
from biomass_models.backbones.weights import (
    WeightsError,
    WeightsSource,
    canonical_name,
    find_weights,
    fingerprint,
    load_weights,
)

LITE = "tf_efficientnet_lite0"
NAME = "test_vit.r160_in1k"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "_from_hub", lambda name: (None, "timm's hub cannot be reached"))


def test_packaged_lite0_is_the_trained_network() -> None:
    """scikit-learn's photographs come out as ImageNet's palace (698) and daisy (985)."""
    model = timm.create_model(LITE)
    assert load_weights(model, LITE, WeightsSource()) == "package"
    model.eval()
    for picture, expected in zip(load_sample_images().images, (698, 985), strict=True):
        height, width = picture.shape[:2]
        side = 0.875 * min(height, width)  # the published evaluation: resize 256, centre crop 224
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        small = Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC, box=box)
        image_BCHW = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            assert model((image_BCHW - 0.5) / 0.5).argmax().item() == expected


@pytest.mark.slow
def test_every_packaged_tensor_is_used_once() -> None:
    model = timm.create_model(LITE)
    file = weights.find_weights(LITE, WeightsSource())
    assert file.rename is not None
    state = read_checkpoint(file.path)
    names = {file.rename(key, list(model.state_dict())) for key in state}
    assert names == set(model.state_dict())
    assert len(names) == len(state) == 296


def test_misspelt_backbone_names_close_ones() -> None:
    with pytest.raises(WeightsError, match="tf_efficientnet_lite0"):
        canonical_name("tf_eficientnet_lite0")
    with pytest.raises(WeightsError, match=r"lvd142m"):
        canonical_name("vit_small_patch14_dinov2.lvd1")


@pytest.mark.usefixtures("no_network")
def test_absent_weights_say_which_file_to_put_where(tmp_path: Path) -> None:
    for source in (WeightsSource(), WeightsSource(kind="folder", folder=tmp_path)):
        with pytest.raises(WeightsError, match=r"dinov2_vits14_pretrain\.pth") as caught:
            fingerprint("vit_small_patch14_dinov2", source)
        assert "vit_small_patch14_dinov2.lvd142m.safetensors" in str(caught.value)
    with pytest.raises(WeightsError, match="existing directory"):
        WeightsSource(folder=tmp_path / "nowhere")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("file", [f"{NAME}.safetensors", "test_vit.pth", f"{NAME}.pt"])
def test_folder_gives_weights_with_and_without_tag(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = timm.create_model("test_vit", num_classes=7)
    if file.endswith(".safetensors"):
        safetensors.torch.save_file(trained.state_dict(), tmp_path / file)
    else:
        torch.save({"state_dict": trained.state_dict()}, tmp_path / file)
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    bare = create_timm("test_vit")
    assert load_weights(bare, "test_vit", WeightsSource()) == "folder"
    for name, tensor in bare.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name])
    first = fingerprint("test_vit", WeightsSource())
    assert first == fingerprint("test_vit", WeightsSource(kind="folder", folder=tmp_path))
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes() + b"\0")
    assert fingerprint("test_vit", WeightsSource()) != first


@pytest.mark.slow
def test_published_dinov2_file_goes_through_timms_filter(tmp_path: Path) -> None:
    name = "vit_small_patch14_dinov2"
    model = create_timm(name)
    published = {key.replace("reg_token", "register_tokens"): value for key, value in model.state_dict().items()}
    torch.save(published | {"mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2_vits14_pretrain.pth")
    other = create_timm(name)
    load_weights(other, name, WeightsSource(kind="folder", folder=tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_unfitting_tensors_are_named(tmp_path: Path, damage: str) -> None:
    state = create_timm("test_vit").state_dict()
    if damage == "missing":
        del state["blocks.0.attn.qkv.weight"]
    elif damage == "unknown":
        state["blocks.9.attn.qkv.weight"] = torch.zeros(2)
    else:
        state["blocks.0.attn.qkv.weight"] = torch.zeros(3, 3)
    safetensors.torch.save_file(state, tmp_path / "test_vit.safetensors")
    with pytest.raises(WeightsError, match=r"blocks\.\d\.attn\.qkv\.weight"):
        load_weights(create_timm("test_vit"), "test_vit", WeightsSource(kind="folder", folder=tmp_path))


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.path,))  # type: ignore[return-value]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"weight": Trap(tmp_path / "sprung")}, tmp_path / "test_vit.pth")
    with pytest.raises(WeightsError, match="tensors only"):
        load_weights(create_timm("test_vit"), "test_vit", WeightsSource(kind="folder", folder=tmp_path))
    assert not (tmp_path / "sprung").exists()


def test_random_weights_depend_on_the_name_alone() -> None:
    source, states = WeightsSource(kind="random"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = create_timm("test_efficientnet")
        assert load_weights(model, "test_efficientnet", source) == "random"
        states.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert fingerprint("test_efficientnet", source).startswith("random-test_efficientnet")


def test_a_folder_that_no_shell_wrote_out_is_one_folder_for_all(
    no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BIOMASS_WEIGHTS=~/w of a .env file: what is obtained is what is found."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(weights.FOLDER_VARIABLE, "~/w")
    assert target_folder() == weights.named_folder() == tmp_path / "w"
    with pytest.raises(WeightsError, match=f"into {tmp_path}/w"):
        find_weights("test_vit", WeightsSource())
    (tmp_path / "w").mkdir()
    path = tmp_path / "w" / f"{canonical_name('test_vit')}.safetensors"
    path.write_bytes(b"tensors")
    for source in (WeightsSource(), WeightsSource("folder", Path("~/w")), WeightsSource(folder=Path("~/w"))):
        assert find_weights("test_vit", source).path == path
    assert WeightsSource("folder", Path("~/w")) == WeightsSource("folder", tmp_path / "w")
    with monkeypatch.context() as without_home:
        without_home.setattr(Path, "expanduser", Mock(side_effect=RuntimeError))
        assert weights.named_folder() == Path("~/w")
