"""Runs each check in a process of its own, within its share of the time, and writes the report. Torch-free."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_checks.budget import Budget
from gpu_checks.drawn import draw, result_of
from gpu_checks.records import FAILED, NEEDS_GPU, PASSED, SKIPPED, Findings, Outcome, Report, Skip, markdown
from gpu_checks.registry import CHECKS, Check

from biomass_models.whole_files import write_whole

ENTRY = Path(__file__).parents[1] / "check_gpu.py"
TOTAL = 460.0  # seconds of all checks; the rest of 8 minutes is for starting, ending and writing
GRACE = 4.0  # seconds between a polite end and a certain one
LONGEST = 400  # characters of a reason
NO_GPU = "make gpu needs an NVIDIA GPU that torch can use, and there is none here; nothing was started."


def main(arguments: Sequence[str], about: str | None) -> int:
    """Exit code: 0, 1 where a check failed, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/gpu"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="rehearse: small networks, few repeats")
    parser.add_argument("--only", nargs="+", choices=tuple(CHECKS), default=tuple(CHECKS), metavar="CHECK")
    parser.add_argument("--seconds", type=float, default=TOTAL, help=f"of all checks, by default {TOTAL:g}")
    parser.add_argument("--one", choices=tuple(CHECKS), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.one:
        return run_here(CHECKS[asked.one], asked.folder, asked.device, asked.tiny)
    if asked.device == "cuda" and not has_gpu():
        print(NO_GPU, file=sys.stderr)
        return 2
    report = run_all(asked.folder, asked.device, asked.tiny, asked.only, asked.seconds)
    print(markdown(report), end="")
    return 1 if report.failed else 0


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def run_all(folder: Path, device: str, tiny: bool, names: Sequence[str], seconds: float) -> Report:
    """The checks of these names in turn; writes gpu.md, gpu.json and logs/ into the folder."""
    started = time.monotonic()
    chosen = [check for check in CHECKS.values() if check.name in names]
    budget = Budget(seconds, {check.name: check.share for check in chosen if device == "cuda" or not check.needs_gpu})
    logs, outcomes, facts = folder / "logs", [], machine(device)
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-checks-") as work:
        draw(Path(work), tiny)
        for check in chosen:
            if check.needs_gpu and device != "cuda":
                outcomes.append(Outcome(name=check.name, title=check.title, status=SKIPPED, reason=NEEDS_GPU))
                continue
            how = ["--one", check.name, "--device", device, *(["--tiny"] if tiny else [])]
            result, limit = result_of(Path(work), check.name), budget.begin(check.name)
            outcome = run_apart(
                check, [sys.executable, str(ENTRY), work, *how], result, logs / f"{check.name}.log", limit
            )
            outcomes.append(outcome)
            print(f"{check.name}: {outcome.status}, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
    report = Report(
        machine=facts,
        tiny=tiny,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        outcomes=tuple(outcomes),
    )
    write_whole(folder / "gpu.json", json.dumps(report.to_json(), indent=1).encode())
    write_whole(folder / "gpu.md", markdown(report).encode())
    return report


def run_here(check: Check, folder: Path, device: str, tiny: bool) -> int:
    """One check in this process; its outcome goes to a file of the work folder."""

    def work(found: Findings) -> None:
        from gpu_checks.world import World

        check.load()(World(folder, device, tiny), found)

    outcome, result = outcome_of(check, work), result_of(folder, check.name)
    result.parent.mkdir(exist_ok=True)
    write_whole(result, json.dumps(outcome.to_json()).encode())
    return int(outcome.status == FAILED)


def outcome_of(check: Check, work: Callable[[Findings], None]) -> Outcome:
    """How a check ends; an exception fails it, and its traceback goes to stderr. What it found until then stays."""
    found, started = Findings(), time.monotonic()
    status, reasons = PASSED, found.unmet
    try:
        work(found)
    except Skip as why:
        status, reasons = SKIPPED, [str(why)]
    except Exception as error:  # whatever a check meets is its outcome
        traceback.print_exc()
        status, reasons = FAILED, [*found.unmet, f"{type(error).__name__}: {error}"]
    if status == PASSED and reasons:
        status = FAILED
    return Outcome(
        name=check.name,
        title=check.title,
        status=status,
        reason=_short("; ".join(reasons)) if reasons else None,
        numbers=tuple(found.numbers),
        notes=tuple(found.notes),
        seconds=time.monotonic() - started,
    )


def run_apart(check: Check, command: Sequence[str], result: Path, log: Path, limit: float) -> Outcome:
    """The outcome that a process leaves in `result`, or how it ended without one; `limit` seconds at most."""
    started, in_time = time.monotonic(), True
    with log.open("w") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            _end(process)
    about: dict[str, Any] = {"name": check.name, "title": check.title, "limit": limit}
    about["seconds"] = time.monotonic() - started
    if result.exists():
        return Outcome.from_json({**json.loads(result.read_text()), **about})
    if not in_time:
        return Outcome(**about, status=FAILED, reason=f"it took longer than its {limit:.3g} s and was ended")
    last = (log.read_text(errors="replace").strip().splitlines() or ["nothing was printed"])[-1]
    return Outcome(**about, status=FAILED, reason=_short(f"it crashed with exit code {process.returncode}: {last}"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process, and all that it has started and left."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)


def machine(device: str) -> Mapping[str, Any]:
    """Card, driver, packages. No CUDA context is made in this process: its memory is the checks'."""
    facts: dict[str, Any] = {"card": f"no card ({platform.machine()})"}
    if device == "cuda":
        of_torch = (
            "import torch; card = torch.cuda.get_device_properties(0); print(card.name, card.total_memory, sep=';')"
        )
        name, _, memory = _first_line([sys.executable, "-c", of_torch]).partition(";")
        facts = {
            "card": name or "a card without a name",
            "memory": f"{int(memory) / 2**30:.0f} GiB" if memory else None,
            "driver": _first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]) or "unknown",
        }
    return {**facts, **{name: version(name) for name in ("torch", "timm", "ray")}, "python": platform.python_version()}


def _first_line(command: Sequence[str]) -> str:
    """What a command prints first; nothing where it fails."""
    with suppress(OSError, subprocess.SubprocessError):
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        return printed.partition("\n")[0].strip()
    return ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
