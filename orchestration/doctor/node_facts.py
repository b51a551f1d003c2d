"""What one node of a cluster says of itself: runs there as a Ray task for `biomass doctor`."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from biomass_models.backbones.weights import WeightsError, WeightsFileError, WeightsSource, fingerprint, verify_weights
from biomass_models.data.dataset import DATASET_FILE
from biomass_models.data.table import TRAIN_FILE, train_file
from biomass_models.features.cache_folder import usable_cache
from orchestration.study.environment import STUDY_PACKAGES, project_hash
from orchestration.study.record import Part
from orchestration.study.storage import Storage
from orchestration.workers.machine import home_problem, usable_cores


@dataclass(frozen=True, kw_only=True)
class NodeFacts(Part):
    """What a node says of itself. It travels as JSON, because a node may have another version of this project."""

    host: str
    executable: str
    python: str
    versions: Mapping[str, str]  # of packages
    code: str  # hash of the project's
    gpus_seen: int  # by torch
    cores: float  # that a process may use
    free_memory_gb: float
    free_cache_gb: float
    cache: str  # why features are kept elsewhere than asked; empty where they are not
    home: str  # what is wrong with the home folder
    time: float  # seconds since 1970 by the node's clock
    study: str | None  # why the study cannot be used; empty where it can, None where none was named
    data: str | None  # the same of the data directory
    weights: Mapping[str, str]  # by backbone: fingerprint, or why there is none
    clock_off: float = 0.0  # seconds that its clock is ahead of the driver's, who adds this


def stored_node_facts(**asked: Any) -> dict[str, Any]:
    """`node_facts` as JSON: the task that a node runs."""
    return node_facts(**asked).to_json()


def node_facts(
    *,
    study: str | None,
    token: str,
    data_dir: str | None,
    cache_dir: str,
    weights: WeightsSource,
    backbones: Sequence[str],
) -> NodeFacts:
    """Facts of the node that this runs on. `token` names the probe files that nodes leave in the study."""
    cache, why = usable_cache(Path(cache_dir))
    return NodeFacts(
        host=socket.gethostname(),
        executable=sys.executable,
        python=platform.python_version(),
        versions={name: _version(name) for name in STUDY_PACKAGES},
        code=project_hash() or "a wheel",
        gpus_seen=_gpus_seen(),
        cores=usable_cores().count,
        free_memory_gb=_free_memory_gb(),
        free_cache_gb=_free_disk_gb(cache),
        cache=why,
        home=home_problem(),
        time=time.time(),
        study=None if study is None else _try_storage(study, token),
        data=None if data_dir is None else _try_data(Path(data_dir)),
        weights={name: _try_weights(name, weights) for name in backbones},
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _gpus_seen() -> int:
    import torch

    return torch.cuda.device_count()


def _free_memory_gb() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) / 2**20
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30  # not Linux: all there is


def _free_disk_gb(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30


def _try_storage(study: str, token: str) -> str:
    """ "" when this node reads what the driver left and leaves a file of its own; else what went wrong."""
    try:
        root = Storage(study)
        if root.size(f"doctor/{token}-driver") is None:
            return "the driver's file is not there: this node sees another folder"
        root.write(f"doctor/{token}-{socket.gethostname()}-{os.getpid()}", b"here")
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _try_data(data_dir: Path) -> str:
    file = train_file(data_dir)
    needed = (file, "train") if file == TRAIN_FILE else (file, DATASET_FILE)
    missing = [name for name in needed if not (data_dir / name).exists()]
    return f"{data_dir} lacks {', '.join(missing)}" if missing else ""


def _try_weights(name: str, source: WeightsSource) -> str:
    """Fingerprint of a backbone's weights here, or why there is none."""
    try:
        verify_weights(name, source)
        return fingerprint(name, source)
    except WeightsFileError as error:
        return f"unusable: {error}"
    except WeightsError as error:
        return f"missing: {error}"
