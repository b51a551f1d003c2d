"""The machine as it is found: quotas and affinity, long temporary folders, no home, no user, an open token file."""

from __future__ import annotations

import math
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.workers import machine
from orchestration.workers.machine import (
    SOCKET_BYTES,
    SOCKET_TAIL,
    MachineError,
    close_token_file,
    complete_user,
    home_problem,
    memory_limit,
    ray_temp_folder,
    usable_cores,
)

V1 = "31 23 0:27 {root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def machine_with(folder: Path, *, group: str, mount: str, files: dict[str, str]) -> Path:
    """A root folder with /proc and the files of control groups."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(f"12:pids:/elsewhere\n{group}\n")
    (folder / "proc/self/mountinfo").write_text(f"23 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mount}\n")
    for name, text in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


QUOTAS = {
    "half a core, in a container": ("0::/", V2.format(root="/"), {"cpu.max": "50000 100000\n"}, 0.5),
    "a service's slice": (
        "0::/user.slice/job.scope",
        V2.format(root="/"),
        {"user.slice/cpu.max": "75000 100000\n", "user.slice/job.scope/cpu.max": "max 100000\n"},
        0.75,
    ),
    "the tightest of several": (
        "0::/a/b",
        V2.format(root="/"),
        {"a/cpu.max": "20000 100000", "a/b/cpu.max": "90000 100000"},
        0.2,
    ),
    "a group of the host, seen from a container": (
        "0::/docker/4f5e/init",
        V2.format(root="/"),
        {"cpu.max": "25000 50000"},
        0.5,
    ),
    "version 1": (
        "4:cpu,cpuacct:/slurm/job_7",
        V1.format(root="/"),
        {
            "cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us": "30000",
            "cpu,cpuacct/slurm/job_7/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        0.3,
    ),
    "version 1, mounted from its own group": (
        "4:cpuacct,cpu:/docker/77",
        V1.format(root="/docker/77"),
        {"cpu,cpuacct/cpu.cfs_quota_us": "10000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        0.1,
    ),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_quota_limits_the_cores(case: str, tmp_path: Path) -> None:
    group, mount, files, expected = QUOTAS[case]
    cores = usable_cores(machine_with(tmp_path, group=group, mount=mount, files=files))
    assert cores.count == expected and cores.whole == 1 and cores.missing == pytest.approx(1 - expected)
    assert "a quota of 0." in cores.reason


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("0::/", {"cpu.max": "max 100000"}),
        ("0::/gone", {}),
        ("3:cpuset:/tight", {"cpu.max": "10 100000"}),  # another controller's group
        ("0::/", {"cpu.max": "torn"}),
    ],
)
def test_without_a_quota_the_affinity_counts(group: str, files: dict[str, str], tmp_path: Path) -> None:
    cores = usable_cores(machine_with(tmp_path, group=group, mount=V1.format(root="/"), files=files))
    assert cores.count == len(os.sched_getaffinity(0)) and cores.missing == 0


GIB = float(1 << 30)
MEMORY_V1 = "32 23 0:28 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory"
LIMITS = {
    "a container": ("0::/", V2.format(root="/"), {"memory.max": "4294967296\n"}, 4 * GIB),
    "a job of Slurm's, below a group without a limit": (
        "0::/system.slice/job_7/step_0",
        V2.format(root="/"),
        {
            "system.slice/memory.max": "max\n",
            "system.slice/job_7/memory.max": "2147483648\n",
            "system.slice/job_7/step_0/memory.max": "max\n",
        },
        2 * GIB,
    ),
    "version 1": (
        "9:memory:/slurm/job_7",
        MEMORY_V1,
        {
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/slurm/job_7/memory.limit_in_bytes": "1073741824",
        },
        GIB,
    ),
    "none": ("0::/user.slice", V2.format(root="/"), {"user.slice/memory.max": "max\n"}, math.inf),
    "another controller's": ("3:cpuset:/tight", MEMORY_V1, {"memory/tight/memory.limit_in_bytes": "1"}, math.inf),
    "torn": ("0::/", V2.format(root="/"), {"memory.max": ""}, math.inf),
}


@pytest.mark.parametrize("case", LIMITS)
def test_the_tightest_control_group_limits_the_memory(case: str, tmp_path: Path) -> None:
    group, mount, files, expected = LIMITS[case]
    assert memory_limit(machine_with(tmp_path, group=group, mount=mount, files=files)) == expected


def test_one_core_of_many_is_one_core(tmp_path: Path) -> None:
    code = "from orchestration.workers.machine import usable_cores as u; c = u(); print(c.count, c.whole, c.reason)"
    core = min(os.sched_getaffinity(0))
    pinned = f"import os; os.sched_setaffinity(0, {{{core}}}); {code}"
    said = subprocess.run([sys.executable, "-c", pinned], capture_output=True, text=True, check=True).stdout
    assert said.startswith("1.0 1 ")
    if (os.cpu_count() or 1) > 1:
        assert "an affinity to 1 of" in said


def test_a_machine_without_proc_counts_by_affinity(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "nothing").count == len(os.sched_getaffinity(0))


# -- temporary folders ------------------------------------------------------------------------------------------------

LONGEST = SOCKET_BYTES - SOCKET_TAIL


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> str:
    """A short folder, as /tmp is, of this test alone."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        monkeypatch.setattr(machine, "SHORT_FOLDERS", (folder,))
        yield folder


