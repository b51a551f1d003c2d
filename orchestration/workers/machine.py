"""What this process may use of the machine it runs on: cores, folders for sockets, a home. Light to import.

Ray takes these from its surroundings as they happen to be: it counts cores that a quota or an affinity withholds, puts
sockets under any temporary folder however long its name is, and needs a home directory to write to.
"""

from __future__ import annotations

import getpass
import math
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from biomass_models.errors import UserError
from biomass_models.file_locks import SHORT_FOLDERS, own_temp_folder

SOCKET_BYTES = 107  # longest path of a unix socket on Linux
# below the temporary folder: /ray/session_2026-01-02_03-04-05_123456_4194304/sockets/plasma_store.9
SOCKET_TAIL = 4 + 42 + 8 + 16
DEVICES = Path("/dev")
TOKEN_FILE = Path(".ray") / "auth_token"  # Ray's own place, in the home directory


class MachineError(UserError):
    """This machine lacks what Ray needs; the text says what to do."""


def require_working_directory() -> None:
    """Raise MachineError in a folder that was deleted: torch ends its process there, relative paths mean nothing."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise MachineError(
            "a command runs in a folder that is there, this one was deleted; cd to another, then run the same command"
        ) from None


def may_have_gpu() -> bool:
    """Whether torch could find a GPU here; where not, it need not be loaded to say so.

    Devices of NVIDIA's and AMD's drivers, and of Windows under Linux; on other systems always.
    """
    names = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd")
    return sys.platform != "linux" or any(next(DEVICES.glob(name), None) is not None for name in names)


@dataclass(frozen=True)
class Cores:
    """Processor cores that this process may use, a fraction where a quota says so, and what limits them."""

    count: float
    reason: str

    @property
    def whole(self) -> int:
        """For Ray, whose nodes have whole CPUs: rounded up, at least one."""
        return max(1, math.ceil(self.count - 1e-9))

    @property
    def missing(self) -> float:
        """What `whole` counts too many."""
        return self.whole - self.count


def usable_cores(root: Path = Path("/")) -> Cores:
    """Cores by affinity and by the quotas of this process's control groups (version 1 and 2).

    root: where /proc and the mounts of control groups lie.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quota = min(_quotas(root), default=math.inf)
    if quota < allowed:
        return Cores(quota, f"a quota of {quota:g} cores")
    present = os.cpu_count() or allowed
    return Cores(float(allowed), f"an affinity to {allowed} of {present} cores" if allowed < present else "")


def memory_limit(root: Path = Path("/")) -> float:
    """Bytes that this process's control groups allow together, infinite without a limit. Ray reads the topmost only."""
    return min(_limits(root), default=math.inf)


def _limits(root: Path) -> Iterator[float]:
    """Bytes that each control group above this process allows."""
    for folder, version in _groups(root, "memory"):
        with suppress(OSError, ValueError):
            limit = (folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).read_text().strip()
            yield math.inf if limit == "max" else float(int(limit))


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each control group above this process allows."""
    for folder, version in _groups(root, "cpu"):
        with suppress(OSError, ValueError, IndexError):
            yield _quota(folder, version)


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """(folder, version) of this process's control groups, and of those above them, that a controller may limit."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        for mount_root, mount in _mounts(mounts, version, controller):
            top = root / mount.lstrip("/")
            inside = path[len(mount_root.rstrip("/")) :] if path.startswith(mount_root.rstrip("/")) else ""
            folder = top / inside.lstrip("/")
            while True:  # a group that is not shown here (a container sees its own only) limits by those above it
                yield folder, version
                if folder == top or top not in folder.parents:
                    break
                folder = folder.parent


def _mounts(lines: list[str], version: int, controller: str) -> Iterator[tuple[str, str]]:
    """(path of the group at the mount's root, folder) of the mounts that show a controller."""
    for line in lines:
        before, _, after = line.partition(" - ")
        kind, _, options = ([*after.split(" "), "", ""])[:3]
        shows = kind == "cgroup2" if version == 2 else kind == "cgroup" and controller in options.split(",")
        if shows:
            fields = before.split(" ")
            yield fields[3], fields[4].replace("\\040", " ")


