"""What it costs until a search works: seconds and CPU seconds to the first fold, and memory; `biomass --help`.

    python tests/benchmarks/bench_start.py FOLDER [--against WORKTREE] [--repeats 3]

A generated pasture of 357 photographs, two families, 2 slots; each search is a new study, stopped (Ctrl-C) once its
first fold is finished. WORKTREE: a checkout of the version to compare with; the versions take turns. Medians, and the
range of the runs.

CPU seconds are user and system time of all processes of the search: the driver and all that it started, those that have
ended included (from /proc, looked at five times a second: of a process that ends, what it did after the last look is
missing). They are counted until the first fold begins. Memory is what a process adds (PSS), when the first fold is
finished. The demo's fixed costs are those of its tiny preset, where little else is: 24 small pictures are drawn, six
trials searched and blended, a report is written.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from biomass_models.pasture.make import make_pasture

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from processes import command_of, descendants, end_of

ROOT = Path(__file__).parents[2]
BIOMASS = [sys.executable, "-m", "orchestration"]
TITLES = {"ray::SlotWorker": "workers", "ray::Broker": "broker", "ray::ImplicitFunc": "coordinators"}
TITLES |= {"ray::FoldWorker": "workers"}  # as versions before called it
OTHERS = "Ray's own"
ROLES = ("driver", OTHERS, "broker", "coordinators", "workers")
TICKS = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS = 0.2

Row = dict[str, float]


class ProcessTree:
    """CPU time and memory of a process and of all that it started, by role."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.cpu_seconds: dict[tuple[int, str], float] = {}  # by process and its start
        self._roles: dict[tuple[int, str], str] = {}

    def look(self) -> None:
        for pid in {self._pid} | descendants(self._pid):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                key = (pid, fields[19])
                self.cpu_seconds[key] = (int(fields[11]) + int(fields[12])) / TICKS
                title = command_of(pid).split(".")[0].strip()  # a method at work is part of it
                if title in TITLES:  # an actor bears its name when what it was sent is unpickled
                    self._roles[key] = TITLES[title]

    def memory_mb(self) -> dict[tuple[int, str], float]:
        found = {}
        for pid, start in self.cpu_seconds:
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                found[pid, start] = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        return found

    def by_role(self, what: str, values: dict[tuple[int, str], float]) -> Row:
        """Sums, by the role that a process has had by now."""
        sums = dict.fromkeys(("all", *ROLES), 0.0)
        for key, value in values.items():
            sums["all"] += value
            sums["driver" if key[0] == self._pid else self._roles.get(key, OTHERS)] += value
        return {f"{what}, {role}": value for role, value in sums.items()}


def _run(tree: Path) -> tuple[Path, dict[str, str]]:
    """Working directory and environment in which `python -m orchestration` is that of a checkout."""
    return tree, {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}


def first_fold(folder: Path, tree: Path) -> Row:
    """Seconds, CPU seconds and memory of a new study's start."""
    study, (cwd, environment) = folder / "study", _run(tree)
    shutil.rmtree(study, ignore_errors=True)
    options = ["--data", str(folder / "data"), "--backbone", "tf_efficientnet_lite0", "--cache", str(folder / "cache")]
    families = ["--family", "baseline", "--family", "probe", "--trials", "4", "--slots", "2", "--scale", "demo"]
    started = time.perf_counter()
    command = [*BIOMASS, "search", str(study), *options, *families]
    search = subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.DEVNULL)
    processes = ProcessTree(search.pid)

    def wait_for(files: str) -> None:
        looked = time.perf_counter()
        while not any(study.glob(files)):
            if search.poll() is not None:
                raise SystemExit(f"the search ended with {search.returncode} before its first fold")
            time.sleep(0.05)
            if time.perf_counter() - looked > LOOK_SECONDS:
                looked = time.perf_counter()
                processes.look()
        processes.look()

    wait_for("trials/*/fold-*/start-*.json")
    seconds = time.perf_counter() - started
    cpu = dict(processes.cpu_seconds)
    wait_for("trials/*/fold-*/metrics.json")
    memory, family = processes.memory_mb(), descendants(search.pid)
    search.send_signal(signal.SIGINT)
    search.wait()
    end_of(family)
    return (
        {"seconds to the first fold": seconds}
        | processes.by_role("CPU seconds to the first fold", cpu)
        | processes.by_role("MB when it is finished", memory)
    )


def tiny_demo(folder: Path, tree: Path) -> Row:
    """Seconds and CPU seconds of the whole demo with its preset `smoke`."""
    shutil.rmtree(folder / "demo", ignore_errors=True)
    cwd, environment = _run(tree)
    preset = "--preset" if (tree / "orchestration/search/presets").is_dir() else "--recipe"  # as 0.1.0 called it
    command = [*BIOMASS, "demo", str(folder / "demo"), preset, "smoke", "--cache", str(folder / "demo/cache")]
    started = time.perf_counter()
    demo = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    processes = ProcessTree(demo.pid)
    while demo.poll() is None:
        processes.look()
        time.sleep(LOOK_SECONDS)
    if demo.returncode:
        raise SystemExit(f"the demo ended with {demo.returncode}")
    return {"seconds of the tiny demo": time.perf_counter() - started} | processes.by_role(
        "CPU seconds of the tiny demo", processes.cpu_seconds
    )


def help_page(tree: Path) -> Row:
    cwd, environment = _run(tree)
    started = time.perf_counter()
    subprocess.run([*BIOMASS, "--help"], check=True, capture_output=True, cwd=cwd, env=environment)
    return {"seconds of biomass --help": time.perf_counter() - started}


def require_own_code(tree: Path) -> None:
    cwd, environment = _run(tree)
    command = [sys.executable, "-c", "import orchestration; print(orchestration.__file__)"]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd, env=environment).stdout
    if not Path(found.strip()).is_relative_to(tree):
        raise SystemExit(f"the packages of {tree} must be imported, got {found.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    if not (folder / "data" / "train.csv").exists():
        make_pasture(folder / "data", test_images=1)
    trees = {"this version": ROOT}
    if asked.against is not None:
        trees["other version"] = asked.against.absolute()
    for tree in trees.values():
        require_own_code(tree)
    measures: tuple[Callable[[Path], Row], ...] = (help_page, partial(first_fold, folder), partial(tiny_demo, folder))
    for measure in measures:
        rows: dict[str, list[Row]] = {name: [] for name in trees}
        for _ in range(asked.repeats):
            for name, tree in trees.items():
                rows[name].append(measure(tree))
        for what in next(iter(rows.values()))[0]:
            found = {name: [row[what] for row in runs] for name, runs in rows.items()}
            texts = [f"{name} {_median(values)}" for name, values in found.items()]
            print(f"{what:<46} {'   '.join(texts)}", flush=True)


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
