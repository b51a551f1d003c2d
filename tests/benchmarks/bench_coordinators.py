"""Private memory and CPU of what a coordinator imports: `python tests/benchmarks/bench_coordinators.py`

A coordinator is a process of Ray's on the head. It comes up by importing Ray Tune and what runs a trial; afterwards it
waits. Each line is what had been imported by then. Linux, from /proc.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path

STEPS = ("ray", "ray.tune", "orchestration.search.on_ray.coordinator")


def private_mb() -> float:
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    sizes = {words[0]: int(words[1]) for words in lines}
    return (sizes["Private_Clean:"] + sizes["Private_Dirty:"]) / 1024


def main() -> None:
    print("| imported | private memory, MB | CPU s |\n|---|---|---|")
    for step in STEPS:
        importlib.import_module(step)
        print(f"| {step} | {private_mb():.0f} | {time.process_time():.2f} |", flush=True)


if __name__ == "__main__":
    main()
