"""What `biomass doctor` says, and what it can say of this machine before Ray and torch load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from biomass_models.features.cache_folder import usable_cache
from biomass_models.file_locks import lock_problem
from orchestration.workers.address import AddressError, is_cluster, require_answer
from orchestration.workers.machine import MachineError, close_token_file, home_problem, ray_temp_folder, usable_cores

Verdict = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, what was found, and what to do unless it is well."""

    verdict: Verdict
    what: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.verdict:4}  {self.what}: {self.text}"
        return f"{line}\n      -> {self.remedy}" if self.remedy else line


def examine_here(address: str | None, cache: Path, study: str | None) -> Iterator[Finding]:
    """Findings about the address of the cluster, or about this machine where Ray will be embedded in this process."""
    try:
        require_answer(address)
    except AddressError as error:
        yield Finding("FAIL", "address", error.found, error.remedy)
        return
    if file := close_token_file():
        remedy = "if others use this machine, delete it and start the cluster anew: whoever has it runs programs as you"
        yield Finding("warn", "token file", f"others could read {file}; only its owner can now", remedy)
    if study is not None and "://" not in study:
        yield from _study_locks(Path(study).expanduser())
    if is_cluster(address):
        return
    yield _cores()
    yield _temp_folder()
    if why := home_problem():
        yield Finding("warn", "home", why, "it works without; downloads of weights need HF_HOME=FOLDER")
    else:
        yield Finding("ok", "home", "files can be kept there")
    _, why = usable_cache(cache)
    remedy = "give --cache a folder on a disk of this machine, to find the features again"
    yield Finding("warn", "cache", why, remedy) if why else Finding("ok", "cache", f"{cache} can be written and locked")


def _cores() -> Finding:
    cores = usable_cores()
    if cores.missing:
        text = f"{cores.count:g}, by {cores.reason}: the last slot is less than a core"
        return Finding("warn", "cores", text, "folds take longer than on a whole core; raise the quota")
    return Finding("ok", "cores", f"{cores.count:g}" + (f", by {cores.reason}" if cores.reason else ""))


def _temp_folder() -> Finding:
    try:
        found = ray_temp_folder()
    except MachineError as error:
        return Finding("FAIL", "temporary folder", str(error), "name a short one in RAY_TMPDIR")
    if found.reason:
        return Finding("warn", "temporary folder", found.reason, "it works; name a short one in RAY_TMPDIR")
    return Finding("ok", "temporary folder", found.folder)


def _study_locks(folder: Path) -> Iterator[Finding]:
    while not folder.exists():
        folder = folder.parent
    try:
        why = lock_problem(folder)
    except OSError:  # whether it can be written is another check
        return
    if why:
        remedy = "it works; keep two searches from starting on it within the same second"
        yield Finding("warn", "study", f"files in {folder} cannot be locked ({why})", remedy)
