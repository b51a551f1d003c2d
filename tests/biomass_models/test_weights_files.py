"""Weights files as people have them: published names, wrappers around the tensors, and files that hold none."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from biomass_models.backbones.adapter import create_timm, weightless
from biomass_models.backbones.weights import (
    WeightsError,
    WeightsFileError,
    WeightsSource,
    find_weights,
    load_weights,
    verify_weights,
)

pytestmark = pytest.mark.slow

NAME = "test_vit.r160_in1k"
State = dict[str, torch.Tensor]


def folder_source(folder: Path) -> WeightsSource:
    return WeightsSource("folder", folder)


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    return {key: torch.randn_like(tensor) for key, tensor in create_timm(NAME).state_dict().items()}


def other(state: State) -> State:
    return {key: tensor + 1 for key, tensor in state.items()}


def wrapped(prefix: str, state: State) -> State:
    return {f"{prefix}.{key}": tensor for key, tensor in state.items()}


def loaded(folder: Path, name: str = NAME) -> State:
    """What a model holds after loading; that the check before a search agrees is part of it."""
    verify_weights(name, folder_source(folder))
    model = create_timm(name)
    load_weights(model, name, folder_source(folder))
    return model.state_dict()


def refusal(folder: Path, name: str = NAME) -> str:
    """The one sentence with which check and load refuse a file alike."""
    with pytest.raises(WeightsFileError) as caught:
        verify_weights(name, folder_source(folder))
    with pytest.raises(WeightsFileError) as again:
        load_weights(weightless(name).model, name, folder_source(folder))
    assert str(caught.value) == str(again.value) and "\n" not in str(caught.value)
    return str(caught.value)


def same(one: State, two: State) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


# -- files that hold no tensors ---------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 1224960\n"
FILES: dict[str, tuple[bytes, str, str]] = {
    "pointer": (POINTER, "got a git-lfs pointer to one of 1.2 MB", "run `git lfs pull`"),
    "older pointer": (b"version https://git-lfs.github.com/spec/v1\nsize x", "a git-lfs pointer;", "git lfs pull"),
    "login page": (b"\n<!DOCTYPE html><html><title>Sign in</title>", "got a web page", "download the file itself"),
    "page": (b"<HTML>404", "got a web page", "logged in if need be"),
    "S3's answer": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "a server's answer", "download the file"),
    "the hub's answer": (b'{"error":"Access to model is restricted"}', "a server's answer", "download the file"),
    "empty": (b"", "got an empty file", "download or copy it again"),
    "zeros": (bytes(5000), "got 5000 bytes that begin with zeros only", "download or copy it again"),
    "text": (b"x\n", "neither safetensors nor torch's format", "download or copy it again"),
    "header alone": ((999).to_bytes(8, "little") + b'{"a":', "less than its own header", "download it again"),
    "torn zip": (b"PK\x03\x04" + bytes(50), "cut off or damaged", "download or copy it again"),
    "torn pickle": (b"\x80\x02}q", "cut off or damaged", "download or copy it again"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("case", FILES)
def test_a_file_without_tensors_is_refused_with_what_it_is_and_what_to_do(
    case: str, suffix: str, tmp_path: Path
) -> None:
    content, got, remedy = FILES[case]
    (tmp_path / f"test_vit{suffix}").write_bytes(content)
    text = refusal(tmp_path)
    assert f"test_vit{suffix} must hold the weights of {NAME}" in text and got in text and remedy in text
    assert "huggingface.co/timm/test_vit.r160_in1k" in text


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_download_that_was_cut_off_is_refused(share: float, suffix: str, tmp_path: Path, state: State) -> None:
    path = tmp_path / f"test_vit{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "cut off" in refusal(tmp_path)


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "content",
    [
        lambda trap, model: model,
        lambda trap, model: {"state_dict": model.state_dict(), "callback": trap},
        lambda trap, model: {**model.state_dict(), "extra": trap},
        lambda trap, model: [trap],
    ],
    ids=["whole model", "beside", "among", "list"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_needs_code_is_refused_and_never_run(content: Any, zipped: bool, tmp_path: Path) -> None:
    made = content(Trap(tmp_path / "sprung"), create_timm(NAME))
    torch.save(made, tmp_path / "test_vit.pth", _use_new_zipfile_serialization=zipped)
    text = refusal(tmp_path)
    assert "code" in text and "never run" in text and "torch.save(model.state_dict(), FILE)" in text
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {}, {"epoch": 3, "note": "x"}])
def test_no_tensors_by_name_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "test_vit.pth")
    assert "not tensors by name" in (text := refusal(tmp_path)) or "without tensors" in text


@pytest.mark.parametrize("wrong", ["test_vit2", "test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_another_architecture_are_refused(wrong: str, suffix: str, tmp_path: Path) -> None:
    path, made = tmp_path / f"test_vit{suffix}", create_timm(wrong).state_dict()
    if suffix == ".pth":
        torch.save({"model": made}, path)
    else:
        safetensors.torch.save_file(made, path)
    text = refusal(tmp_path)
    assert "of another model: " in text and any(what in text for what in ("missing", "unknown", "of another shape"))


@pytest.mark.parametrize("prefix", ["embeddings", "dinov2.embeddings", "model.vit.embeddings"])
def test_a_file_of_transformers_is_named(prefix: str, tmp_path: Path) -> None:
    file = {f"{prefix}.cls_token": torch.zeros(1, 1, 64), "encoder.layer.0.norm1.weight": torch.ones(64)}
    safetensors.torch.save_file(file, tmp_path / "test_vit.safetensors")
    assert "got a file with the names of transformers, not timm's; take timm's own file" in refusal(tmp_path)


def test_patches_and_positions_of_another_size_are_not_stretched(tmp_path: Path) -> None:
    other_size = timm.create_model("vit_small_patch32_224", num_classes=0).state_dict()
    torch.save(other_size, tmp_path / "vit_small_patch16_224.pth")
    assert "of another shape" in refusal(tmp_path, "vit_small_patch16_224")
    larger = timm.create_model("vit_small_patch16_384", num_classes=0).state_dict()
    torch.save(larger, tmp_path / "vit_small_patch16_224.pth")
    assert "pos_embed (1, 577, 384) instead of (1, 197, 384)" in refusal(tmp_path, "vit_small_patch16_224")


def test_a_mended_file_is_accepted(tmp_path: Path, state: State) -> None:
    path = tmp_path / "test_vit.safetensors"
    path.write_bytes(POINTER)
    refusal(tmp_path)
    safetensors.torch.save_file(state, path)
    assert same(loaded(tmp_path), state)


# -- wrappers ---------------------------------------------------------------------------------------------------------

HEADS = {"head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)}
WRAPPED: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "with a classifier": lambda s: {**s, **HEADS},
    "data parallel": lambda s: wrapped("module", s),
    "compiled": lambda s: wrapped("_orig_mod", s),
    "compiled and parallel": lambda s: wrapped("module._orig_mod", s),
    "Lightning": lambda s: {"state_dict": {**wrapped("model", s), "criterion.weight": torch.ones(5)}, "epoch": 3},
    "own module": lambda s: {"model_state_dict": wrapped("backbone", s), "optimizer_state_dict": {"state": {}}},
    "segmenter": lambda s: {**wrapped("encoder", s), "decoder.weight": torch.ones(2)},
    "timm, with arguments": lambda s: {"arch": "x", "state_dict": s, "args": argparse.Namespace(lr=1.0), "metric": 0.5},
    "moving average alone": lambda s: {"ema": wrapped("module", s), "n_averaged": torch.tensor(4)},
    "average beside its equal": lambda s: {"model": s, "model_ema": {k: v.clone() for k, v in s.items()}},
    "DINO": lambda s: {
        "student": {**wrapped("module.backbone", other(s)), "module.head.mlp.0.weight": torch.ones(3)},
        "teacher": {**wrapped("backbone", s), "head.mlp.0.weight": torch.ones(3)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
        "args": argparse.Namespace(arch="vit"),
    },
    "DINOv2's teacher": lambda s: {"teacher": {**wrapped("backbone", s), "dino_head.last_layer.weight": torch.ones(3)}},
    "flat teacher and student": lambda s: {**wrapped("teacher.backbone", s), **wrapped("student.backbone", other(s))},
    "wrapped thrice": lambda s: {"state": {"model": {"module": s}}},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_usual_wrappers_are_taken_off(case: str, tmp_path: Path, state: State) -> None:
    torch.save(WRAPPED[case](state), tmp_path / "test_vit.pth")
    assert same(loaded(tmp_path), state)


@pytest.mark.parametrize("prefix", ["module", "model.backbone", "teacher.backbone"])
def test_wrappers_are_taken_off_in_safetensors(prefix: str, tmp_path: Path, state: State) -> None:
    safetensors.torch.save_file(wrapped(prefix, state), tmp_path / "test_vit.safetensors")
    assert same(loaded(tmp_path), state)


AMBIGUOUS: dict[str, tuple[Callable[[State], Any], str]] = {
    "average": (lambda s: {"model": s, "model_ema": other(s)}, "model, model_ema"),
    "timm": (lambda s: {"state_dict": s, "state_dict_ema": other(s), "epoch": 3}, "state_dict, state_dict_ema"),
    "flat": (lambda s: {**wrapped("model", s), **wrapped("ema_model.module", other(s))}, "model, ema_model.module"),
    "siblings": (lambda s: {"left": s, "right": other(s)}, "left, right"),
    "teacher and average": (lambda s: {"teacher": s, "ema": other(s)}, "teacher, ema"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_several_sets_of_tensors_are_refused_by_name(case: str, tmp_path: Path, state: State) -> None:
    content, names = AMBIGUOUS[case]
    torch.save(content(state), tmp_path / "test_vit.pth")
    text = refusal(tmp_path)
    assert f"got 2 sets of tensors that fit ({names}); save the one that is meant in a file of its own" in text


# -- published names --------------------------------------------------------------------------------------------------

PUBLISHED = [
    ("vit_small_patch16_dinov3", "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"),
    ("vit_small_patch16_dinov3_qkvb", "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"),
    ("vit_small_plus_patch16_dinov3.lvd1689m", "dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth"),
    ("vit_large_patch16_dinov3.sat493m", "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"),
    ("vit_huge_plus_patch16_dinov3", "dinov3_vith16plus_pretrain_lvd1689m.pth"),
    ("vit_7b_patch16_dinov3.lvd1689m", "dinov3_vit7b16_pretrain_lvd1689m-a955f4ea.pth"),
    ("convnext_tiny.dinov3_lvd1689m", "dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb.pth"),
    ("vit_base_patch14_dinov2", "dinov2_vitb14_pretrain.pth"),
    ("vit_base_patch14_reg4_dinov2", "dinov2_vitb14_reg4_pretrain.pth"),
    ("vit_small_patch16_224.dino", "dino_deitsmall16_pretrain.pth"),
    ("vit_small_patch16_dinov3", "vit_small_patch16_dinov3.lvd1689m/model.safetensors"),
    ("vit_small_patch16_dinov3", "timm/vit_small_patch16_dinov3.lvd1689m/model.safetensors"),
    ("vit_small_patch16_dinov3", "timm--vit_small_patch16_dinov3.lvd1689m/pytorch_model.bin"),
    ("vit_small_patch16_dinov3", "models--timm--vit_small_patch16_dinov3.lvd1689m/snapshots/ab12/model.safetensors"),
]


@pytest.mark.parametrize(("backbone", "file"), PUBLISHED)
def test_published_files_are_found_by_their_names(backbone: str, file: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    assert find_weights(backbone, folder_source(tmp_path)).path == path
    assert "neither safetensors nor torch's format" in refusal(tmp_path, backbone)


@pytest.mark.parametrize(
    ("backbone", "file"),
    [
        ("vit_large_patch16_dinov3.lvd1689m", "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"),  # other photographs
        ("vit_small_patch16_dinov3", "dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth"),
        ("vit_small_patch16_dinov3", "dinov3_vits16_pretrain_lvd1689m-08c60483.pth.part"),
        ("convnext_tiny.fb_in1k", "dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb.pth"),
        ("vit_base_patch14_dinov2", "dinov2_vitb14_reg4_pretrain.pth"),
    ],
)
def test_another_models_file_is_not_taken(backbone: str, file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("x")
    with pytest.raises(WeightsError, match="has no such file"):
        find_weights(backbone, folder_source(tmp_path))


def test_two_files_of_one_published_name_are_refused(tmp_path: Path) -> None:
    for end in ("08c60483", "ffffffff"):
        (tmp_path / f"dinov3_vits16_pretrain_lvd1689m-{end}.pth").write_text("x")
    with pytest.raises(WeightsFileError, match=r"got .*-08c60483\.pth, .*-ffffffff\.pth; keep one"):
        find_weights("vit_small_patch16_dinov3", folder_source(tmp_path))


def test_revisions_in_a_hubs_cache_that_are_one_file_are_one(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("x")
    for revision in ("a", "b"):
        snapshot = tmp_path / "models--timm--test_vit.r160_in1k" / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to(tmp_path / "blob")
    assert find_weights(NAME, folder_source(tmp_path)).path.name == "model.safetensors"


def test_metas_dinov3_file_loads_under_metas_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Meta's names of tensors, with what timm leaves out: mask token, periods of the rotation, biases."""
    name = "vit_small_patch16_dinov3"
    model = create_timm(name)
    expected = {key: torch.randn_like(tensor) for key, tensor in model.state_dict().items()}
    published = {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}
    for key, tensor in expected.items():
        key = key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        published[key] = tensor
    for block in range(12):
        published[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(3 * 384)
        published[f"blocks.{block}.attn.qkv.bias_mask"] = torch.zeros(3 * 384)
    torch.save(published, tmp_path / "dinov3_vits16_pretrain_lvd1689m-08c60483.pth")
    assert same(loaded(tmp_path, name), expected)
    assert capsys.readouterr().out == ""
