"""What one fold cost: wall, CPU and GPU seconds, peak memory; and what one will cost on this slot."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from biomass_models.families import registry
from biomass_models.families.configs import config_from_params
from biomass_models.families.costs import all_feature_seconds, measure
from biomass_models.interrupt import ShouldStop
from orchestration.workers.jobs import CountJob, MeasureJob, Outcome


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one piece of work. Times are seconds since 1970, memory is in MiB."""

    started_at: float
    finished_at: float
    seconds: float
    cpu_seconds: float
    gpu_seconds: float
    peak_memory_mb: float
    peak_gpu_memory_mb: float
    host: str
    pid: int


class Meter:
    """Measures from its making to `read`. A worker is warm, so the peaks of earlier folds are forgotten first."""

    def __init__(self, gpus: float) -> None:
        """gpus: the slot's GPUs, 1, a fraction or 0."""
        self._gpus = gpus
        self._started, self._clock, self._cpu = time.time(), time.monotonic(), time.process_time()
        with contextlib.suppress(OSError):  # Linux: 5 resets the peak of the resident memory
            Path("/proc/self/clear_refs").write_text("5")
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> Cost:
        """Costs so far."""
        seconds = time.monotonic() - self._clock
        return Cost(
            started_at=self._started,
            finished_at=time.time(),
            seconds=seconds,
            cpu_seconds=time.process_time() - self._cpu,
            gpu_seconds=seconds * self._gpus,
            peak_memory_mb=_peak_memory_mb(),
            peak_gpu_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else 0.0,
            host=socket.gethostname(),
            pid=os.getpid(),
        )


def _peak_memory_mb() -> float:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux: the peak of the process's whole life, in bytes on a Mac
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
    peak_line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak_line.split()[1]) / 1024


def measured_slot(job: MeasureJob, device: str, should_stop: ShouldStop | None = None) -> Outcome:
    """What this process does, timed now. Raises StopRequested."""
    speed = measure(job.backbones, device, should_stop)
    banks = []
    for one in job.banks:
        specs = registry.model(one.family).feature_specs(config_from_params(one.family, one.config))
        banks.append(all_feature_seconds(specs, job.images, device))
    return Outcome(status="done", speed=speed, bank_seconds=tuple(banks))


def counted_fold(job: CountJob) -> Outcome:
    """What a fold of a configuration takes on a slot of that speed."""
    config = config_from_params(job.of.family, job.of.config)
    seconds = registry.model(job.of.family).fold_seconds(config, job.n_train, job.speed)
    return Outcome(status="done", seconds=seconds)
