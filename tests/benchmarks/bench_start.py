"""Seconds from typing `biomass search` to the first fold at work, and of `biomass --help`; medians of three.

    python tests/benchmarks/bench_start.py FOLDER

A generated pasture of 357 photographs, two families, 2 slots; each search is a new study, stopped (Ctrl-C) once its
first fold has begun.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from biomass_models.pasture.make import make_pasture

REPEATS = 3
BIOMASS = [sys.executable, "-m", "orchestration"]


def first_fold(folder: Path) -> float:
    """Seconds until the first fold of a new study has begun."""
    study = folder / "study"
    shutil.rmtree(study, ignore_errors=True)
    options = ["--data", str(folder / "data"), "--backbone", "tf_efficientnet_lite0", "--cache", str(folder / "cache")]
    families = ["--family", "baseline", "--family", "probe", "--trials", "4", "--slots", "2", "--scale", "demo"]
    started = time.perf_counter()
    search = subprocess.Popen([*BIOMASS, "search", str(study), *options, *families], stderr=subprocess.DEVNULL)
    while not any(study.glob("trials/*/fold-*/start-*.json")):
        if search.poll() is not None:
            raise SystemExit(f"the search ended with {search.returncode} before its first fold")
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    search.send_signal(signal.SIGINT)
    search.wait()
    return seconds


def help_page() -> float:
    started = time.perf_counter()
    subprocess.run([*BIOMASS, "--help"], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not (folder / "data" / "train.csv").exists():
        make_pasture(folder / "data", test_images=1)
    for what, measure in (("biomass --help", help_page), ("to the first fold", lambda: first_fold(folder))):
        seconds = [measure() for _ in range(REPEATS)]
        print(f"{what}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})", flush=True)


if __name__ == "__main__":
    main()
