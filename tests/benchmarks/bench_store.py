"""Filling a bank of features: product against decoding and encoding alone, and against another version, in one run.

    python tests/benchmarks/bench_store.py FOLDER [--against WORKTREE] [--photographs 357] [--repeats 5]
    python tests/benchmarks/bench_store.py FOLDER --index 1000000

Frozen tf_efficientnet_lite0 at 224 px, 2 turns, a generated pasture of 1000 x 500 px; one process, and two that share
the work. WORKTREE: a checkout of the version to compare with (its packages are imported instead of these). Each way
starts from an empty cache; the ways take turns. Ratios are of medians; the range is that of the runs.

--index: a bank of so many made-up photographs in chunks of 1000, and how long 357 of them take to be found by a process
that sees the bank for the first time, and by the same one again: CPU seconds, and the memory that it keeps.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_coordinators import private_mb

from biomass_models.features.chunks import write_chunk
from biomass_models.features.store import FeatureStore
from biomass_models.hashes import hash_of
from biomass_models.pasture.make import make_pasture

ROOT = Path(__file__).parents[2]
ROWS = 1000  # of a made-up chunk
FILL = """
import sys, time
from dataclasses import replace
from pathlib import Path
from biomass_models.features.spec import FeatureSpec
from biomass_models.data.images import views_for
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.data.table import read_train
from biomass_models.backbones.weights import WeightsSource
data, cache, alone = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "alone"
inputs = Inputs(ImageSet.from_table(data, read_train(data)), cache_dir=cache, weights=WeightsSource(kind="auto"))
spec = FeatureSpec(backbone="tf_efficientnet_lite0", views=views_for("whole", 224), flips=2)
backbone = inputs.backbone(spec.backbone)
started = time.time()
if alone:
    from biomass_models.features.encoding import batch_size, encode
    from biomass_models.features.spec import needed_arrays
    paths, digests, size = inputs.images.paths, inputs.images.digests, batch_size(spec.views, inputs.device)
    for _ in encode(backbone, spec, paths, digests, needed_arrays(spec), inputs.device, size):
        pass
else:
    inputs.backbone = lambda name: backbone
    inputs.features(spec)
print(started, time.time())
"""


def seconds(data: Path, cache: Path, tree: Path, processes: int, alone: bool = False) -> float:
    """From the first process that begins to the last that ends, imports and weights apart."""
    shutil.rmtree(cache, ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FILL, str(data), str(cache), "alone" if alone else "store"]
    running = [
        subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    times = [[float(word) for word in process.communicate()[0].split()] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process failed")
    return max(end for _, end in times) - min(start for start, _ in times)


def look_up(folder: Path, entries: int) -> None:
    bank, description = folder / "index", {"made": "up", "entries": entries}
    place = bank / hash_of(description) / "study"
    if not place.exists():
        place.mkdir(parents=True)
        for first in range(0, entries, ROWS):
            own = [_digest(row) for row in range(first, min(first + ROWS, entries))]
            name = write_chunk(place / "new", own, [{"global": np.zeros((len(own), 1), dtype=np.float32)}])
            (place / "new").rename(place / name)
    wanted = [_digest(row) for row in np.random.default_rng(0).choice(entries, 357, replace=False).tolist()]
    store, before = FeatureStore(bank), private_mb()
    for which in ("first", "second", "third"):
        started = time.process_time()
        store.bank(description, ["global"], wanted, no_work)
        took, kept = time.process_time() - started, private_mb() - before
        print(f"{entries} entries, {which} look-up of 357: {took:.2f} CPU s, {kept:.0f} MB kept", flush=True)


def _digest(row: int) -> str:
    return hashlib.sha256(f"photograph {row}".encode()).hexdigest()


def no_work(rows: Sequence[int], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    raise AssertionError(f"every photograph is there, {len(rows)} were to be computed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--photographs", type=int, default=357)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--index", type=int)
    asked = parser.parse_args()
    if asked.index is not None:
        look_up(asked.folder.absolute(), asked.index)
        return
    data, cache = asked.folder.absolute() / "data", asked.folder.absolute() / "cache"
    if not (data / "train.csv").exists():
        make_pasture(data, images=asked.photographs, test_images=1)
    ways = {
        "decoding and encoding alone": (ROOT, 1, True),
        "store, 1 process": (ROOT, 1, False),
        "store, 2 processes": (ROOT, 2, False),
    }
    if asked.against is not None:
        ways["other version, 1 process"] = (asked.against.absolute(), 1, False)
        ways["other version, 2 processes"] = (asked.against.absolute(), 2, False)
    took: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(asked.repeats):
        for way, (tree, processes, alone) in ways.items():
            took[way].append(seconds(data, cache, tree, processes, alone))
    medians = {way: statistics.median(runs) for way, runs in took.items()}
    for way, runs in took.items():
        ratio = medians[way] / medians["decoding and encoding alone"]
        print(f"{way:<28} {medians[way]:6.2f} s ({min(runs):.2f} to {max(runs):.2f})  {ratio:.2f} x alone")
    if asked.against is not None:
        for count in ("1 process", "2 processes"):
            ratio = medians[f"other version, {count}"] / medians[f"store, {count}"]
            print(f"throughput against the other version, {count}: {ratio:.2f} x")


if __name__ == "__main__":
    main()
