"""Real embedded Ray where everything around it is meant for something else, and two of them on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import environment

from orchestration.inspect.audit import audit
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage
from orchestration.workers import cluster
from orchestration.workers.cluster import slot_limit
from orchestration.workers.machine import Cores

pytestmark = pytest.mark.ray

EMBED = """
import json, os, sys
import ray
from orchestration.workers.cluster import ray_cluster
said = []
for _ in range(2):  # each with a token of its own
    with ray_cluster(say=said.append):
        @ray.remote(num_cpus=1)
        def facts():
            return [sys.executable, os.environ["RAY_AUTH_TOKEN"], os.getcwd()]
        executable, token, folder = ray.get(facts.remote(), timeout=120)
        node = ray.nodes()[0]
        found = {
            "cpus": ray.cluster_resources()["CPU"], "executable": executable, "token": token, "folder": folder,
            "socket": node["RayletSocketName"], "said": list(said),
        }
        print(json.dumps(found))
    assert os.environ["RAY_AUTH_MODE"] == "disabled" and "RAY_AUTH_TOKEN" not in os.environ
"""


HOOK = """
from ray._private.worker import _maybe_modify_runtime_env as runtime_env
from orchestration.workers.cluster import without_uv_hook
with without_uv_hook(keep=False):
    print(runtime_env(None, False))
with without_uv_hook(keep=True):
    print(sorted(runtime_env(None, False)))  # what Ray would do: this is a child of `uv run`
print(sorted(runtime_env(None, False)))
"""


@pytest.mark.parametrize("arguments", ["", "--directory .. run", "--with x -m run", "--no-sync --extra demo run"])
def test_rays_hook_for_uv_run_is_off_while_ray_starts(arguments: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '0'\n")
    (tmp_path / "hook.py").write_text(HOOK)
    (tmp_path / "run").write_text(f"{sys.executable} hook.py\nexit $?\n")
    line = f"exec -a uv bash run {arguments}"
    result = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    uploads = "['py_executable', 'working_dir']"
    assert result.stdout.splitlines() == ["None", uploads, uploads], result.stdout + result.stderr


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_embedded_ray_takes_nothing_from_its_surroundings(tmp_path: Path) -> None:
    """As a child of `uv run`, in a subfolder, on one core, without a home, with settings of some cluster."""
    folder = tmp_path / "project" / "below"
    folder.mkdir(parents=True)
    (folder / "embed.py").write_text(EMBED)
    (folder / "run").write_text(f"{sys.executable} embed.py\nexit $?\n")
    long = tmp_path / ("scratch-of-job-" * 4)
    hostile = {
        "HOME": "/proc",  # not even root may write there
        "RAY_TMPDIR": str(long),
        "RAY_AUTH_MODE": "disabled",
        "RAY_REDIS_ADDRESS": "127.0.0.1:9",
        "RAY_OVERRIDE_RESOURCES": '{"CPU": 64}',
        "RAY_RUNTIME_ENV_HOOK": "nowhere.hook",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1",
        "RAY_ADDRESS": "local",
        **dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    }
    core = min(os.sched_getaffinity(0))
    result = subprocess.run(
        ["taskset", "-c", str(core), "bash", "-c", "exec -a uv bash run"],
        cwd=folder,
        env={**environment(tmp_path), **hostile},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["cpus"] == 1 and first["executable"] == sys.executable and first["folder"] == os.sep
    assert len(first["token"]) == 64 and first["token"] != second["token"]
    assert not first["socket"].startswith(str(tmp_path)) and long.is_dir()
    assert len(first["said"]) == 1 and "RAY_TMPDIR" in first["said"][0] and "bytes long" in first["said"][0]


@pytest.mark.long
@pytest.mark.timeout(500)
def test_two_searches_at_once_on_one_machine_do_not_meet(tiny_pasture: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(tiny_pasture), "--family", "probe", "--backbone", "test_vit", "--weights", "random"]
    arguments += ["--scale", "smoke", "--trials", "2", "--folds", "2"]
    searches = [
        subprocess.Popen(
            [sys.executable, "-m", "orchestration", "search", name, *arguments],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("one", "two")
    ]
    for name, search in zip(("one", "two"), searches, strict=True):
        said, _ = search.communicate()
        assert search.returncode == 0 and f"Finished. Next: biomass leaderboard {name}" in said, said
        found = audit(Ledger(Storage(tmp_path / name)))
        assert found.clean and found.trials["complete"] == 2 and found.restarts == 0, str(found)


@pytest.mark.parametrize(
    ("cores", "cpus", "asked", "expected"),
    [
        (2.0, 1.0, None, None),  # whole cores: Ray counts as we do
        (2.0, 1.0, 1, 1),
        (0.5, 1.0, None, 1),  # one slot of half a core
        (0.5, 0.5, None, 1),
        (0.5, 0.1, None, 5),
        (1.5, 1.0, None, 1),
        (1.5, 0.5, None, 3),
        (1.5, 0.5, 2, 2),
        (3.25, 1.0, None, 3),
    ],
)
def test_slots_share_what_a_quota_leaves(
    cores: float, cpus: float, asked: int | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = Cores(cores, "a quota")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "usable_cores", lambda: have)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": float(have.whole)})
    assert slot_limit(asked, cpus, None) == expected
    assert slot_limit(asked, cpus, "head:6379") == asked  # this machine says nothing about the workers


@pytest.fixture
def half_a_core() -> Any:
    """A control group of version 1 or 2 with a quota of half a core; its file of tasks."""
    for top, files in (
        ("/sys/fs/cgroup/cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}),
        ("/sys/fs/cgroup", {"cpu.max": "50000 100000"}),
    ):
        folder = Path(top) / f"biomass-test-{os.getpid()}"
        try:
            folder.mkdir()
            for name, text in files.items():
                (folder / name).write_text(text)
        except OSError:
            if folder.is_dir():
                folder.rmdir()
            continue
        yield folder / "cgroup.procs"
        folder.rmdir()
        return
    pytest.skip("a quota needs the right to make a control group")


def test_a_real_quota_is_found(half_a_core: Path) -> None:
    code = "from orchestration.workers.machine import usable_cores as u; c = u(); print(c.count, c.whole, c.reason)"
    line = f"echo $$ > {half_a_core} && exec {sys.executable} -c '{code}'"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment(Path.cwd()))
    assert result.stdout.strip() == "0.5 1 a quota of 0.5 cores", result.stderr