def test_a_folder_that_fits_is_taken_as_it_is(short: str) -> None:
    assert ray_temp_folder({}).folder == f"{short}/ray"
    for name in ("RAY_TMPDIR", "TMPDIR"):
        found = ray_temp_folder({name: f"{short}/mine"})
        assert (found.folder, found.spill, found.reason) == (f"{short}/mine/ray", None, "")


def test_the_longest_folder_that_fits_fits_and_one_letter_more_does_not(short: str) -> None:
    fits = short + "/" + "x" * (LONGEST - len(short) - 1)
    assert ray_temp_folder({"RAY_TMPDIR": fits}).folder == f"{fits}/ray"
    found = ray_temp_folder({"RAY_TMPDIR": fits + "y"})
    assert found.folder == f"{short}/ray" and found.spill == fits + "y"
    assert f"is {LONGEST + 1} bytes long" in found.reason and f"at most {LONGEST}" in found.reason


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
@pytest.mark.parametrize("long", ["scratch-of-job-12345/" * 4, "ä" * 30, "a/" * 40])
def test_a_long_folder_still_takes_what_is_spilled(long: str, name: str, short: str, tmp_path: Path) -> None:
    folder = str(tmp_path / long)
    found = ray_temp_folder({name: folder})
    assert found.folder == f"{short}/ray" and found.spill == folder and Path(folder).is_dir()
    assert name in found.reason and f"{short}/ray instead" in found.reason


def test_a_folder_that_cannot_be_used_is_replaced_or_named(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ray_temp_folder({"TMPDIR": "/proc/nobody"})
    assert found.folder == f"{short}/ray" and found.spill is None and "cannot be written" in found.reason
    assert "not an absolute path" in ray_temp_folder({"RAY_TMPDIR": "tmp"}).reason
    monkeypatch.setattr(machine, "SHORT_FOLDERS", ("/proc/no", "/sys/no"))
    with pytest.raises(MachineError, match=r"TMPDIR tmp is not .* /proc/no cannot be written.*Name one in RAY_TMPDIR"):
        ray_temp_folder({"TMPDIR": "tmp"})


# -- homes, users, tokens ---------------------------------------------------------------------------------------------


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without HOME whose user is in no list."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_nobody_gets_a_home_and_a_name(nobody: None) -> None:
    import getpass

    assert "no HOME" in home_problem()
    before = dict(os.environ)
    complete_user(os.environ)
    try:
        assert home_problem() == "" and stat.S_IMODE(Path.home().stat().st_mode) == 0o700
        assert getpass.getuser() == f"uid-{os.getuid()}"
        assert Path("~/.cache").expanduser().is_absolute()
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


def test_somebody_keeps_home_and_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "kim")
    before = dict(os.environ)
    complete_user(os.environ)
    assert dict(os.environ) == before and home_problem() == ""


@pytest.mark.parametrize(("home", "said"), [("/proc", "cannot be written"), ("/gone/far", "no folder"), ("x", "no f")])
def test_a_home_that_is_none_is_said(home: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    assert said in home_problem()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_token_that_others_can_read_is_closed(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert close_token_file() is None
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(mode)
    assert close_token_file() == token and stat.S_IMODE(token.stat().st_mode) == 0o600
    assert close_token_file() is None and token.read_text() == "secret"
