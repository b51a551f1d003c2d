"""What numbers were made with: code, packages, machine. Recorded with studies, folds and submissions.

Two runs with the same environment, data, weights and seed give the same bytes; where they do not, what differs here is
where to look.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from biomass_models.families import registry
from biomass_models.families.needed_packages import packages_of
from orchestration.study.records import CodeVersion
from orchestration.wheel import PACKAGES as PROJECT_PACKAGES
from orchestration.wheel import PROJECT, package_files

PACKAGES = ("torch", "timm", "numpy", "pandas", "pillow", "scikit-learn")  # what decides a fold's numbers
STUDY_PACKAGES = ("torch", "timm", "ray", "optuna", "numpy", "pandas", "pillow", "scikit-learn")  # what a study notes


@functools.cache
def code_version() -> CodeVersion:
    """Of the code that runs; commit and changed are None for an installed project, which git does not know."""
    commit, changed = _git()
    return CodeVersion(version=_version(PROJECT), source=project_hash(), commit=commit, changed=changed)


@functools.cache
def project_hash() -> str | None:
    """Hash of the project's files; None for code that runs from a wheel, which has no files of its own."""
    files = [item for package in PROJECT_PACKAGES for item in package_files(package).items()]
    return _hash_of_files(files) if files else None


def _hash_of_files(files: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def environment(family: str = "", device: str = "auto", config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Flat facts of this process. `threads` are torch's in the calling thread; family: whose package is a fact, too.

    device: that is computed on, as devices.pick_device takes it; config: stored, whose further packages are facts.
    """
    import torch

    from biomass_models.backbones.devices import encoding_precision, pick_device, precision

    used = pick_device(device)
    needed = () if config is None else packages_of(family, config)
    return {
        "code": project_hash(),
        "python": platform.python_version(),
        **{name: _version(name) for name in (*PACKAGES, *needed)},
        "processor": _processor(),
        "blas": _blas(),
        "gpu": torch.cuda.get_device_name(used) if used.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "precision": str(precision(used)).removeprefix("torch."),  # of networks that train
        "encoding": str(encoding_precision(used)).removeprefix("torch."),  # of frozen backbones
        **_package_of(family),
    }


@functools.cache
def _package_of(family: str) -> dict[str, str]:
    """Version and hash of the code of the installed package that brings a family; nothing for ours."""
    point = registry.installed().get(family)
    if point is None or point.dist is None:
        return {}
    digest = _hash_of_files(package_files(point.value.partition(".")[0]).items())
    return {f"package {point.dist.name}": f"{point.dist.version} ({digest})"}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What both name and name differently, as texts `torch 2.0 then, 2.1 here`."""
    return [f"{name} {then[name]} then, {now[name]} here" for name in then if name in now and then[name] != now[name]]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@functools.cache
def _processor() -> str:
    """Its model: another one may round otherwise, because libraries choose their code by it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def _blas() -> str:
    """Kernels of NumPy's products: OpenBLAS chooses them by the processor, whose model a virtual machine hides."""
    from threadpoolctl import threadpool_info

    found = {
        f"{one['internal_api']} {one.get('architecture', '')}" for one in threadpool_info() if one["user_api"] == "blas"
    }
    return ", ".join(sorted(found)).strip() or "unknown"


def _git() -> tuple[str | None, bool | None]:
    """Commit of the folder that the code runs from, if git tracks the code there; and whether it was changed since."""
    spec = importlib.util.find_spec(PROJECT_PACKAGES[0])
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))).parent

    def git(*arguments: str) -> str:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10,
            env=environment,
        ).stdout  # fmt: skip

    try:  # installed into an environment inside somebody's repository, the code is there but not tracked
        git("ls-files", "--error-unmatch", *PROJECT_PACKAGES)
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain", "--", *PROJECT_PACKAGES).strip())
    except (OSError, subprocess.SubprocessError):
        return None, None