def _quota(folder: Path, version: int) -> float:
    """Cores that one control group allows, infinite without a limit; OSError or ValueError where it has none."""
    if version == 2:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
    else:
        quota = (folder / "cpu.cfs_quota_us").read_text().strip()
        period = (folder / "cpu.cfs_period_us").read_text().strip()
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


@dataclass(frozen=True)
class TempFolder:
    """Where embedded Ray keeps its session, where it spills objects, and why that is not where it was asked to."""

    folder: str
    spill: str | None = None
    reason: str = ""


def ray_temp_folder(environment: Mapping[str, str] | None = None) -> TempFolder:
    """The folder that RAY_TMPDIR or TMPDIR names, if sockets fit below it, else a short one; MachineError without any.

    A folder that is only too long still takes the objects that Ray spills: that is what a large one is named for.
    """
    environment = os.environ if environment is None else environment
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if environment.get(name)), "")
    asked = environment[name] if name else SHORT_FOLDERS[0]
    why = _unfit_for_sockets(asked)
    if not why:
        return TempFolder(f"{asked.rstrip('/')}/ray")
    spill = asked if _is_writable(Path(asked)) else None
    refused = [f"{name or 'folder'} {asked} {why}"]
    for short in SHORT_FOLDERS:
        if short == asked:
            continue
        if not (other := _unfit_for_sockets(short)):
            return TempFolder(f"{short}/ray", spill, f"{refused[0]}; Ray's session lies in {short}/ray instead")
        refused.append(f"{short} {other}")
    raise MachineError(
        f"Ray needs a folder for its sockets that can be written and has at most {SOCKET_BYTES - SOCKET_TAIL} "
        f"bytes; {'; '.join(refused)}. Name one in RAY_TMPDIR"
    )


def _unfit_for_sockets(folder: str) -> str:
    """Why Ray's sockets cannot lie below a folder, or "" if they can. Makes the folder."""
    if not Path(folder).is_absolute():
        return "is not an absolute path"
    length = len(os.fsencode(folder.rstrip("/")))
    if length + SOCKET_TAIL > SOCKET_BYTES:
        return f"is {length} bytes long, sockets below it take at most {SOCKET_BYTES - SOCKET_TAIL}"
    ray = Path(folder, "ray")  # Ray opens what it makes itself to all users, and so must be the one to make it
    return "" if _is_writable(ray if ray.exists() else Path(folder)) else "cannot be written"


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made there, tried; makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def home_problem() -> str:
    """What is wrong with the home directory, or "" where files can be kept in it."""
    try:
        home = Path.home()
    except RuntimeError:
        return f"there is no HOME, and user {os.getuid()} has no entry in the list of users"
    if not home.is_absolute() or not home.is_dir():
        return f"HOME is {home}, which is no folder"
    return "" if _is_writable(home) else f"HOME ({home}) cannot be written"


def complete_user(environment: MutableMapping[str, str]) -> None:
    """Give a process without HOME or user name both, in its environment, before libraries ask for them.

    Tune and torch raise where there is neither; the hub's client would make a folder called `~`.
    """
    try:
        Path.home()
    except RuntimeError:
        environment["HOME"] = str(own_temp_folder("home"))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        environment["USER"] = f"uid-{os.getuid()}"


def close_token_file() -> Path | None:
    """Remove other users' access to Ray's token file, which Ray makes readable; returns the file if that was needed.

    Whoever reads it can run programs as its owner.
    """
    with suppress(OSError, RuntimeError):
        file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / TOKEN_FILE)
        facts = file.stat()
        if facts.st_uid == os.getuid() and stat.S_IMODE(facts.st_mode) & 0o077:
            file.chmod(0o600)
            return file
    return None


def loopback_hosts() -> list[str]:
    """Names and addresses of this machine, which no proxy has to serve."""
    found = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("8.8.8.8", 80))  # sends nothing: the kernel chooses the address that Ray will take
        found.append(probe.getsockname()[0])
    return found
