"""A DINOv2 vision transformer out of an ONNX graph that torch exported from transformers' model.

The weights of linear layers are anonymous in such a graph: they are found by the names of the nodes that multiply with
them. What is not below `/backbone` (a decoder) is left out. Nothing of the graph is run; onnx only parses it.

D features, L layers.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomass_models.backbones.checkpoints import CheckpointError

Array = NDArray[np.float32]
ROOT = "/backbone"
_LAYER = re.compile(rf"{ROOT}/encoder/layer\.(\d+)/")
_NORMS = {"norm1": "norm1", "norm2": "norm2"}
_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
_LINEAR = {"attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


def vit_tensors(content: bytes) -> dict[str, Array]:
    """Tensors by timm's names, float32, from the bytes of an ONNX file; every one of the backbone's is used.

    Raises CheckpointError for a file that is no such graph, ImportError without the package onnx.
    """
    return _Graph(content).tensors()


class _Graph:
    """The constants of a graph by name, and which nodes use them; counts what is taken."""

    def __init__(self, content: bytes) -> None:
        import onnx

        try:
            graph = onnx.load_model_from_string(content).graph
        except Exception as error:  # protobuf's own kinds
            raise CheckpointError("got no ONNX file, or one that is cut off; download it again") from error
        self._constants: dict[str, Any] = {one.name: one for one in graph.initializer}
        self._nodes = {node.name: node for node in graph.node if node.name.startswith(f"{ROOT}/")}
        self._taken: set[str] = set()

    def tensors(self) -> dict[str, Array]:
        layers = {int(match[1]) for name in self._nodes if (match := _LAYER.match(name))}
        if not layers or layers != set(range(len(layers))):
            raise CheckpointError(f"got a graph without the layers of a vision transformer below {ROOT}")
        patch = "backbone.embeddings.patch_embeddings.projection"
        found = {
            "cls_token": self._constant("backbone.embeddings.cls_token"),
            "pos_embed": self._positions(),
            "patch_embed.proj.weight": self._constant(f"{patch}.weight"),
            "patch_embed.proj.bias": self._constant(f"{patch}.bias"),
            **self._norm("backbone.layernorm", "norm"),
        }
        for index in range(len(layers)):
            found |= {f"blocks.{index}.{name}": tensor for name, tensor in self._layer(index).items()}
        if left := sorted(self._of_backbone() - self._taken):
            raise CheckpointError(f"got {len(left)} tensors of the backbone that have no place, such as {left[0]}")
        return found

    def _layer(self, index: int) -> dict[str, Array]:
        layer = f"backbone.encoder.layer.{index}"
        heads = [self._linear(f"{layer}.attention.attention.{part}") for part in ("query", "key", "value")]
        found = {f"attn.qkv.{part}": np.concatenate([head[part] for head in heads]) for part in ("weight", "bias")}
        for inner, name in _LINEAR.items():
            found |= {f"{name}.{part}": tensor for part, tensor in self._linear(f"{layer}.{inner}").items()}
        for inner, name in _NORMS.items():
            found |= self._norm(f"{layer}.{inner}", name)
        return found | {name: self._constant(f"{layer}.{inner}") for inner, name in _SCALES.items()}

    def _norm(self, layer: str, name: str) -> dict[str, Array]:
        return {f"{name}.{part}": self._constant(f"{layer}.{part}") for part in ("weight", "bias")}

    def _linear(self, layer: str) -> dict[str, Array]:
        """Weight as torch has it, [out, in], and bias."""
        node = self._nodes.get(f"{_path(layer)}/MatMul")
        weights = [name for name in node.input if name in self._constants] if node is not None else []
        if len(weights) != 1:
            raise CheckpointError(f"got no node {_path(layer)}/MatMul that multiplies with one constant")
        return {"weight": self._constant(weights[0]).T, "bias": self._constant(f"{layer}.bias")}

    def _positions(self) -> Array:
        """[1, 1 + P, D]: the class token's, then the patches', which are reshaped to be resized."""
        parts = []
        for operation in ("Concat", "Reshape"):
            names = {
                name
                for path, node in self._nodes.items()
                if path.startswith(f"{ROOT}/embeddings/") and node.op_type == operation
                for name in node.input
                if name in self._constants and not name.startswith("backbone.") and len(self._constants[name].dims) == 3
            }
            if len(names) != 1:
                raise CheckpointError(
                    f"got {len(names)} constants of three dimensions below {ROOT}/embeddings/{operation}"
                )
            parts.append(self._constant(names.pop()))
        if parts[0].shape[:2] != (1, 1) or parts[0].shape[2] != parts[1].shape[2]:
            shapes = " and ".join(str(part.shape) for part in parts)
            raise CheckpointError(f"got positions of the shapes {shapes} for class token and patches")
        return np.concatenate(parts, axis=1)

    def _constant(self, name: str) -> Array:
        from onnx import TensorProto, numpy_helper

        one = self._constants.get(name)
        if one is None or one.data_type != TensorProto.FLOAT or one.data_location == TensorProto.EXTERNAL:
            raise CheckpointError(f"got no tensor {name} of float32 in the file itself")
        self._taken.add(name)
        return np.asarray(numpy_helper.to_array(one), dtype=np.float32)

    def _of_backbone(self) -> set[str]:
        """Constants of numbers (not of shapes) that the backbone's nodes use, or that are named as its own."""
        from onnx import TensorProto

        used = {name for node in self._nodes.values() for name in node.input} & self._constants.keys()
        named = {name for name in self._constants if name.startswith("backbone.")}
        return {name for name in used | named if self._constants[name].data_type == TensorProto.FLOAT}


def _path(layer: str) -> str:
    """Of a module's name, the path of its nodes; `layer.3` stays together."""
    return "/" + re.sub(r"layer/(\d+)", r"layer.\1", layer.replace(".", "/"))
