"""`biomass predict`: photographs a second against decoding and encoding alone, and memory from 1000 to 10 000 files.

    python tests/benchmarks/bench_predict.py FOLDER [--scale demo] [--repeats 3] [--files 1000 10000]

Speed: a blend of probes on frozen tf_efficientnet_lite0 at 224 px (--scale smoke, which only tests search: at 64); a
generated pasture of 1000 x 500 px, one thread and two; the two ways take turns, each in a process of its own with an
empty cache, weights loaded beforehand. Memory: peak of a process that predicts so many files of 160 x 80 px with a
tiny backbone, each distinct by a trailing comment, so that no feature is in the cache. The overhead is to be 10 % at
most.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from biomass_models.pasture.make import make_pasture

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/orchestration"))
from blended_study import finished_study  # noqa: E402
from test_all_rows import as_searched  # noqa: E402

BACKBONE = "tf_efficientnet_lite0"
RUN = """
import json, sys, time
from pathlib import Path
from biomass_models.backbones.devices import threads
from orchestration.answers.opened import BlendPlace, open_blend
from orchestration.answers.photographs import PATH, read_photographs
from orchestration.answers.predict import in_this_process, run_prediction
from orchestration.answers.table import TableOptions
from orchestration.answers.units import conversion
from biomass_models.backbones.adapter import build_backbone
study, photographs, cache, way, cores = sys.argv[1:4] + [sys.argv[4], int(sys.argv[5])]
blend = open_blend(BlendPlace(study, None, None))
given = read_photographs([photographs])
member_specs = []
from biomass_models.families import registry
from biomass_models.families.introduced import config_from_stored
for member in blend.members:
    member_specs += registry.model(member.family).feature_specs(config_from_stored(member.family, member.config))
for spec in member_specs:
    blend.frozen.setdefault(spec.backbone, build_backbone(spec.backbone, blend.source))
started = time.monotonic()
if way == "alone":
    import torch
    from dataclasses import replace
    from functools import partial
    from biomass_models.backbones.adapter import weightless
    from biomass_models.data.images import DecodeOnce, file_digest
    from biomass_models.features.encoding import batch_size, encode
    from biomass_models.features.spec import fitted, needed_arrays
    from orchestration.workers.shards import spans
    device = torch.device("cpu")
    with threads(cores):
        for first, last in spans(len(given)):
            load = partial(DecodeOnce(), fit=blend.members[0].fit)
            paths = [Path(path) for path in given[PATH][first:last]]
            digests = [file_digest(path) for path in paths]
            for spec in dict.fromkeys(member_specs):
                sized = replace(spec, views=fitted(spec.views, weightless(spec.backbone))[0])
                size = batch_size(sized.views, device)
                for _ in encode(
                    blend.frozen[spec.backbone], sized, paths, digests, needed_arrays(sized), device, size, load
                ):
                    pass
else:
    run_prediction(
        blend, given, Path(cache) / "masses.csv", conversion(blend.mass_unit, None, None, given), TableOptions(),
        work=in_this_process(blend, cache=Path(cache), cores=cores), made_with={}, say=lambda text: None,
    )
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps([time.monotonic() - started, int(peak.split()[1]) / 1024]))
"""


def biomass(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "orchestration", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def blended(folder: Path) -> Path:
    """The study in a folder, blended with the pasture beside it."""
    own = ("--data", str(folder / "data"), "--cache", str(folder / "cache"), "--inline")
    biomass("ensemble", str(folder / "study"), *own, "--out", str(folder / "submission.csv"))
    return folder / "study"


def searched(folder: Path, photographs: int, scale: str) -> Path:
    """A study of probes on a pasture whose test photographs are to be predicted."""
    if not (folder / "study").exists():
        if not (folder / "data").exists():
            make_pasture(folder / "data", images=60, test_images=photographs, seed=0, width=1000, height=500)
        settings = ("--trials", "2", "--folds", "3", "--family", "probe", "--backbone", BACKBONE, "--scale", scale)
        own = ("--data", str(folder / "data"), "--cache", str(folder / "cache"), "--inline")
        biomass("search", str(folder / "study"), *settings, *own)
    return blended(folder)


def tiny(folder: Path) -> Path:
    """A study of a probe on a tiny backbone, as tests have it: random weights with some truth mixed in."""
    if not (folder / "study").exists():
        make_pasture(folder / "data", images=60, test_images=20, seed=0, width=160, height=80)
        as_searched(finished_study(folder / "study", folder / "data", folder / "cache", ("probe",)), folder / "data")
    return blended(folder)


def timed(study: Path, photographs: Path, cache: Path, way: str, cores: int) -> tuple[float, float]:
    """Seconds, and the peak of memory in MiB."""
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(cores)}
    command = [sys.executable, "-c", RUN, str(study), str(photographs), str(cache), way, str(cores)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds, peak = (float(word) for word in done.stdout.strip().strip("[]").split(","))
    return seconds, peak


def speed(folder: Path, photographs: int, scale: str, repeats: int) -> None:
    study = searched(folder, photographs, scale)
    tests = folder / "data/test"
    print("| threads | photographs/s | decoding and encoding alone | overhead |\n|---|---|---|---|")
    for cores in (1, 2):
        runs = [
            {way: timed(study, tests, folder / "bench-cache", way, cores)[0] for way in ("alone", "predict")}
            for _ in range(repeats)
        ]
        alone, whole = (statistics.median(run[way] for run in runs) for way in ("alone", "predict"))
        each = [run["predict"] / run["alone"] - 1 for run in runs]
        print(
            f"| {cores} | {photographs / whole:.1f} | {photographs / alone:.1f} | {whole / alone - 1:+.1%} "
            f"({min(each):+.1%} to {max(each):+.1%}) |"
        )


def memory(folder: Path, files: list[int]) -> None:
    study = tiny(folder)
    originals = [path.read_bytes() for path in sorted((folder / "data/test").iterdir())]
    print("\n| files | seconds | peak memory, MiB |\n|---|---|---|")
    for count in files:
        many = folder / f"files-{count}"
        many.mkdir(exist_ok=True)
        for number in range(count):
            (many / f"{number:06d}.jpg").write_bytes(originals[number % len(originals)] + b"%d" % number)
        seconds, peak = timed(study, many, folder / "bench-cache", "predict", 1)
        print(f"| {count} | {seconds:.0f} | {peak:.0f} |")
        shutil.rmtree(many)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photographs", type=int, default=240)
    parser.add_argument("--scale", choices=("demo", "smoke"), default="demo")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--files", type=int, nargs="*", default=[1000, 10_000])
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    speed(folder / f"speed-{asked.scale}", asked.photographs, asked.scale, asked.repeats)
    memory(folder / "memory", asked.files)


if __name__ == "__main__":
    main()
