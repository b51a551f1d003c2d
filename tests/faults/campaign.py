"""Fault campaign: searches whose driver, worker or raylet is killed with SIGKILL at a random moment, then an audit.

    python tests/faults/campaign.py [FOLDER] [--studies 4] [--kills 5] [--seed 0]

Each study is searched `kills` times in a row, each time with more trials and one kill, and then once in peace. A fold
that was finished before a kill must be there afterwards byte for byte; at the end `biomass audit` must pass and two
trials, fitted again from trial.json, must give the same out-of-fold rows bit for bit. Exits 1 when anything differs.
`make faults` runs 20 kills (about 20 minutes on 2 free cores); the test suite runs a short form.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from biomass_models.pasture import make_pasture
from orchestration.ledger import Ledger
from orchestration.storage import Storage

ROOT = Path(__file__).parents[2]
KINDS = ("driver", "worker", "raylet")
FOLDS = 4
NEW_TRIALS = 25  # of each search: seconds of work, so that the kill comes in the middle of it
KILL_WITHIN = 3.0  # seconds after the first fold of a search has begun
PATIENCE = 600.0  # seconds for anything that must happen, on a machine that others use as well
SEARCH = ["--backbone", "test_vit", "--weights", "random", "--scale", "smoke", "--slots", "2", "--folds", str(FOLDS)]
Marks = dict[tuple[str, int], bytes]


class CampaignError(AssertionError):
    """Something was lost, repeated or left behind."""


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
        for study in range(options.studies):
            rng = random.Random(f"{options.seed}/{study}")
            kinds = [rng.choice(KINDS) for _ in range(options.kills)]
            try:
                campaign(folder, f"study-{options.seed}-{study}", kinds, rng, print)
            except CampaignError as error:
                failed += 1
                print(f"study {study}: FAILED: {error}", flush=True)
    print(f"{options.studies * options.kills} kills on {options.studies} studies, {failed} studies failed")
    raise SystemExit(failed > 0)


def make_data(folder: Path) -> None:
    if not (folder / "data").exists():
        make_pasture(folder / "data", images=48, test_images=2, seed=1, width=320, height=160, workers=1)


def campaign(folder: Path, name: str, kinds: list[str], rng: random.Random, say: Callable[[str], None]) -> None:
    """One study: a kill of each kind in a row, a search in peace, an audit with refits. Raises CampaignError."""
    ledger = Ledger(Storage(folder / name))
    trials, finished = 0, Marks()
    for number, kind in enumerate(kinds):
        trials += NEW_TRIALS
        before = time.monotonic()
        at = disturbed_search(folder, ledger, trials, [kind], rng)
        check_kept(ledger, finished)
        finished = marks(ledger)
        took = time.monotonic() - before
        say(f"{name} kill {number + 1}: {kind} {at}; {len(finished)} folds are finished, {took:.0f} s")
    peaceful = start_search(folder, ledger, trials)
    wait_for(lambda: peaceful.poll() is not None, "the search in peace did not end")
    text = (folder / f"{name}.log").read_text()[-2000:]
    if peaceful.returncode != 0:
        raise CampaignError(f"the search in peace ended with {peaceful.returncode}: {text}")
    check_kept(ledger, finished)
    say(f"{name}: {audited(folder, name)}")


def disturbed_search(
    folder: Path, ledger: Ledger, trials: int, kinds: list[str], rng: random.Random, within: float = KILL_WITHIN
) -> str:
    """Search until folds run, kill, and see the end of all its processes; says when the kill came."""
    began = time.time()
    driver = start_search(folder, ledger, trials)
    family: set[int] = set()
    try:
        wait_for(lambda: driver.poll() is not None or starts_since(ledger, began) > 0, "no fold began")
        at = rng.uniform(0.0, within)
        for kind in kinds:
            end = time.monotonic() + at
            while time.monotonic() < end and driver.poll() is None:
                time.sleep(0.01)
            family |= descendants(driver.pid)
            if driver.poll() is not None or not kill_one(kind, driver.pid, ledger, began):
                raise CampaignError(f"the search was over before its {kind} could be killed: give it more trials")
        if kinds[-1] == "worker":  # the search goes on, and must come to its end
            wait_for(lambda: driver.poll() is not None, "the search did not survive a dead worker")
        else:
            wait_for(lambda: driver.poll() is not None, f"the driver did not end without its {kinds[-1]}")
        return f"{at:.2f} s after the first fold began"
    finally:
        family |= descendants(driver.pid)
        with contextlib.suppress(ProcessLookupError):
            driver.kill()
        driver.wait()
        end_of(family)


def start_search(folder: Path, ledger: Ledger, trials: int) -> subprocess.Popen[bytes]:
    name = Path(ledger.storage.uri).name
    command = [
        sys.executable,
        "-m",
        "orchestration",
        "search",
        name,
        "--data",
        "data",
        "--trials",
        str(trials),
        *SEARCH,
    ]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=log, stderr=log)


def audited(folder: Path, name: str) -> str:
    """The audit's own words; CampaignError when it does not pass."""
    command = [sys.executable, "-m", "orchestration", "audit", name, "--data", "data", "--refit", "2"]
    result = subprocess.run(
        [*command, "--weights", "random"], cwd=folder, env=environment(folder), capture_output=True, text=True
    )
    if result.returncode != 0:
        raise CampaignError(result.stdout + result.stderr)
    return result.stdout.replace("\n", "; ")


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "BIOMASS_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def marks(ledger: Ledger) -> Marks:
    """The marker of every finished fold, as bytes."""
    return {
        (trial.trial_id, fold): ledger.storage.read(f"trials/{trial.trial_id}/fold-{fold}/metrics.json")
        for trial in ledger.trials()
        for fold in range(FOLDS)
        if ledger.fold_metrics(trial.trial_id, fold) is not None
    }


def check_kept(ledger: Ledger, before: Marks) -> None:
    now = marks(ledger)
    lost = [fold for fold in before if fold not in now]
    changed = [fold for fold in before if fold in now and now[fold] != before[fold]]
    if lost or changed:
        raise CampaignError(f"finished folds were lost {lost} or computed again {changed}")


def starts_since(ledger: Ledger, when: float) -> int:
    return sum(start.started_at >= when for start in starts_of(ledger))


def starts_of(ledger: Ledger) -> list[dict[str, float]]:
    return [
        start
        for trial in ledger.storage.children("trials")
        for fold in range(FOLDS)
        for start in ledger.fold_starts(trial, fold)
    ]


def kill_one(kind: str, driver: int, ledger: Ledger, began: float) -> bool:
    """SIGKILL one process of this search; False when there is none of the kind."""
    family = descendants(driver)
    if kind == "driver":
        victims = [driver]
    elif kind == "raylet":
        victims = [pid for pid in family if "raylet/raylet" in command_of(pid).split(" ")[0]]
    else:
        workers = {int(start.pid) for start in starts_of(ledger) if start.started_at >= began}
        victims = [pid for pid in family if pid in workers]
    for pid in victims[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(victims)


def descendants(pid: int) -> set[int]:
    """Processes that a process started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found, look = set[int](), [pid]
    while look:
        children = parents.get(look.pop(), [])
        found |= set(children)
        look += children
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def end_of(family: set[int]) -> None:
    """Ray takes its processes down within seconds; what is still there then would disturb the next run."""
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in family:
        if alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process of Ray or ours still has this id (ids are used again)."""
    command = command_of(pid)
    return "ray" in command or "orchestration" in command


def wait_for(true: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise CampaignError(f"{otherwise} within {PATIENCE:.0f} s")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
