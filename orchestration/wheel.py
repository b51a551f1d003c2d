"""The code of this very installation as a wheel: for bundles that predict where nothing can be downloaded.

Made from the packages that are running, not from a source tree: an installed project has none. Same files, same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES = ("biomass_models", "ensembles", "orchestration", "search_spaces")
PROJECT = "pasture-biomass"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


def project_wheel() -> tuple[str, bytes]:
    """File name and content of a pure-Python wheel that pip installs and `sys.path` takes as it is."""
    metadata, version = _metadata()
    return _wheel(PROJECT, version, PACKAGES, {"METADATA": metadata})


def wheel_of(point: importlib.metadata.EntryPoint) -> tuple[str, bytes]:
    """The same of an installed package of others: the top-level package that one of its entry points names."""
    assert point.dist is not None, "entry points that were looked up know their distribution"
    parts = {name: text for name in ("METADATA", "entry_points.txt") if (text := point.dist.read_text(name))}
    return _wheel(point.dist.name, point.dist.version, (point.value.partition(".")[0],), parts)


def _wheel(project: str, version: str, packages: Sequence[str], parts: Mapping[str, str]) -> tuple[str, bytes]:
    """parts: texts of the .dist-info folder beside the two that every wheel has."""
    stem = f"{project.replace('-', '_')}-{version}"
    files = {name: content for package in packages for name, content in package_files(package).items()}
    files |= {f"{stem}.dist-info/{name}": text.encode() for name, text in parts.items()}
    wheel = "Wheel-Version: 1.0\nGenerator: biomass\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{stem}.dist-info/WHEEL"] = wheel.encode()
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[record] = ("\n".join([*lines, f"{record},,"]) + "\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return f"{stem}-py3-none-any.whl", buffer.getvalue()


def package_files(package: str) -> dict[str, bytes]:
    """Content of a package's files by their path in a wheel, sorted."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{package}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


def _metadata() -> tuple[str, str]:
    """METADATA of the installed project; the least that pip needs where it runs from a folder."""
    try:
        distribution = importlib.metadata.distribution(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        return f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: 0\n", "0"
    return distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "", distribution.version


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
