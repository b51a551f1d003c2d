"""Fault campaign: searches and blends whose driver, worker or raylet is killed with SIGKILL, then an audit.

    python tests/faults/campaign.py [FOLDER] [--studies 4] [--kills 5] [--seed 0]

Each study is disturbed `kills` times in a row and finished in peace. A kill comes at a random moment of a phase: while
features are filled (a bank has 4 spans; one bank is of a partly trained backbone; each such search starts from an empty
store), while a fold is committed, while a blend predicts, or at any time. What was finished before a kill must be there
afterwards byte for byte; at the end `biomass audit` must pass, three trials fitted again on features made afresh must
give the same out-of-fold rows bit for bit, and every chunk of every store must have the bytes that were written. Exits
1 when anything differs. `make faults` runs 20 kills; the test suite runs a short form.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drive import FOLDS
from processes import CampaignError, alive, command_of, descendants, end_of, kill, raylets, wait_for

from biomass_models.features.store import damaged_chunks
from biomass_models.pasture.make import make_pasture
from orchestration.study.ledger import Ledger
from orchestration.study.records import FoldStart
from orchestration.study.storage import Storage

ROOT = Path(__file__).parents[2]
KINDS = ("driver", "worker", "raylet")
PHASES = ("fill", "commit", "predict", "any")
IMAGES, TEST_IMAGES = 150, 60  # spans of a bank: 4 and 2
NEW_TRIALS = 21  # of each search: seconds of work, so that the kill comes in the middle of it
WITHIN = {"fill": 0.5, "commit": 0.0, "predict": 0.5, "any": 3.0}  # seconds after the phase has begun
Marks = dict[str, bytes]  # path of a marker -> its content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        make_data(folder)
        failed = 0
        plan = kills_of(options.seed, options.studies * options.kills)
        for number in range(options.studies):
            rng = random.Random(f"{options.seed}/{number}")
            study = Study(folder, f"study-{options.seed}-{number}", print)
            try:
                for kind, phase in (next(plan) for _ in range(options.kills)):
                    study.disturb(kind, phase, rng)
                study.finish()
            except CampaignError as error:
                failed += 1
                print(f"study {number}: FAILED: {error}", flush=True)
    print(f"{options.studies * options.kills} kills on {options.studies} studies, {failed} studies failed")
    raise SystemExit(failed > 0)


def kills_of(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """(kind, phase) of each kill: every pair before any comes twice, in a random order."""
    pairs = [(kind, phase) for phase in PHASES for kind in KINDS]
    random.Random(seed).shuffle(pairs)
    return (pairs[number % len(pairs)] for number in range(count))


def make_data(folder: Path, images: int = IMAGES) -> None:
    if not (folder / "data").exists():
        make_pasture(folder / "data", images=images, test_images=TEST_IMAGES, seed=1, width=320, height=160, workers=1)


@dataclass
class Disturbance:
    """One kill in one phase: when it may come, and whom it hits."""

    began: Callable[[], bool]  # whether the phase is under way
    workers: Callable[[], set[int]]  # processes that work in it


class Study:
    """One study of the campaign, its processes and its feature stores."""

    def __init__(self, folder: Path, name: str, say: Callable[[str], None]) -> None:
        self.folder, self.name, self._say = folder, name, say
        self.ledger = Ledger(Storage(folder / name))
        self.trials, self.kills, self.stores = 0, 0, 1
        self.finished: Marks = {}

    @property
    def store(self) -> Path:
        """Feature store of the next process; a kill while features are filled starts a new one."""
        return self.folder / f"{self.name}-store-{self.stores}"

    # -- what a campaign does --------------------------------------------------------------------------------------

    def disturb(self, kind: str, phase: str, rng: random.Random) -> None:
        """A search or a blend with one kill. Raises CampaignError."""
        before = time.monotonic()
        if phase == "predict":
            self.search_in_peace()  # a search that was killed early may leave no member that beats the mean
        if phase == "fill":
            self.stores += 1
        if phase == "predict":
            at = self._disturbed(self.start_blend(), kind, self._predicting(), rng.uniform(0.0, WITHIN[phase]))
        else:
            self.trials += NEW_TRIALS
            begin = {"fill": self._filling, "commit": self._committing, "any": self._folding}[phase]
            disturbance = begin(time.time())
            at = self._disturbed(self.start_search(), kind, disturbance, rng.uniform(0.0, WITHIN[phase]))
        self.check_kept()
        self.kills += 1
        took = time.monotonic() - before
        self._say(f"{self.name} kill {self.kills}: {kind}, {phase}, {at}; {len(self.finished)} finished, {took:.0f} s")

    def kill_all_while_filling(self, delay: float) -> bool:
        """A search all of whose processes die so many seconds after one has begun to fill the present store.

        False when nothing was left to fill, and it came to its end.
        """
        driver, phase = self.start_search(), self._filling(time.time())
        family: set[int] = set()
        try:
            wait_for(lambda: driver.poll() is not None or phase.began(), "nothing was filled", 0.005)
            time.sleep(delay)
            family |= descendants(driver.pid)
            for victim in (driver.pid, *family):
                kill(victim)
            return driver.wait() != 0
        finally:
            kill(driver.pid)
            end_of(family)
            self.check_kept()

    def search_in_peace(self) -> None:
        """Search to the end of what was asked for."""
        self.trials = self.trials or NEW_TRIALS
        self._peaceful(self.start_search(), "the search in peace")
        self.check_kept()

    def finish(self) -> None:
        """The end of a study: search and blend in peace, the same submission twice, an audit with refits."""
        self.search_in_peace()
        self._peaceful(self.start_blend(), "the blend in peace")
        first = (self.folder / f"{self.name}.csv").read_bytes()
        self._peaceful(self.start_blend(self.folder / f"{self.name}-undisturbed-store"), "the blend on fresh features")
        if (self.folder / f"{self.name}.csv").read_bytes() != first:
            raise CampaignError("the blend's submission is not the one that fresh features give")
        damaged = [problem for store in self.folder.glob(f"{self.name}-*store*") for problem in damaged_chunks(store)]
        if damaged:
            raise CampaignError("; ".join(damaged))
        self._say(f"{self.name}: {self.audited(refits=3)}")

    def audited(self, refits: int) -> str:
        """The audit's own words; CampaignError when it does not pass."""
        result = subprocess.run(
            self._biomass("audit", self.name, "--data", "data", "--refit", str(refits)),
            cwd=self.folder,
            env=self._environment(self.store),
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            raise CampaignError(result.stdout + result.stderr)
        return result.stdout.replace("\n", "; ")

    def check_kept(self) -> None:
        """Everything that was finished is there, byte for byte."""
        now = self.marks()
        lost = [path for path in self.finished if path not in now]
        changed = [path for path in self.finished if path in now and now[path] != self.finished[path]]
        if lost or changed:
            raise CampaignError(f"finished folds were lost {lost} or computed again {changed}")
        self.finished = now

    def marks(self) -> Marks:
        """The marker of every finished fold and trial."""
        root = Path(self.ledger.storage.uri)
        found = [*root.glob("trials/*/fold-*/metrics.json"), *root.glob("trials/*/result.json")]
        return {str(path.relative_to(root)): path.read_bytes() for path in found}

    # -- processes -------------------------------------------------------------------------------------------------

    def start_search(self) -> subprocess.Popen[bytes]:
        drive = Path(__file__).with_name("drive.py")
        return self._start([sys.executable, str(drive), self.name, str(self.trials)], self.store)

    def start_blend(self, store: Path | None = None) -> subprocess.Popen[bytes]:
        """`biomass ensemble`, which predicts the test images anew."""
        for predicted in Path(self.ledger.storage.uri).glob("ensembles/test-*"):
            shutil.rmtree(predicted)  # so that they are made again
        out = ("--data", "data", "--out", f"{self.name}.csv")
        return self._start(self._biomass("ensemble", self.name, *out), store or self.store)

    def _biomass(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "orchestration", *words]

    def _start(self, command: list[str], store: Path) -> subprocess.Popen[bytes]:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=self._environment(store), stdout=log, stderr=log)

    def _environment(self, store: Path) -> dict[str, str]:
        return {**os.environ, "BIOMASS_CACHE": str(store), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def _peaceful(self, process: subprocess.Popen[bytes], what: str) -> None:
        wait_for(lambda: process.poll() is not None, f"{what} did not end")
        if process.returncode != 0:
            text = (self.folder / f"{self.name}.log").read_text()[-2000:]
            raise CampaignError(f"{what} ended with {process.returncode}: {text}")

    def _disturbed(self, driver: subprocess.Popen[bytes], kind: str, phase: Disturbance, delay: float) -> str:
        """Kill in a phase and see the end of all the driver's processes; returns when the kill came."""
        family: set[int] = set()
        try:
            every = 0.002 if delay == 0.0 else 0.005  # a fold is committed within milliseconds
            wait_for(lambda: driver.poll() is not None or phase.began(), "its phase did not begin", every)
            end = time.monotonic() + delay
            while time.monotonic() < end and driver.poll() is None:
                time.sleep(0.005)
            workers = phase.workers()
            family |= descendants(driver.pid)
            victims = {"driver": [driver.pid], "worker": sorted(family & workers), "raylet": raylets(family)}[kind]
            if driver.poll() is not None:
                raise CampaignError(f"it was over before its {kind} could be killed: give it more to do")
            for victim in (victims or [driver.pid])[:1]:  # whose work was over meanwhile: the driver instead
                kill(victim)
            otherwise = "did not survive a dead worker" if kind == "worker" else f"did not end without its {kind}"
            wait_for(lambda: driver.poll() is not None, otherwise)
            return f"{delay:.2f} s into it"
        finally:
            family |= descendants(driver.pid)
            with contextlib.suppress(ProcessLookupError):
                driver.kill()
            driver.wait()
            end_of(family)

    # -- phases ----------------------------------------------------------------------------------------------------

    def _filling(self, _since: float) -> Disturbance:
        def claimants() -> set[int]:
            pids = {int(path.name.split("-")[0]) for path in self.store.glob("*/claims/*.json")}
            return {pid for pid in pids if alive(pid)}  # the dead leave their claims

        return Disturbance(began=lambda: bool(claimants()), workers=claimants)

    def _predicting(self) -> Disturbance:
        def began() -> bool:
            return any(Path(self.ledger.storage.uri).glob("ensembles/test-*/shards/*/*"))

        return Disturbance(began=began, workers=self._pool_workers)

    def _folding(self, since: float) -> Disturbance:
        def workers() -> set[int]:
            return {start.pid for start in self._starts() if start.started_at >= since}

        return Disturbance(began=lambda: bool(workers()), workers=workers)

    def _committing(self, since: float) -> Disturbance:
        """A fold's files are being written: some are there and its marker is not."""
        root = Path(self.ledger.storage.uri)
        found: set[int] = set()

        def began() -> bool:
            for rows in root.glob("trials/*/fold-*/oof.parquet"):
                if rows.stat().st_mtime >= since and not rows.with_name("metrics.json").exists():
                    found.update(int(path.stem.split("-")[2]) for path in rows.parent.glob("start-*.json"))
                    return True
            return False

        return Disturbance(began=began, workers=lambda: found)

    def _starts(self) -> Iterator[FoldStart]:
        for trial in self.ledger.storage.children("trials"):
            for fold in range(FOLDS):
                yield from self.ledger.fold_starts(trial, fold)

    def _pool_workers(self) -> set[int]:
        return {pid for pid in descendants(os.getpid()) if "SlotWorker" in command_of(pid)}


if __name__ == "__main__":
    main()
